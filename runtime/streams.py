"""One request between its user and the executor: text and checks on one side, tokens on the other. Knows no HTTP."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ingot.errors import IngotError
from ingot.manifest import Limits
from ingot.runtime.messages import Abort, ExecutorFailed, RequestFailed, TokenChunk, TokenRequest
from ingot.runtime.plan import TokenLogprobs
from ingot.runtime.request import Chunk, GenerateRequest, Logprob, Usage
from ingot.runtime.stops import StopMatcher
from ingot.runtime.text import Tokenizer
from ingot.runtime.validate import check_params, check_priority, check_prompt


class Stream(Protocol):
    """A request on its way: what the executor gets, and what becomes of the executor's chunks."""

    token_request: TokenRequest

    @property
    def finished(self) -> bool: ...

    def feed(self, chunk: TokenChunk) -> tuple[list[Chunk], list[Abort]]:
        """What the user gets, and what the executor must end because of it."""
        ...


class RequestStream:
    """Turns a GenerateRequest into the executor's `token_request`, and the executor's chunks into text."""

    def __init__(self, request: GenerateRequest, tokenizer: Tokenizer, limits: Limits) -> None:
        """Raises RequestError for whatever the engine cannot honour."""
        check_params(request.params, tokenizer.vocab_size)
        check_priority(request.priority)
        token_ids = tokenizer.encode_prompt(request.prompt, max_len=limits.max_model_len)
        check_prompt(token_ids, request.params, limits, tokenizer.vocab_size)
        self.token_request = TokenRequest(
            request_id=request.request_id,
            token_ids=token_ids,
            params=request.params,
            cache_salt=request.cache_salt,
            priority=request.priority,
        )
        self._texts = [SequenceText(self.token_request, index, tokenizer) for index in range(request.params.n)]

    @property
    def finished(self) -> bool:
        """Whether every sequence has had its last chunk."""
        return all(text.finished for text in self._texts)

    def feed(self, chunk: TokenChunk) -> tuple[list[Chunk], list[Abort]]:
        """New text, and the sequences that the executor must end because of it. Nothing for a sequence that has ended."""
        text = self._texts[chunk.index]
        return ([], []) if text.finished else text.feed(chunk)


class SequenceText:
    """The text of one sequence so far: characters still incomplete and possible stop strings are held back."""

    def __init__(self, request: TokenRequest, index: int, tokenizer: Tokenizer) -> None:
        params = request.params
        self.finished = False
        self._request = request
        self._index = index
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder(request.token_ids, skip_special_tokens=params.skip_special_tokens)
        self._matcher = StopMatcher(params.stop, include=params.include_stop_in_output)
        self._num_tokens = 0

    def feed(self, chunk: TokenChunk) -> tuple[list[Chunk], list[Abort]]:
        """One Chunk, and an Abort where a stop string ended the text before the executor ended the sequence."""
        is_first = self._num_tokens == 0
        text, stop, taken = self._read(chunk)
        self.finished = stop is not None or chunk.finish_reason is not None
        abort = stop is not None and chunk.finish_reason is None
        found = chunk.prompt_logprobs
        sampled = self._logprobs(chunk.token_ids[:taken], chunk.logprobs or [])
        logprobs = [one for one in sampled if one is not None] or None
        told = Chunk(
            index=self._index,
            text=text,
            token_ids=chunk.token_ids[:taken],
            logprobs=logprobs,
            prompt_token_ids=self._request.token_ids if is_first else None,
            prompt_logprobs=None if found is None else self._logprobs(self._request.token_ids, found),
            finish_reason=chunk.finish_reason if stop is None else "stop",
            stop_reason=chunk.stop_reason if stop is None else stop,
            usage=self._usage(chunk) if self.finished else None,
            queue_seconds=chunk.queue_seconds,
        )
        return [told], [Abort(request_id=self._request.request_id, index=self._index)] if abort else []

    def _read(self, chunk: TokenChunk) -> tuple[str, str | None, int]:
        """The text that is out now, the stop string that ended it, and how many of the chunk's tokens belong to it."""
        params = self._request.params
        text = ""
        silent = chunk.finish_reason == "stop" and not params.include_stop_in_output  # of the last token
        for taken, token_id in enumerate(chunk.token_ids, 1):
            self._num_tokens += 1
            if silent and taken == len(chunk.token_ids):
                break
            out, stop = self._matcher.push(self._decoder.push(token_id), may_stop=self._num_tokens >= params.min_tokens)
            text += out
            if stop is not None:
                return text, stop, taken
        if chunk.finish_reason is not None:
            out, stop = self._matcher.push(self._decoder.flush(), may_stop=self._num_tokens >= params.min_tokens)
            text += out + self._matcher.flush()
            if stop is not None:
                return text, stop, len(chunk.token_ids)
        return text, None, len(chunk.token_ids)

    def _usage(self, chunk: TokenChunk) -> Usage:
        return Usage(
            prompt_tokens=len(self._request.token_ids),
            completion_tokens=self._num_tokens,
            cached_tokens=chunk.cached_tokens,
        )

    def _logprobs(self, token_ids: list[int], found: list[TokenLogprobs | None]) -> list[Logprob | None]:
        return [
            None if one is None else self._logprob(token_id, one)
            for token_id, one in zip(token_ids, found, strict=False)  # a stop string may have cut the tokens short
        ]

    def _logprob(self, token_id: int, found: TokenLogprobs) -> Logprob:
        best = [self._spelled(other, logprob, rank) for rank, (other, logprob) in enumerate(found.top, 1)]
        return msgspec.structs.replace(self._spelled(token_id, found.logprob, found.rank), top=best)

    def _spelled(self, token_id: int, logprob: float, rank: int) -> Logprob:
        spelled = self._tokenizer.token_bytes(token_id)
        text = spelled.decode("utf-8", "replace")
        return Logprob(token_id=token_id, text=text, bytes=list(spelled), logprob=logprob, rank=rank)


def as_error(failed: RequestFailed | ExecutorFailed) -> IngotError:
    """The error that the executor met, to be raised to the one who asked."""
    kinds = {kind.code: kind for kind in IngotError.__subclasses__()}
    return kinds.get(failed.code, IngotError)(failed.message, mend=failed.mend)
