"""Drives a program by hand-made step plans: ragged batches, chunked prompts, shared prefixes, rows used again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import FEED, Arrival, Program, Slice, StepPlan, TokenLogprobs


@dataclass(slots=True)
class Request:
    prompt: list[int]
    max_tokens: int
    params: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.0))
    seed: int = 0
    prefix_of: int | None = None  # the request whose pages hold the start of this prompt


@dataclass(slots=True)
class Text:
    tokens: list[int]
    logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)


@dataclass(slots=True)
class Running:
    index: int
    row: int
    pages: list[int]
    known_pages: int
    computed: int


class HandDriver:
    """Runs requests to their ends. Pages are dealt in random order; a row is used again by the next request."""

    def __init__(self, program: Program, *, chunk: int = 512, feed: bool = False, seed: int = 0) -> None:
        self._program = program
        self._chunk = chunk
        self._feed = feed
        self._random = random.Random(seed)
        self._free_pages = list(range(program.num_pages))
        self._random.shuffle(self._free_pages)
        self._pages_of: dict[int, list[int]] = {}

    def run(self, requests: list[Request]) -> list[Text]:
        """One new request a step, as rows allow."""
        texts = [Text(tokens=[]) for _ in requests]
        waiting, step = list(range(len(requests))), 0
        running: list[Running] = []
        departures: list[int] = []
        rows = list(range(self._program.max_num_seqs))
        while waiting or running:
            arrivals = []
            if waiting and rows:
                entered = self._enter(waiting.pop(0), rows.pop(), requests)
                running.append(entered)
                request = requests[entered.index]
                arrivals.append(Arrival(entered.row, entered.index, request.params, request.seed, request.prompt, []))
            slices = [self._slice(member, requests, texts) for member in running]
            plan = StepPlan(step=step, slices=slices, arrivals=arrivals, departures=departures)
            result = self._program.launch(plan).result()
            departures, step = [], step + 1
            for i, member in enumerate(list(running)):
                member.computed += len(slices[i].tokens)
                text = texts[member.index]
                text.prompt_logprobs += result.prompt_logprobs[i] or []
                assert slices[i].samples == (result.tokens[i] >= 0)
                if slices[i].samples:
                    text.tokens.append(result.tokens[i])
                    text.logprobs.append(result.logprobs[i])
                if len(text.tokens) == requests[member.index].max_tokens:
                    running.remove(member)
                    rows.append(member.row)
                    departures.append(member.row)
        return texts

    def _enter(self, index: int, row: int, requests: list[Request]) -> Running:
        request, size = requests[index], self._program.page_size
        shared: list[int] = []
        if request.prefix_of is not None:
            other = requests[request.prefix_of].prompt
            same = next(
                (i for i, (a, b) in enumerate(zip(other, request.prompt, strict=False)) if a != b),
                min(len(other), len(request.prompt)),
            )
            shared = self._pages_of[request.prefix_of][: min(same, len(request.prompt) - 1) // size]
        total = -(-(len(request.prompt) + request.max_tokens) // size)
        self._pages_of[index] = shared + [self._free_pages.pop() for _ in range(total - len(shared))]
        return Running(index, row, self._pages_of[index], 0, len(shared) * size)

    def _slice(self, member: Running, requests: list[Request], texts: list[Text]) -> Slice:
        tokens = requests[member.index].prompt + texts[member.index].tokens
        part = tokens[member.computed : member.computed + self._chunk]
        end = member.computed + len(part)
        used = -(-end // self._program.page_size)
        new, member.known_pages = used - member.known_pages, used
        if self._feed and member.computed >= len(requests[member.index].prompt):
            part = [FEED]
        return Slice(member.row, member.index, member.computed, part, member.pages[:used], new, end == len(tokens))
