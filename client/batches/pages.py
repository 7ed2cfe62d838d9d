"""OpenAI's lists: a page of newest first, and whether there is more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fastapi import Request

from ingot.errors import RequestError


class Listed(Protocol):
    @property
    def id(self) -> str: ...

    def body(self) -> dict[str, Any]: ...


def page(request: Request, found: Sequence[Listed], *, most: int, usual: int) -> dict[str, Any]:
    """`limit`, `order` and `after` of the query. Raises RequestError for what they cannot be."""
    if (order := request.query_params.get("order", "desc")) not in ("asc", "desc"):
        raise RequestError(f"'order' is {order[:20]!r}.", mend="Use asc or desc.", param="order")
    rows = list(found) if order == "desc" else list(reversed(found))
    if (after := request.query_params.get("after")) is not None:
        place = next((i for i, one in enumerate(rows) if one.id == after), None)
        if place is None:
            raise RequestError(
                f"'after' is {after[:80]!r}, which is not in the list.", mend="Begin anew.", param="after"
            )
        rows = rows[place + 1 :]
    limit = limit_of(request, most, usual)
    shown = [one.body() for one in rows[:limit]]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(rows) > limit,
    }


def limit_of(request: Request, most: int, usual: int) -> int:
    given = request.query_params.get("limit", str(usual))
    if not (given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= most):
        raise RequestError(f"'limit' is {given[:20]!r}.", mend=f"Give 1 to {most}.", param="limit")
    return int(given)


def refuse_other_words(request: Request, *known: str) -> None:
    """Raises RequestError for a word of the query that nobody would read."""
    for name in request.query_params:
        if name not in known:
            raise RequestError(f"Unknown query parameter '{name[:80]}'.", mend="Remove it.", param=name[:80])
