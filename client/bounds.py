"""How long a prompt may be and an answer may take, where a server allows less than its engine. Knows no backend."""

from __future__ import annotations

from ingot.errors import DeadlineError, RequestError


def too_slow(seconds: float) -> DeadlineError:
    return DeadlineError(f"The answer took more than {seconds:g} s.", mend="Ask for fewer tokens.")


def check_length(token_ids: list[int], limit: int | None) -> None:
    """Raises RequestError for a prompt beyond what this server takes, which may be less than its engine holds."""
    if limit is not None and len(token_ids) > limit:
        raise RequestError(
            f"The prompt has {len(token_ids)} tokens; this server takes {limit}.",
            param="prompt",
            mend="Shorten the prompt.",
        )
