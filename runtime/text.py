"""The engine's tokenizer: prompts to token ids and back. Knows the tokenizer's files; no torch, no requests in flight."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tokenizers

from ingot.errors import EngineError, RequestError
from ingot.runtime.decoding import BytesDecoder, Spelling, TextDecoder, WindowDecoder
from ingot.runtime.grammars.messages import Vocabulary
from ingot.runtime.request import Prompt
from ingot.runtime.template import ChatTemplate

TEMPLATE_FILE = "chat_template.jinja"
REBUILD = "Build the engine again from a complete checkpoint."


class Tokenizer:
    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        vocab_size: int | None = None,
        eos_token_ids: Sequence[int] = (),
        chat_template: ChatTemplate | None = None,
    ) -> None:
        """`vocab_size` is the model's, which may be padded beyond the tokenizer's; the tokenizer's if None."""
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.vocab_size = vocab_size or backend.get_vocab_size(with_added_tokens=True)
        self.eos_token_ids = tuple(eos_token_ids)
        self._chat_template = chat_template
        self._spelling = Spelling(json.loads(backend.to_str())["decoder"])
        added = backend.get_added_tokens_decoder()
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        self._longest_token = max(map(len, backend.get_vocab(with_added_tokens=True)), default=1)
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_engine(cls, engine: Path) -> Tokenizer:
        """Reads tokenizer.json, config.json, generation_config.json and the chat template. Raises EngineError."""
        path = engine / "tokenizer.json"
        if not path.is_file():
            raise EngineError(f"{engine} has no tokenizer.json.", mend=REBUILD)
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise EngineError(f"{path} is not a tokenizer: {error}.", mend=REBUILD) from error
        config = read_json(engine / "config.json")
        text_config = config.get("text_config", config)
        eos = read_json(engine / "generation_config.json").get("eos_token_id")
        eos = text_config.get("eos_token_id") if eos is None else eos
        return cls(
            backend,
            vocab_size=text_config.get("vocab_size"),
            eos_token_ids=[] if eos is None else [eos] if isinstance(eos, int) else eos,
            chat_template=_read_chat_template(engine),
        )

    @property
    def has_chat_template(self) -> bool:
        return self._chat_template is not None

    @property
    def template_source(self) -> str:
        """The chat template with which tools are rendered; empty where there is none."""
        return "" if self._chat_template is None else self._chat_template.source(with_tools=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Raises RequestError for text that is not Unicode (lone surrogates)."""
        check_unicode(text)
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_cut(self, text: str, most: int, *, side: Literal["left", "right"]) -> list[int]:
        """At most `most` tokens, special ones included: what is too much is left out on that side of the text."""
        # Characters that cannot matter are cut first, for nobody should pay for tokens that are thrown away.
        longest = most * self._longest_token
        text = text[-longest:] if side == "left" else text[:longest]
        check_unicode(text)
        room = max(0, most - self._backend.num_special_tokens_to_add(False))
        encoding = self._backend.encode(text, add_special_tokens=False)
        encoding.truncate(room, direction=side)
        return list(self._backend.post_process(encoding, add_special_tokens=True).ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return str(self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def encode_prompt(self, prompt: Prompt, *, max_len: int | None = None) -> list[int]:
        """The prompt's token ids. Text that cannot fit into `max_len` tokens is refused before it is tokenized."""
        given = [name for name in ("text", "token_ids", "messages") if getattr(prompt, name) is not None]
        if len(given) != 1:
            raise RequestError(
                f"A prompt is one of text, token_ids and messages; given: {', '.join(given) or 'none'}.",
                param="prompt",
                mend="Send exactly one.",
            )
        if prompt.token_ids is not None:
            return prompt.token_ids
        text = prompt.text or "" if prompt.messages is None else self.render_chat(prompt)
        if max_len is not None and len(text) > max_len * self._longest_token:
            raise RequestError(
                f"The prompt has {len(text)} characters; the engine takes {max_len} tokens, "
                f"of {self._longest_token} characters at most.",
                param="prompt" if prompt.messages is None else "messages",
                mend="Shorten the prompt.",
            )
        return self.encode(text, add_special_tokens=prompt.messages is None and prompt.add_special_tokens)

    def render_chat(self, prompt: Prompt) -> str:
        if self._chat_template is None:
            raise RequestError(
                "This engine has no chat template, so it cannot read messages.",
                param="messages",
                mend="Send a text prompt, or build from a checkpoint that has a chat template.",
            )
        if not prompt.messages:
            raise RequestError("There are no messages.", param="messages", mend="Send at least one message.")
        return self._chat_template.render(prompt)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; for tokenizers without fixed bytes, those of the token decoded alone."""
        found = self._bytes.get(token_id)
        if found is None:
            if self._spelling.known:
                found = self._spelling.bytes_of(self._backend.id_to_token(token_id) or "")
            else:
                found = self.decode([token_id], skip_special_tokens=False).encode()
            self._bytes[token_id] = found
        return found

    def vocabulary(self) -> Vocabulary:
        """What grammars may be spelled with: every token but the special ones and those that only pad the model."""
        known = self._backend.get_vocab_size(with_added_tokens=True)
        spelled = [b"" if i >= known or i in self._special else self.token_bytes(i) for i in range(self.vocab_size)]
        marks = [i for i in self._special if i < self.vocab_size and i not in self.eos_token_ids]
        special = {i: self.token_bytes(i) for i in marks}
        return Vocabulary(tokens=spelled, eos_token_ids=list(self.eos_token_ids), special=special)

    def decoder(self, prompt: Sequence[int], *, skip_special_tokens: bool) -> TextDecoder:
        """Follows the tokens that come after `prompt`."""
        if self._spelling.known:
            skip = self._special if skip_special_tokens else frozenset()
            return BytesDecoder(self.token_bytes, prompt, skip=skip, strip=self._spelling.strip)
        return WindowDecoder(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens), prompt)


def check_unicode(text: str) -> None:
    """Raises RequestError for lone surrogates, which JSON can spell."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The prompt is not valid Unicode at character {error.start}.", param="prompt", mend="Send valid UTF-8."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The file's object; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise EngineError(f"{path} is not valid JSON: {error}.", mend=REBUILD) from error
    if not isinstance(found, dict):
        raise EngineError(f"{path} holds no JSON object.", mend=REBUILD)
    return found


def _read_chat_template(engine: Path) -> ChatTemplate | None:
    """From chat_template.jinja, or else from tokenizer_config.json, where it is a string or a list of named ones."""
    config = read_json(engine / "tokenizer_config.json")
    found = config.get("chat_template")
    if (engine / TEMPLATE_FILE).is_file():
        found = (engine / TEMPLATE_FILE).read_text(encoding="utf-8")
    if isinstance(found, list):
        sources = {entry["name"]: entry["template"] for entry in found}
    else:
        sources = {"default": found} if isinstance(found, str) else {}
    if "default" not in sources:
        return None
    tokens = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {name: value["content"] if isinstance(value, dict) else value for name, value in tokens.items()}
    return ChatTemplate(sources, {name: text for name, text in texts.items() if isinstance(text, str)})
