"""Keys: their names and limits as they are written, and what is refused without showing a key."""

from __future__ import annotations

import pytest

from ingot.client.keys import digest_of, owner_of, read_keys
from ingot.errors import IngotError


def test_names_and_limits_as_written() -> None:
    lines = ["sk-plain", "alice=secret rpm=600 concurrent=8", "bob=two words concurrent=2", "  eve=k=v  "]
    keys = read_keys(lines, requests_per_minute=60)
    assert [key.name for key in keys] == ["key-1", "alice", "bob", "eve"]
    assert [key.requests_per_minute for key in keys] == [60, 600, 60, 60]
    assert [key.concurrent for key in keys] == [None, 8, 2, None]
    for key, given in zip(keys, ("sk-plain", "secret", "two words", "k=v"), strict=True):
        assert owner_of(digest_of(given.encode()), keys) is key
    assert owner_of(digest_of(b""), keys) is None
    assert not [given for given in ("sk-plain", "secret", "two words") if given in repr(keys)]


@pytest.mark.parametrize("key", ["dGVzdA==", "dGVzdDE=", "=x", "1a=b"])
def test_a_key_that_looks_like_no_name_is_a_key_whole(key: str) -> None:
    (found,) = read_keys([key])
    assert (found.name, found.digest) == ("key-1", digest_of(key.encode()))


@pytest.mark.parametrize(
    ("lines", "said"),
    [([""], "is empty"), (["a=secret1", "a=secret2"], "are called 'a'"), (["a=secret rpm=0"], "is 0")],
)
def test_refusals_show_no_key(lines: list[str], said: str) -> None:
    with pytest.raises(IngotError, match=said) as caught:
        read_keys(lines)
    assert "secret" not in str(caught.value)
