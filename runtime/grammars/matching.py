"""xgrammar's compiled grammars and matchers as runtime/plan.py's Constraint and TokenMatcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xgrammar

from ingot.runtime.plan import TokenMatcher


class Matcher:
    def __init__(self, compiled: xgrammar.CompiledGrammar) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled)

    def accept(self, token: int) -> bool:
        return self._matcher.accept_token(token)

    def fill(self, masks: Any, row: int) -> None:
        if self._matcher.is_terminated():
            masks[row] = 0
        else:
            self._matcher.fill_next_token_bitmask(masks, row)


@dataclass(frozen=True, slots=True)
class CompiledConstraint:
    compiled: xgrammar.CompiledGrammar

    @property
    def num_bytes(self) -> int:
        return int(self.compiled.memory_size_bytes)

    def begin(self) -> TokenMatcher:
        return Matcher(self.compiled)


def read_compiled(text: str, info: xgrammar.TokenizerInfo) -> CompiledConstraint:
    """Of what the compile process serialized."""
    return CompiledConstraint(xgrammar.CompiledGrammar.deserialize_json(text, info))
