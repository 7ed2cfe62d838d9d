"""Fetching from the Hub, against a fake one on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.builder.fake_hub import COMMIT, FakeHub

from ingot.builder.checkpoint import open_checkpoint
from ingot.builder.hub import locate
from ingot.errors import CheckpointError


@pytest.fixture
def hub(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "hub"
    shutil.copytree(llama, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "original").mkdir()
    (folder / "original" / "other.safetensors").write_bytes(b"other")
    with FakeHub(model="org/llama", folder=folder).serving() as found:
        yield found


def test_a_model_is_fetched_without_pickles_and_code(hub: FakeHub, llama: Path, tmp_path: Path) -> None:
    source = locate("org/llama", cache=tmp_path / "cache", endpoint=hub.url)
    assert source.commit == COMMIT
    assert sorted(path.name for path in source.folder.iterdir()) == sorted(path.name for path in llama.iterdir())
    assert open_checkpoint(source.folder).digest() == open_checkpoint(llama).digest()


def test_the_second_call_fetches_nothing_and_works_offline(hub: FakeHub, tmp_path: Path) -> None:
    first = locate("org/llama", cache=tmp_path / "cache", endpoint=hub.url)
    hub.asked.clear()
    assert locate("org/llama", cache=tmp_path / "cache", endpoint=hub.url) == first
    assert not [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    assert locate("org/llama", cache=tmp_path / "cache", endpoint="http://127.0.0.1:9").folder == first.folder


def test_a_line_that_breaks_is_taken_up_where_it_broke(
    hub: FakeHub, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)  # what arrives whole is kept
    hub.cut_after = 1 << 20
    source = locate("org/llama", cache=tmp_path / "cache", endpoint=hub.url)
    ranges = [asked for method, path, asked in hub.asked if method == "GET" and path.endswith("/model.safetensors")]
    assert ranges == [None, f"bytes={1 << 20}-"]
    assert (source.folder / "model.safetensors").read_bytes() == (llama / "model.safetensors").read_bytes()


def test_a_failed_fetch_keeps_the_files_it_had_whole(hub: FakeHub, tmp_path: Path) -> None:
    hub.broken = "model.safetensors"
    with pytest.raises(CheckpointError, match="Fetching org/llama failed"):
        locate("org/llama", cache=tmp_path / "cache", endpoint=hub.url)
    kept = {path.name for path in tmp_path.glob("cache/*/snapshots/*/*")}
    hub.asked.clear()
    hub.broken = None
    locate("org/llama", cache=tmp_path / "cache", endpoint=hub.url)
    fetched = {path.rpartition("/")[2] for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path}
    assert "model.safetensors" in fetched
    assert not fetched & kept


def test_the_token_opens_a_private_model(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_right"
    with pytest.raises(CheckpointError, match="the Hub knows no such model"):
        locate("org/llama", token="hf_wrong", cache=tmp_path / "cache", endpoint=hub.url)
    assert locate("org/llama", token="hf_right", cache=tmp_path / "cache", endpoint=hub.url).commit == COMMIT


def test_a_gated_model_says_so(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(CheckpointError, match="org/llama is gated") as caught:
        locate("org/llama", cache=tmp_path / "cache", endpoint=hub.url)
    assert "--token" in caught.value.mend


def test_a_revision_is_asked_for_and_may_be_missing(hub: FakeHub, tmp_path: Path) -> None:
    assert locate("org/llama", revision="main", cache=tmp_path / "cache", endpoint=hub.url).commit == COMMIT
    with pytest.raises(CheckpointError, match="no such revision"):
        locate("org/llama", revision="v9", cache=tmp_path / "cache", endpoint=hub.url)


def test_pickles_alone_are_refused_before_anything_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model.bin\)"):
        locate("org/llama", cache=tmp_path / "cache", endpoint=hub.url)
    assert not [path for _, path, _ in hub.asked if "/resolve/" in path]


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a/b/c", "no such thing"])
def test_what_is_neither_folder_nor_id_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a Hub id"):
        locate(model, endpoint="http://127.0.0.1:9")


def test_a_hub_out_of_reach_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Fetching org/llama failed"):
        locate("org/llama", cache=tmp_path / "cache", endpoint="http://127.0.0.1:9")
