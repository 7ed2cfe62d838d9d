"""Reads config.json field by field and keeps account: what nobody has read in the end is refused by name, not ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ingot.errors import CheckpointError, UnsupportedModelError


class Fields:
    """A JSON object of config.json. Every accessor marks its field as read; `finish` refuses the rest.

    A field that is null counts as absent: transformers writes null for "not set".
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._nulls = values.keys() - self._values.keys()
        self._where = where
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def is_null(self, name: str) -> bool:
        return name in self._nulls

    def integer(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        value = self._get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._malformed(name, value, f"an integer of at least {least}")
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self._malformed(name, value, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._malformed(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self._malformed(name, value, "a string")
        return value

    def table(self, name: str) -> Mapping[str, Any]:
        value = self._get(name, {})
        if not isinstance(value, Mapping):
            raise self._malformed(name, value, "an object")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._malformed(name, value, "a list of strings")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """One integer or a list of them; none where the field is absent."""
        value = self._get(name, [])
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items):
            raise self._malformed(name, value, "a token id or a list of them")
        return tuple(items)

    def must_be(self, name: str, *allowed: Any) -> None:
        """Refuses a field that is present with any value but these."""
        value = self._get(name, allowed[0])
        if value not in allowed:
            raise self.unsupported(name, value, " or ".join(repr(item) for item in allowed))

    def ignore(self, *names: str) -> None:
        self._read.update(names)

    def finish(self) -> None:
        for name, value in self._values.items():
            if name not in self._read:
                raise UnsupportedModelError(
                    f"{self._where} has the field {name} = {_short(value)}, which ingot does not know.",
                    mend=f"If it does not change what the model computes, remove {name} from config.json.",
                )

    def unsupported(self, name: str, value: Any, supported: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self._where} has {name} = {_short(value)}, which ingot does not support; supported: {supported}.",
            mend="Choose a checkpoint without it.",
        )

    def _get(self, name: str, default: Any) -> Any:
        self._read.add(name)
        value = self._values.get(name, default)
        if value is None:
            raise CheckpointError(f"{self._where} lacks the field {name}.", mend="Restore config.json from the source.")
        return value

    def _malformed(self, name: str, value: Any, wanted: str) -> CheckpointError:
        return CheckpointError(
            f"{self._where} has {name} = {_short(value)}; it must be {wanted}.",
            mend="Restore config.json from the source.",
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
