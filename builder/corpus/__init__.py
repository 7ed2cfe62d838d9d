"""Text to calibrate with and text to verify on: the model's own files, the user's, or a small bundled corpus.

Knows where text comes from and how it is cut into token sequences; refuses to know what is done with them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ingot.errors import CheckpointError, RecipeError

BUNDLED = Path(__file__).parent
FILES = {"calibration": "calibration.jsonl", "heldout": "heldout.jsonl"}  # in a model's folder
OPTIONS = {"calibration": "--calibration", "heldout": "--verify-text"}


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents, and where they are from: for the manifest."""

    origin: str
    documents: list[str]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.documents).encode()).hexdigest()[:24]


def load_corpus(kind: str, *, given: str | None, folder: Path) -> Corpus:
    """`kind` is calibration or heldout. The given file goes first, then the model folder's, then the bundled one."""
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise RecipeError(
                f"{OPTIONS[kind]} {given} is not a file.", mend="Give a .txt, or a .jsonl with a text field."
            )
        return Corpus(str(given), read_documents(path))
    if (folder / FILES[kind]).is_file():
        return Corpus(f"{FILES[kind]} of the model", read_documents(folder / FILES[kind]))
    return Corpus("the bundled text", read_documents(BUNDLED / f"{kind}.txt"))


def read_documents(path: Path) -> list[str]:
    """A .jsonl's text fields, or a text file as one document. Raises RecipeError where there is no text."""
    text = path.read_text(encoding="utf-8", errors="replace")
    documents = [text]
    if path.suffix == ".jsonl":
        documents = [json_text(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise RecipeError(f"{path} holds no text.", mend="Give a file with text.")
    return documents


def json_text(path: Path, number: int, line: str) -> str:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise RecipeError(
            f"{path} line {number} is not JSON: {error}.", mend='Write lines like {"text": "..."}.'
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise RecipeError(f"{path} line {number} has no text field.", mend='Write lines like {"text": "..."}.')
    return str(found["text"])


def token_sequences(
    corpus: Corpus, folder: Path, *, length: int, count: int | None = None, total: int | None = None
) -> list[list[int]]:
    """Documents as token ids, long ones cut into pieces of `length`: at most `count` pieces and `total` tokens.

    Pieces are drawn evenly over the corpus, so that a limit does not mean its beginning only.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json.",
            mend="Write one: AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL).",
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = [encoding.ids for encoding in tokenizer.encode_batch(corpus.documents)]
    pieces = [part[start : start + length] for part in ids for start in range(0, len(part), length)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if not pieces:
        raise RecipeError(f"The text ({corpus.origin}) is shorter than two tokens.", mend="Give a longer text.")
    limit = len(pieces) if count is None else min(count, len(pieces))
    if total is not None:
        mean = sum(map(len, pieces)) / len(pieces)
        limit = min(limit, max(1, int(total / mean)))
    return [pieces[index * len(pieces) // limit] for index in range(limit)]
