"""xgrammar's compiled grammars and matchers as runtime/plan.py's Constraint and TokenMatcher, on a budget of time.

An ambiguous grammar's parser needs ever longer for a token, and it runs between two steps of everybody's.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import xgrammar

from ingot.runtime.grammars.process import compile_grammar, make_compiler
from ingot.runtime.params import Grammar
from ingot.runtime.plan import TokenMatcher

BURST_SECONDS = 0.1  # that all sequences of a grammar may take together, besides
TAG_BURST_SECONDS = (
    2.0  # the same of a structural tag: each sequence may need one mask of 40 ms, where its thoughts end
)
TOKEN_SECONDS = 0.5e-3  # for each of their tokens, and
ENTRY_SECONDS = 40e-9  # more for each entry of the vocabulary: some masks look at all of them
LONGEST_CHARGE = 0.04  # of one call: more of it is likelier a process that was held up than a grammar


class CompiledConstraint:
    def __init__(
        self, compiled: xgrammar.CompiledGrammar, vocab_size: int, *, burst_seconds: float = BURST_SECONDS
    ) -> None:
        self.overdue = False  # once, then for ever: whoever sends the grammar again is refused at once
        self.first: tuple[Any, bool] | None = None  # the mask of a text's first token, and whether it forbids anything
        self._compiled = compiled
        self._token_seconds = TOKEN_SECONDS + ENTRY_SECONDS * vocab_size
        self._burst = self._left = burst_seconds

    @property
    def num_bytes(self) -> int:
        return int(self._compiled.memory_size_bytes)

    def begin(self) -> TokenMatcher:
        return Matcher(self, self._compiled)

    def charge(self, seconds: float, tokens: int) -> None:
        """What tokens do not need is not kept beyond the burst: a long cheap text pays for no costly end."""
        left = self._left + tokens * self._token_seconds - min(seconds, LONGEST_CHARGE)
        self._left = min(left, self._burst)
        self.overdue = self.overdue or left < 0


class Matcher:
    """Calls are timed one by one, so that a grammar that turns costly within a step ends there."""

    __slots__ = ("_accept", "_begun", "_constraint", "_ends", "_fill")

    def __init__(self, constraint: CompiledConstraint, compiled: xgrammar.CompiledGrammar) -> None:
        matcher = xgrammar.GrammarMatcher(compiled)
        self._constraint = constraint
        self._begun = False
        self._ends = frozenset(matcher.stop_token_ids)
        self._accept = matcher.accept_token
        self._fill = matcher.fill_next_token_bitmask

    def accept(self, token: int) -> bool:
        if self._constraint.overdue:
            return True
        self._begun = True
        began = perf_counter()
        accepted: bool = self._accept(token)
        self._constraint.charge(perf_counter() - began, 1)
        return accepted and token not in self._ends

    def fill(self, masks: Any, row: int) -> bool:
        if self._constraint.overdue:
            return False  # anything: its sequence ends before the token is told
        if self._constraint.first is not None and not self._begun:
            masks[row], forbids = self._constraint.first
            return forbids
        began = perf_counter()
        forbids = bool(self._fill(masks, row))
        self._constraint.charge(perf_counter() - began, 0)
        if not self._begun:
            self._constraint.first = masks[row].clone(), forbids
        return forbids


def read_compiled(text: str, info: xgrammar.TokenizerInfo) -> CompiledConstraint:
    """Of what the compile process serialized."""
    return CompiledConstraint(xgrammar.CompiledGrammar.deserialize_json(text, info), info.vocab_size)


def compiled_again(grammar: Grammar, info: xgrammar.TokenizerInfo) -> CompiledConstraint:
    """Of a grammar that the compile process has compiled within its budget. Steps go on meanwhile: xgrammar lets go of the GIL."""
    compiled = compile_grammar(grammar, make_compiler(info))
    return CompiledConstraint(compiled, info.vocab_size, burst_seconds=TAG_BURST_SECONDS)
