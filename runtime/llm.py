"""An engine in this process, without a server: prompts in, completions out. Knows no HTTP and no other process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ingot.errors import IngotError, RequestError
from ingot.manifest import Limits, check_files, read_manifest
from ingot.runtime.executor import Executor
from ingot.runtime.grammars.compiler import GrammarCompiler
from ingot.runtime.messages import RequestFailed, Stats
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Program
from ingot.runtime.request import Chunk, GenerateRequest, Logprob, Prompt, Usage
from ingot.runtime.streams import RequestStream, as_error
from ingot.runtime.text import Tokenizer
from ingot.runtime.validate import check_task

DEFAULT = SamplingParams()
MAX_WAITING = 2**31 - 1  # whoever calls has all the prompts in memory anyway


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """One finished sequence."""

    prompt_index: int  # place in the list of prompts
    index: int  # which of params.n
    text: str
    token_ids: list[int]
    finish_reason: str  # stop | length
    stop_reason: str | int | None  # the stop string or token id that ended it
    logprobs: list[Logprob] | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[Logprob | None] | None
    usage: Usage


class LLM:
    def __init__(self, engine: str | Path) -> None:
        """Loads an engine folder. Raises EngineError where it is damaged or was built for something else."""
        from ingot.runtime.programs import load_program  # brings torch

        engine = Path(engine)
        manifest = read_manifest(engine)
        check_files(engine, manifest)
        check_task(manifest, "generate")
        self._start(load_program(engine, manifest), Tokenizer.from_engine(engine), manifest.limits, manifest.name)

    @classmethod
    def of(cls, program: Program, tokenizer: Tokenizer, limits: Limits, name: str) -> Self:
        """Around a program that is loaded already."""
        llm = cls.__new__(cls)
        llm._start(program, tokenizer, limits, name)
        return llm

    def _start(self, program: Program, tokenizer: Tokenizer, limits: Limits, name: str) -> None:
        self.name = name
        self.limits = limits
        self.tokenizer = tokenizer
        grammars = GrammarCompiler(tokenizer.vocabulary())
        self._executor = Executor(program, limits, tokenizer.eos_token_ids, max_waiting=MAX_WAITING, grammars=grammars)

    def generate(
        self,
        prompts: str | Sequence[str | list[int] | Prompt],
        params: SamplingParams | Sequence[SamplingParams] = DEFAULT,
        *,
        cache_salt: str | None = None,
    ) -> list[Completion]:
        """Runs all prompts together: params.n completions of each, in the prompts' order. Raises IngotError; nothing runs then."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        if len(each) != len(prompts):
            raise RequestError(
                f"There are {len(prompts)} prompts and {len(each)} sampling parameters.",
                mend="Give one SamplingParams for all prompts, or one for each.",
            )
        streams = {}
        for number, (prompt, own) in enumerate(zip(prompts, each, strict=True)):
            request = GenerateRequest(
                request_id=str(number), model=self.name, prompt=_prompt(prompt), params=own, cache_salt=cache_salt
            )
            streams[request.request_id] = RequestStream(request, self.tokenizer, self.limits)
        return self._run(streams)

    def stats(self) -> Stats:
        return self._executor.stats()

    def close(self) -> None:
        self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, streams: dict[str, RequestStream]) -> list[Completion]:
        chunks: dict[tuple[int, int], list[Chunk]] = {}
        try:
            for stream in streams.values():
                self._executor.add(stream.token_request)
            while self._executor.has_work:
                for told in self._executor.step():
                    if isinstance(told, RequestFailed):
                        raise as_error(told)
                    out, aborts = streams[told.request_id].feed(told)
                    for chunk in out:
                        chunks.setdefault((int(told.request_id), chunk.index), []).append(chunk)
                    for abort in aborts:
                        self._executor.abort(abort.request_id, abort.index)
        except (IngotError, KeyboardInterrupt):
            self._drain(streams)
            raise
        return [_completion(number, parts) for (number, _), parts in sorted(chunks.items(), key=lambda item: item[0])]

    def _drain(self, streams: dict[str, RequestStream]) -> None:
        """Ends whatever still runs, so that the next call finds every row and page free."""
        for request_id in streams:
            self._executor.abort(request_id)
        while self._executor.has_work:
            self._executor.step()


def _prompt(prompt: str | list[int] | Prompt) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    return Prompt(text=prompt) if isinstance(prompt, str) else Prompt(token_ids=prompt)


def _completion(prompt_index: int, chunks: list[Chunk]) -> Completion:
    first, last = chunks[0], chunks[-1]
    if last.usage is None or last.finish_reason is None:
        raise RuntimeError("a sequence ended without its last chunk")
    logprobs = [one for chunk in chunks for one in chunk.logprobs or ()]
    return Completion(
        prompt_index=prompt_index,
        index=last.index,
        text="".join(chunk.text for chunk in chunks),
        token_ids=[token for chunk in chunks for token in chunk.token_ids],
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        logprobs=logprobs or None,
        prompt_token_ids=first.prompt_token_ids or [],
        prompt_logprobs=first.prompt_logprobs,
        usage=last.usage,
    )
