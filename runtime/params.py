"""How one request wants its tokens sampled. Plain data: no torch, no HTTP."""

from __future__ import annotations

from typing import Literal

import msgspec


class Grammar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the text must look like, as plain data; runtime/grammars makes token masks of it."""

    kind: Literal["json_schema", "regex", "choice", "ebnf", "structural_tag"]
    # the schema as JSON, the expression, a JSON list of strings, a grammar in GBNF with a rule `root`, or the JSON of xgrammar's
    # format of a text in which some parts must fit and the rest is free, of the types that runtime/grammars/tags.py knows
    text: str


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names and meanings are vLLM's and OpenAI's. Defaults sample from the unmodified distribution."""

    max_tokens: int | None = None  # None: up to the engine's limit
    min_tokens: int = 0  # no EOS, stop token or stop string ends the text before
    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0  # keeps tokens of probability >= min_p * the best one's
    repetition_penalty: float = 1.0  # over prompt and output (arXiv:1909.05858)
    presence_penalty: float = 0.0  # over output only, as OpenAI
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None  # same seed, same text, whatever else is in the batch
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    n: int = 1
    logprobs: int | None = None  # None: none; 0: the sampled token's; k: and the k best
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None  # goes before min_tokens where the two disagree
