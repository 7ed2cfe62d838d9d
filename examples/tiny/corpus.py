"""The chats that the tiny model is trained and examined on, generated from a seeded random source.

A chat is generated for one side of the split alone (see `skills.py`), so nothing held out is ever trained on.
"""

from random import Random

from skills import SKILLS, Turn, draw, fact, introduction, name_question, sum_of_two
from words import system_prompt

Message = dict[str, str]


def any_turn(rng: Random, held: bool) -> Turn:
    """A turn of any skill that needs no earlier turn."""
    skill = rng.choices([skill for skill, _ in SKILLS.values()], weights=[weight for _, weight in SKILLS.values()])[0]
    return draw(skill, rng, held)


def conversation(rng: Random, held: bool, turns: int) -> list[Turn]:
    """`turns` turns of all skills; in most conversations the user tells their name and asks for it later."""
    told_at = rng.randrange(max(1, min(turns - 1, 4))) if rng.random() < 0.65 else turns
    name: str | None = None
    result = []
    for position in range(turns):
        if position == told_at:
            turn = draw(introduction, rng, held)
            name = turn.answer.removeprefix("Nice to meet you, ").removesuffix(".")
        elif rng.random() < (0.3 if name else 0.03):
            turn = name_question(name, rng)
        else:
            turn = any_turn(rng, held)
        result.append(turn)
    return result


def messages_of(turns: list[Turn], system: str | None) -> list[Message]:
    """The chat's messages, in the form that chat templates take."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


def chat(rng: Random, held: bool, long: bool = False) -> list[Message]:
    """A whole chat: up to 8 turns and maybe a system prompt, or, if `long`, up to 24 turns and often a long one."""
    turns = conversation(rng, held, rng.randint(4, 24) if long else rng.choice((1, 2, 3, 3, 4, 4, 5, 6, 7, 8)))
    kind = rng.random()
    if kind < 0.45:
        return messages_of(turns, None)
    sentences = rng.randint(1, 2) if kind < 0.75 else rng.randint(3, 10) if kind < 0.9 else rng.randint(10, 24)
    return messages_of(turns, system_prompt(rng, sentences * 3 if long else sentences))


def render(messages: list[Message]) -> str:
    """The chat as text, just as the chat template renders it (`train.py` checks that the two agree)."""
    return "<|begin|>" + "".join(f"<|{message['role']}|>{message['content']}<|end|>" for message in messages)


def statements(rng: Random) -> str:
    """Plain text without any chat: true sentences one after the other, with or without the begin token."""
    begin = "<|begin|>" if rng.random() < 0.5 else ""
    return begin + " ".join(draw(rng.choice((fact, sum_of_two)), rng, False).answer for _ in range(rng.randint(2, 8)))


def document(rng: Random, long: bool = False) -> str:
    """One training document."""
    return statements(rng) if rng.random() < 0.04 else render(chat(rng, False, long))
