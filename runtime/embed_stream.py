"""One embedding between its user and the executor: text and checks on one side, tokens and a vector on the other."""

from __future__ import annotations

from ingot.errors import RequestError
from ingot.manifest import Manifest
from ingot.runtime.messages import Abort, TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import Chunk, EmbedRequest, Usage
from ingot.runtime.text import Tokenizer
from ingot.runtime.validate import check_embed, check_priority, check_task

NO_TOKENS = SamplingParams(max_tokens=1, temperature=0.0, seed=0)


class EmbedStream:
    """As runtime/streams.py's RequestStream, for an EmbedRequest: one chunk ends it."""

    def __init__(self, request: EmbedRequest, tokenizer: Tokenizer, manifest: Manifest) -> None:
        """Raises RequestError for whatever the engine cannot honour."""
        check_task(manifest, "embed")
        check_priority(request.priority)
        token_ids = prompt_tokens(request, tokenizer, manifest.limits.max_model_len)
        pooling = request.pooling or (manifest.embedding.pooling if manifest.embedding is not None else "mean")
        check_embed(token_ids, pooling, manifest, tokenizer.vocab_size)
        self.token_request = TokenRequest(
            request_id=request.request_id,
            token_ids=token_ids,
            params=NO_TOKENS,
            priority=request.priority,
            pooling=pooling,
        )
        self.finished = False

    def feed(self, chunk: TokenChunk) -> tuple[list[Chunk], list[Abort]]:
        """The chunk with the vector, or the one that says that the request was aborted."""
        if self.finished:
            return [], []
        self.finished = True
        usage = Usage(
            prompt_tokens=len(self.token_request.token_ids), completion_tokens=0, cached_tokens=chunk.cached_tokens
        )
        found = Chunk(
            index=0, text="", token_ids=[], finish_reason=chunk.finish_reason, usage=usage, vector=chunk.vector
        )
        return [found], []


def prompt_tokens(request: EmbedRequest, tokenizer: Tokenizer, most: int) -> list[int]:
    """The text's tokens; with `truncate`, at most `most` of them, special tokens included."""
    try:
        if request.truncate is None:
            return tokenizer.encode_prompt(request.prompt, max_len=most)
        if request.prompt.text is not None:
            return tokenizer.encode_cut(request.prompt.text, most, side=request.truncate)
    except RequestError as error:
        raise RequestError(error.message, mend=error.mend, param="input") from error
    token_ids = tokenizer.encode_prompt(request.prompt)
    return token_ids[-most:] if request.truncate == "left" else token_ids[:most]
