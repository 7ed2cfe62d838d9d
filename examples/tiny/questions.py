"""The held-out questions, and the texts for calibration and verification, that lie beside the model."""

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from corpus import Message, any_turn, chat, messages_of, render
from skills import SKILLS, draw, introduction, name_question
from words import system_prompt

Question = dict[str, str | list[Message]]

COUNTS = {
    "addition": 80,
    "facts": 50,
    "echo": 40,
    "unicode": 40,
    "json": 40,
    "small talk": 20,
    "memory": 50,
    "long prompt": 34,
}
TEXTS = 96


def single(category: str, rng: Random) -> Question:
    """A held-out question of one skill, alone or after up to two other turns, one in three with a system prompt."""
    turns = [any_turn(rng, True) for _ in range(rng.choice((0, 0, 1, 2)))]
    turns.append(draw(SKILLS[category][0], rng, True))
    system = system_prompt(rng, 1) if rng.random() < 0.33 else None
    return as_question(category, messages_of(turns, system))


def memory(category: str, rng: Random, others: int, sentences: int) -> Question:
    """The user tells a held-out name and asks for it after `others` other turns."""
    told = draw(introduction, rng, True)
    name = told.key.removeprefix("name ")
    turns = [told, *(any_turn(rng, True) for _ in range(others)), name_question(name, rng)]
    return as_question(category, messages_of(turns, system_prompt(rng, sentences) if sentences else None))


def long_prompt(rng: Random) -> Question:
    """A question after a system prompt of several hundred tokens and up to ten other turns."""
    return memory("long prompt", rng, rng.randint(2, 10), rng.randint(20, 50))


def as_question(category: str, messages: list[Message]) -> Question:
    """The last answer becomes the one to give."""
    return {"category": category, "messages": messages[:-1], "answer": messages[-1]["content"]}


def questions(rng: Random) -> list[Question]:
    """All held-out questions, no two the same."""
    result: dict[str, Question] = {}
    for category, count in COUNTS.items():
        target = len(result) + count
        while len(result) < target:
            if category == "memory":
                question = memory(category, rng, rng.randint(0, 3), rng.choice((0, 0, 1)))
            else:
                question = long_prompt(rng) if category == "long prompt" else single(category, rng)
            result[json.dumps(question["messages"])] = question
    return list(result.values())


def write_lines(path: Path, lines: Iterable[object]) -> None:
    """Writes one JSON value per line."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def write_all(folder: Path, seed: int) -> None:
    """Writes `questions.jsonl`, `calibration.jsonl` (the training side) and `heldout.jsonl` (the held-out side)."""
    write_lines(folder / "questions.jsonl", questions(Random(f"questions {seed}")))
    for name, held in (("calibration", False), ("heldout", True)):
        rng = Random(f"{name} {seed}")
        texts = dict.fromkeys(render(chat(rng, held)) for _ in range(TEXTS))
        write_lines(folder / f"{name}.jsonl", ({"text": text} for text in texts))
