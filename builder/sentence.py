"""What sentence-transformers puts beside a checkpoint: how a vector is made of hidden states. Honoured, or refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.builder.checkpoint import FETCH_AGAIN, read_json
from ingot.errors import CheckpointError, UnsupportedModelError

MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}
NAMED_MODES = {"cls": "cls", "mean": "mean", "lasttoken": "last"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFiles:
    pooling: str | None = None  # None: the checkpoint says nothing
    normalize: bool = True  # without these files vectors have length 1, as OpenAI's
    max_length: int | None = None  # tokens of a text


def read_sentence_files(folder: Path) -> SentenceFiles:
    """Raises UnsupportedModelError for a module or a mode that ingot has not, CheckpointError for a malformed file."""
    path = folder / "modules.json"
    if not path.is_file():
        return SentenceFiles()
    modules = read_list(path)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer"], ["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModelError(
            f"{path} has the modules {', '.join(kinds)}; ingot knows Transformer, Pooling and Normalize, in this order.",
            mend="Choose a checkpoint whose vectors are pooled hidden states.",
        )
    if modules[0].get("path") not in (None, "", "."):
        raise UnsupportedModelError(
            f"{path} keeps the model in {modules[0]['path']!r}.", mend="Move that folder's files to the top."
        )
    check_prompts(folder)
    pooling = read_pooling(folder, str(modules[1].get("path", "1_Pooling"))) if len(kinds) > 1 else None
    return SentenceFiles(pooling=pooling, normalize="Normalize" in kinds, max_length=read_length(folder))


def read_list(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}.", mend=FETCH_AGAIN) from error
    if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
        raise CheckpointError(f"{path} is no list of modules.", mend=FETCH_AGAIN)
    return found


def read_pooling(folder: Path, where: str) -> str:
    path = folder / Path(where).name / "config.json"
    fields = read_json(path)
    if isinstance(named := fields.get("pooling_mode"), str):
        chosen = [named]
    else:
        chosen = sorted(name for name, value in fields.items() if name.startswith("pooling_mode_") and value)
    known = [mode for name in chosen if (mode := MODES.get(name) or NAMED_MODES.get(name))]
    if len(chosen) != 1 or not known:
        raise UnsupportedModelError(
            f"{path} pools by {', '.join(chosen) or 'nothing'}; ingot knows one of {', '.join(MODES)}.",
            mend="Choose a checkpoint that pools so.",
        )
    return known[0]


def read_length(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    if not path.is_file():
        return None
    fields = read_json(path)
    if fields.get("do_lower_case"):
        raise UnsupportedModelError(
            f"{path} has do_lower_case = true beside the tokenizer.",
            mend="Let the tokenizer lower the text, and set it to false.",
        )
    length = fields.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 2):
        raise CheckpointError(f"{path} has max_seq_length = {length!r}.", mend=FETCH_AGAIN)
    return length


def check_prompts(folder: Path) -> None:
    """A prompt that sentence-transformers would put before every text changes all vectors; here texts are taken as they come."""
    path = folder / "config_sentence_transformers.json"
    name = read_json(path).get("default_prompt_name") if path.is_file() else None
    if name is not None:
        raise UnsupportedModelError(
            f"{path} has default_prompt_name = {name!r}, which ingot does not put before texts.",
            mend="Set it to null, and send texts with their prompt.",
        )
