"""The Triton backend's health, over a client that says what the test wants."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engines import write_engine

from ingot.client.triton_backend import SETTLE_LOOKS, TritonBackend, TritonOptions
from ingot.errors import ExecutorDiedError, IngotError
from ingot.manifest import Manifest, read_manifest
from ingot.runtime.calls import Description
from ingot.runtime.messages import Stats

STATS = Stats(**dict.fromkeys(Stats.__struct_fields__, 0))


class OneModel:
    def __init__(self, manifest: Manifest) -> None:
        self.error: IngotError | None = None
        self._found = Description(manifest=manifest, fingerprint="f", vocab_size=9, stats=STATS)

    async def describe(self, model: str, *, version: str) -> Description:
        if self.error is not None:
            raise self.error
        return self._found


async def test_health_is_believed_again_once_it_has_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = OneModel(read_manifest(write_engine(tmp_path / "tiny")))
    backend = TritonBackend(TritonOptions(models=("tiny",)))
    monkeypatch.setattr(backend, "_client", client)
    await backend._look()
    assert (await backend.health()).ready
    client.error = ExecutorDiedError("The process died.", mend="Wait.")
    with pytest.raises(ExecutorDiedError):
        await backend._look()
    assert "died" in (await backend.health()).detail
    client.error = None
    for _ in range(SETTLE_LOOKS - 1):
        await backend._look()
        assert not (await backend.health()).ready
    await backend._look()
    assert (await backend.health()).ready
