"""API keys: what each is called, what it may ask of the server, whose a given one is. Knows no HTTP and no files."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ingot.errors import IngotError

LIMIT = re.compile(r"\s+(rpm|concurrent)=(\d{1,9})$")
NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{0,63})=(.*[^=].*)")  # padding alone is no key, so base64 stays whole
NOTATION = "Write KEY or NAME=KEY, in a file with limits: NAME=KEY rpm=600 concurrent=8."


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    name: str  # stands in logs
    digest: bytes  # SHA-256; the key itself is not kept
    requests_per_minute: int | None = None  # None: as many as come
    concurrent: int | None = None  # requests at a time


def read_keys(
    lines: Iterable[str], *, requests_per_minute: int | None = None, concurrent: int | None = None
) -> list[ApiKey]:
    """One key a line, in NOTATION; the limits are those of keys that name none. Raises IngotError, which shows no key."""
    found: list[ApiKey] = []
    for place, line in enumerate(lines, 1):
        rest, limits = line.strip(), {"rpm": requests_per_minute, "concurrent": concurrent}
        while limit := LIMIT.search(rest):
            rest, limits[limit[1]] = rest[: limit.start()], int(limit[2])
        named = NAMED.fullmatch(rest)
        name, key = (named[1], named[2]) if named else (f"key-{place}", rest)
        if not key:
            raise IngotError(f"API key {place} is empty.", mend=NOTATION)
        if any(limit == 0 for limit in limits.values()):
            raise IngotError(f"A limit of the API key {name!r} is 0.", mend="Leave the key out, or allow it 1 or more.")
        if any(name == other.name for other in found):
            raise IngotError(f"Two API keys are called {name!r}.", mend="Give each a name of its own.")
        digest = digest_of(key.encode())
        found.append(
            ApiKey(name=name, digest=digest, requests_per_minute=limits["rpm"], concurrent=limits["concurrent"])
        )
    return found


def owner_of(given: bytes, keys: Sequence[ApiKey]) -> ApiKey | None:
    """The key with this digest. Every key is compared, in constant time."""
    matches = [key for key in keys if hmac.compare_digest(given, key.digest)]
    return matches[0] if matches else None


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
