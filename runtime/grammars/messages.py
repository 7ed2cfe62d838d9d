"""What the executor and the compile process say to each other: msgpack, one question and one answer per socket."""

from __future__ import annotations

import msgspec


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """What each token id spells; nothing for ids that no grammar may use, special tokens above all."""

    tokens: list[bytes]
    eos_token_ids: list[int]
    # What the special ones are written as, for texts that hold some: marks of calls, of thoughts.
    special: dict[int, bytes] = {}


class Compiled(msgspec.Struct, frozen=True, kw_only=True, tag="compiled"):
    """xgrammar's serialized form, which is JSON; none where it grows with the square of the grammar and costs far more than
    compiling does: that it can be compiled at little cost is then the whole answer."""

    text: str | None


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    reason: str


Answer = Compiled | Refused
encode = msgspec.msgpack.Encoder().encode
