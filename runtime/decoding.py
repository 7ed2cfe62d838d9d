"""Token ids in, text out, one token at a time. Knows how tokenizers spell text as tokens; no requests, no files.

Most tokenizers spell text as bytes: a token is a fixed run of bytes wherever it stands, so an incremental UTF-8 decoder
gives text that is exact, holds back only an incomplete character, and costs one lookup per token. Where a tokenizer's
decoder is none of those known here, WindowDecoder asks the tokenizer itself, as vLLM and TGI do.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Any, Protocol

REPLACEMENT = "\ufffd"
WINDOW = 5  # prompt tokens that a WindowDecoder shows the tokenizer as context
LONGEST_CHARACTER = 4  # bytes, hence tokens, of one UTF-8 character


class TextDecoder(Protocol):
    def push(self, token_id: int) -> str:
        """The text that this token completes; may be empty."""
        ...

    def flush(self) -> str:
        """What was held back, at the end of the text: the replacement character for an incomplete one."""
        ...


class BytesDecoder:
    """Follows tokens that are runs of bytes. Invalid bytes become U+FFFD, as Python's and Rust's lossy decoders do it."""

    def __init__(
        self, token_bytes: Callable[[int], bytes], prompt: Sequence[int], *, skip: frozenset[int], strip: int
    ) -> None:
        """`skip`: ids without text. `strip`: leading spaces that the tokenizer's first visible token gives up."""
        self._token_bytes = token_bytes
        self._skip = skip
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        tail = b""
        for token_id in reversed(prompt):
            if len(tail) >= LONGEST_CHARACTER:
                break
            if token_id not in skip:
                tail = token_bytes(token_id) + tail
        self._utf8.decode(tail[-LONGEST_CHARACTER + 1 :])  # the prompt may end within a character
        self._strip = 0 if tail else strip

    def push(self, token_id: int) -> str:
        if token_id in self._skip:
            return ""
        text = self._utf8.decode(self._token_bytes(token_id))
        while self._strip and text:
            if text[0] != " ":
                self._strip = 0
                break
            text = text[1:]
            self._strip -= 1
        return text

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class WindowDecoder:
    """Decodes a short window with and without the newest tokens, and takes the difference."""

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt[-WINDOW:])
        self._read = len(self._ids)  # tokens of the window whose text is out

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        return self._advance(final=False)

    def flush(self) -> str:
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        shown = self._decode(self._ids[: self._read])
        text = self._decode(self._ids)
        may_be_cut = text.endswith(REPLACEMENT) and len(self._ids) - self._read < LONGEST_CHARACTER
        if len(text) <= len(shown) or (may_be_cut and not final):
            return ""
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        return text[len(shown) :]


class Spelling:
    """How a tokenizer writes bytes as the characters of a token, read off the `decoder` of its tokenizer.json.

    `known` is False for decoders whose tokens are not fixed runs of bytes.
    """

    def __init__(self, decoder: dict[str, Any] | None) -> None:
        steps = [] if decoder is None else decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
        kinds = [step["type"] for step in steps]
        self.byte_level = kinds == ["ByteLevel"]
        self._byte_fallback = "ByteFallback" in kinds
        self._replacements: list[tuple[str, str]] = []
        self.strip = 0
        self.known = self.byte_level or ("Fuse" in kinds and all(self._take(step) for step in steps))

    def _take(self, step: dict[str, Any]) -> bool:
        match step:
            case {"type": "Replace", "pattern": {"String": pattern}, "content": content}:
                self._replacements.append((pattern, content))
            case {"type": "Strip", "content": " ", "start": start, "stop": 0}:
                self.strip = start
            case {"type": "ByteFallback" | "Fuse"}:
                pass
            case _:
                return False
        return True

    def bytes_of(self, token: str) -> bytes:
        if self.byte_level:
            try:
                return bytes(BYTE_OF[character] for character in token)
            except KeyError:  # an added token, spelled as itself
                return token.encode()
        if self._byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:  # no hexadecimal number: a token like any other
                pass
        for pattern, content in self._replacements:
            token = token.replace(pattern, content)
        return token.encode()


def _byte_of() -> dict[str, int]:
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others for the characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


BYTE_OF = _byte_of()
