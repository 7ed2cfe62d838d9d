"""Frames between the text side and the executor: a length, then a msgpack array of messages. Knows no meaning, never unpickles."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from ingot.runtime.messages import FromExecutor, ToExecutor

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 28  # far above any honest frame; a larger length means the stream is out of step

Message = TypeVar("Message")
_encoder = msgspec.msgpack.Encoder()


def to_frame(messages: Sequence[ToExecutor] | Sequence[FromExecutor]) -> bytes:
    body = _encoder.encode(messages)
    return LENGTH.pack(len(body)) + body


class FrameReader(Generic[Message]):
    """Turns received bytes, cut anywhere, back into messages. Raises msgspec.DecodeError on anything but a frame."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[Message]]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._buffer, start)
            if size > MAX_FRAME_BYTES:
                raise msgspec.DecodeError(f"a frame of {size} bytes is larger than {MAX_FRAME_BYTES}")
            end = start + LENGTH.size + size
            if len(self._buffer) < end:
                break
            messages += self._decoder.decode(bytes(self._buffer[start + LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return messages


def requests_reader() -> FrameReader[ToExecutor]:
    return FrameReader(msgspec.msgpack.Decoder(list[ToExecutor]))


def replies_reader() -> FrameReader[FromExecutor]:
    return FrameReader(msgspec.msgpack.Decoder(list[FromExecutor]))
