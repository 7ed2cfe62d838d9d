"""xgrammar's compiled grammars and matchers as runtime/plan.py's Constraint and TokenMatcher, on a budget of CPU time.

An ambiguous grammar's parser needs ever longer for a token, and it runs between two steps of everybody's.
"""

from __future__ import annotations

import time
from typing import Any

import xgrammar

from ingot.runtime.plan import TokenMatcher

BURST_SECONDS = 0.1  # that all sequences of a grammar may take together, besides
TOKEN_SECONDS = 0.5e-3  # for each of their tokens, and
ENTRY_SECONDS = 40e-9  # more for each entry of the vocabulary: some masks look at all of them


class CompiledConstraint:
    def __init__(self, compiled: xgrammar.CompiledGrammar, vocab_size: int) -> None:
        self._compiled = compiled
        self._token_seconds = TOKEN_SECONDS + ENTRY_SECONDS * vocab_size
        self._left = BURST_SECONDS

    @property
    def num_bytes(self) -> int:
        return int(self._compiled.memory_size_bytes)

    @property
    def overdue(self) -> bool:
        return self._left < 0

    def begin(self) -> TokenMatcher:
        return Matcher(self, self._compiled)

    def earn(self) -> None:
        """A token's worth. What is not needed is not kept: a long cheap text pays for no costly end."""
        if self._left >= 0:  # once overdue, for ever
            self._left = min(self._left + self._token_seconds, BURST_SECONDS)

    def spend(self, seconds: float) -> None:
        self._left -= seconds


class Matcher:
    def __init__(self, constraint: CompiledConstraint, compiled: xgrammar.CompiledGrammar) -> None:
        self._constraint = constraint
        self._matcher = xgrammar.GrammarMatcher(compiled)

    def accept(self, token: int) -> bool:
        if self._constraint.overdue:
            return True
        began = time.thread_time()
        accepted: bool = self._matcher.accept_token(token)
        self._constraint.earn()
        self._constraint.spend(time.thread_time() - began)
        return accepted

    def fill(self, masks: Any, row: int) -> None:
        if self._constraint.overdue:
            masks[row] = -1  # anything: its sequence ends before the token is told
            return
        if self._matcher.is_terminated():
            masks[row] = 0
            return
        began = time.thread_time()
        self._matcher.fill_next_token_bitmask(masks, row)
        self._constraint.spend(time.thread_time() - began)


def read_compiled(text: str, info: xgrammar.TokenizerInfo) -> CompiledConstraint:
    """Of what the compile process serialized."""
    return CompiledConstraint(xgrammar.CompiledGrammar.deserialize_json(text, info), info.vocab_size)
