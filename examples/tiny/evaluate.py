"""Asks a model the held-out questions and prints how many answers are exactly right, by category.

    python evaluate.py [--model FOLDER] [--device cuda]

Decoding is greedy, with plain transformers. The last line is JSON.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

HERE = Path(__file__).resolve().parent
LONGEST_ANSWER = 160


def answers(model: Any, tokenizer: PreTrainedTokenizerBase, chats: list[list[dict[str, str]]], batch: int) -> list[str]:
    """The model's answer to each chat. Prompts of about the same length are answered together."""
    prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    result = [""] * len(prompts)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        inputs = tokenizer(
            [prompts[i] for i in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,  # the template has put them there
        ).to(model.device)
        with torch.inference_mode():
            outputs = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=LONGEST_ANSWER,
                do_sample=False,
            )
        texts = tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            result[i] = text
    return result


def main() -> None:
    """Prints the mistakes, the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE)
    parser.add_argument("--questions", type=Path, default=HERE / "questions.jsonl")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    model.to(options.device).eval()
    questions = [json.loads(line) for line in options.questions.read_text(encoding="utf-8").splitlines()]
    given = answers(model, tokenizer, [question["messages"] for question in questions], options.batch)

    right: dict[str, list[bool]] = defaultdict(list)
    for question, answer in zip(questions, given, strict=True):
        right[question["category"]].append(answer == question["answer"])
        if answer != question["answer"]:
            asked = question["messages"][-1]["content"]
            print(f"wrong ({question['category']}): {asked!r} -> {answer!r}, not {question['answer']!r}")
    print(f"\n{'category':<12} {'right':>5} {'of':>5} {'score':>8}")
    for category, marks in right.items():
        print(f"{category:<12} {sum(marks):>5} {len(marks):>5} {sum(marks) / len(marks):>8.2%}")
    total, correct = len(questions), sum(map(sum, right.values()))
    print(f"{'all':<12} {correct:>5} {total:>5} {correct / total:>8.2%}")
    by_category = {category: sum(marks) / len(marks) for category, marks in right.items()}
    print(json.dumps({"questions": total, "right": correct, "score": correct / total, "by_category": by_category}))


if __name__ == "__main__":
    main()
