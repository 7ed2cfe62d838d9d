"""Which of the server's models a request means."""

from __future__ import annotations

from ingot.client.backend import Backend, ModelCard
from ingot.errors import UnknownModelError


async def find_model(backend: Backend, name: str) -> ModelCard:
    """Raises UnknownModelError."""
    cards = await backend.models()
    for card in cards:
        if card.name == name:
            return card
    known = ", ".join(card.name for card in cards)
    raise UnknownModelError(f"No model is called {name[:200]!r}.", mend=f"This server has: {known}.")
