"""A Hugging Face checkpoint folder, read safely: safetensors and JSON only, one tensor at a time.

Knows file formats and what is unsafe in them; refuses to know what the tensors mean. Importing it does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ingot.errors import CheckpointError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
KEPT_FILES = (
    *("config.json", "generation_config.json", "chat_template*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)
# What sentence-transformers writes beside a model: how vectors are made of its hidden states.
SENTENCE_FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
)
TEXT_FILES = ("calibration.jsonl", "heldout.jsonl")
MAX_JSON = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    file: Path
    dtype: str  # as safetensors spells it: BF16, F8_E4M3, ...
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint: its configuration and where each tensor lies. No tensor has been read yet."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]

    def read(self, name: str) -> torch.Tensor:
        """One tensor, backed by the mapped file: its pages are given back when the tensor is dropped."""
        from safetensors import safe_open

        info = self.tensors[name]
        with safe_open(info.file, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())

    def kept_files(self) -> list[Path]:
        """The files an engine takes over as they are: configuration, tokenizer, chat template."""
        return sorted({path for pattern in KEPT_FILES for path in self.folder.glob(pattern) if path.is_file()})

    def text_files(self) -> list[Path]:
        """Text the model's maker put beside it to calibrate with and to verify on."""
        return [path for name in TEXT_FILES if (path := self.folder / name).is_file()]

    def digest(self) -> str:
        """Of every file a build reads, by content. Identical checkpoints in different folders have the same digest."""
        total = hashlib.sha256()
        files = {*self.kept_files(), *self.text_files(), *(info.file for info in self.tensors.values())}
        for pattern in ("hf_quant_config.json", *SENTENCE_FILES):
            files |= set(self.folder.glob(pattern))
        for path in sorted(files):
            with path.open("rb") as file:
                total.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Checks a folder and every safetensors header in it. Raises CheckpointError before any tensor is read."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json, so it is not a checkpoint.", mend="Name the model's own folder."
        )
    config = read_json(folder / "config.json")
    refuse_code(folder)
    tensors: dict[str, TensorInfo] = {}
    for path in weight_files(folder):
        for name, info in read_header(path):
            if name in tensors:
                raise CheckpointError(
                    f"{path} holds the tensor {name}, which {tensors[name].file.name} holds too.", mend=FETCH_AGAIN
                )
            tensors[name] = info
    check_index(folder, tensors)
    return Checkpoint(folder=folder, config=config, tensors=tensors)


FETCH_AGAIN = "Fetch the checkpoint again, or ask whoever wrote it."


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of sane size."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise CheckpointError(f"{path} is larger than {MAX_JSON >> 20} MiB.", mend=FETCH_AGAIN)
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}.", mend=FETCH_AGAIN) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object.", mend=FETCH_AGAIN)
    return data


def refuse_code(folder: Path) -> None:
    """ingot runs no code that comes with a checkpoint; a checkpoint that needs some is refused, naming the field."""
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and "auto_map" in read_json(path):
            raise CheckpointError(
                f"{path} has auto_map: the model wants its own Python code run, which ingot never does.",
                mend="Use a checkpoint of a family ingot knows; if this one is, remove auto_map from the file.",
            )


def weight_files(folder: Path) -> list[Path]:
    """The checkpoint's safetensors files, by its index where it has one."""
    if (folder / INDEX).is_file():
        files = []
        for name in sorted(set(weight_map(folder).values())):
            if PurePosixPath(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(f"{folder / INDEX} points at {name!r}, outside the checkpoint.", mend=FETCH_AGAIN)
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder / INDEX} lists {name}, which is not there.", mend=FETCH_AGAIN)
            files.append(folder / name)
        return files
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated"))
    if not files:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        found = (
            f"only pickled weights ({', '.join(pickles[:3])}), which can run code when read"
            if pickles
            else "no weights"
        )
        raise CheckpointError(
            f"{folder} has {found}; ingot reads safetensors.",
            mend="Use the model's safetensors revision, or convert it with save_pretrained on a machine you can lose.",
        )
    return files


def weight_map(folder: Path) -> dict[str, str]:
    found = read_json(folder / INDEX).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{folder / INDEX} has no weight_map of names to files.", mend=FETCH_AGAIN)
    return found


def check_index(folder: Path, tensors: dict[str, TensorInfo]) -> None:
    if not (folder / INDEX).is_file():
        return
    listed = weight_map(folder)
    for name, file in listed.items():
        if name not in tensors or tensors[name].file.name != file:
            raise CheckpointError(f"{folder / INDEX} says {file} holds {name}; it does not.", mend=FETCH_AGAIN)
    unlisted = sorted(set(tensors) - set(listed))
    if unlisted:
        raise CheckpointError(
            f"{tensors[unlisted[0]].file} holds {unlisted[0]}, which {INDEX} does not list.", mend=FETCH_AGAIN
        )


def read_header(path: Path) -> Iterator[tuple[str, TensorInfo]]:
    """Names, dtypes and shapes of one safetensors file.

    The safetensors library refuses lengths, offsets and shapes that lie; it lets a name stand twice, so that is
    checked here. Raises CheckpointError naming the file.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        start = file.read(8)
    if start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        raise CheckpointError(f"{path} is a pickle under another name; reading it could run code.", mend=FETCH_AGAIN)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a sound safetensors file: {error}.", mend=FETCH_AGAIN) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        pairs: list[tuple[str, Any]] = json.loads(file.read(length), object_pairs_hook=list)
    names = [name for name, _ in pairs]
    doubles = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubles:
        raise CheckpointError(f"{path} names the tensor {doubles[0]} twice.", mend=FETCH_AGAIN)
    for name, fields in pairs:
        if name != "__metadata__":
            entry = dict(fields)
            begin, end = entry["data_offsets"]
            yield name, TensorInfo(file=path, dtype=entry["dtype"], shape=tuple(entry["shape"]), nbytes=end - begin)
