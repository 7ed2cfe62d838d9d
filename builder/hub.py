"""MODEL made into a local folder: a folder as it is, a Hub id through huggingface_hub with resume.

Knows where checkpoints come from; refuses to know what is in them beyond the file names it lets through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ingot.builder.checkpoint import PICKLES
from ingot.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
WANTED = ["*.safetensors", "*.json", "*.jsonl", "tokenizer*", "merges.txt", "*.jinja"]
UNWANTED = ["*/*", "consolidated*", "*.bin", "*.py", "*.pt", "*.pth"]  # folders hold other formats of the same weights

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a checkpoint lies and where it came from."""

    folder: Path
    model: str  # as asked
    commit: str | None = None  # of the Hub repository


def locate(
    model: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache: Path | None = None,
    endpoint: str | None = None,
) -> Source:
    """A local folder, or a Hub repository fetched into huggingface_hub's cache. Raises CheckpointError saying why not.

    A line that breaks is taken up again at the byte where it broke; a fetch that was killed keeps the files it had whole.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return Source(folder=path, model=model)
    if not HUB_ID.fullmatch(model) or model.startswith("."):
        raise CheckpointError(
            f"{model} is neither a folder nor a Hub id.", mend="Name an existing folder, or a Hub id such as org/model."
        )
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token)
    folder = ask_hub(model, lambda: fetch(api, model, revision, cache))
    return Source(folder=folder, model=model, commit=folder.name)


def fetch(api: HfApi, model: str, revision: str | None, cache: Path | None) -> Path:
    """The snapshot's folder, named by its commit. Without a network, what an earlier call has fetched whole."""
    import httpx
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        info = api.model_info(model, revision=revision)
    except (OfflineModeIsEnabled, httpx.ConnectError, httpx.TimeoutException):
        offline = True
    else:
        offline = False
        refuse_pickles(model, [file.rfilename for file in info.siblings or []])
    return Path(
        api.snapshot_download(
            model,
            revision=revision,
            cache_dir=cache,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
            local_files_only=offline,
        )
    )


def refuse_pickles(model: str, names: Iterable[str]) -> None:
    names = sorted(names)
    if any(name.endswith(".safetensors") and "/" not in name for name in names):
        return
    pickles = [name for name in names if name.endswith(PICKLES)]
    found = (
        f"only pickled weights ({', '.join(pickles[:3])}), which can run code when read" if pickles else "no weights"
    )
    raise CheckpointError(
        f"{model} has {found}; ingot reads safetensors.", mend="Name a revision with safetensors: --revision refs/pr/N."
    )


def ask_hub(model: str, call: Callable[[], R]) -> R:
    """Runs one Hub call and says in ingot's words what went wrong."""
    import httpx
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError as error:
        mend = "Accept its terms on the Hub, then give your token: --token, or hf auth login."
        raise CheckpointError(f"{model} is gated: {error}.", mend=mend) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{model} has no such revision.", mend="Give a branch, tag or commit it has.") from error
    except errors.RepositoryNotFoundError as error:
        mend = "Check the spelling; for a private model give --token; for a local one give a folder that exists."
        raise CheckpointError(f"{model} is not a folder, and the Hub knows no such model.", mend=mend) from error
    except (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        httpx.HTTPError,
    ) as error:
        mend = "Run the same command again: what is already here is kept. Offline, name a local folder."
        raise CheckpointError(f"Fetching {model} failed: {error}", mend=mend) from error
