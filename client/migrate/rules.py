"""What a table says of one flag: where it goes, or why it goes nowhere. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Place = Literal["model", "build", "serve", "same", "lost"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    place: Place
    option: str = ""  # of ingot build or ingot serve
    values: Mapping[str, str] | None = None  # theirs to ours; None: as it is. "" asks for nothing
    words: Literal["none", "one", "many"] = "one"  # that follow the flag
    reason: str = ""  # why it is lost, or needs nothing; of a rule with values, why another value cannot be had


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """One program's command line."""

    name: str
    programs: tuple[tuple[str, ...], ...]  # the words that begin it
    flags: Mapping[str, Rule]
    aliases: Mapping[str, str] = field(default_factory=dict)
    default_host: str
    default_port: str
    names_whole_model: bool  # the served name is the model as it was given, not its last part


def model() -> Rule:
    return Rule(place="model")


def build(option: str, values: Mapping[str, str] | None = None, *, reason: str = "") -> Rule:
    return Rule(place="build", option=option, values=values, reason=reason)


def serve(option: str, values: Mapping[str, str] | None = None, *, many: bool = False) -> Rule:
    return Rule(place="serve", option=option, values=values, words="many" if many else "one")


def same(reason: str, *, words: Literal["none", "one", "many"] = "none") -> Rule:
    """ingot does so without being asked."""
    return Rule(place="same", words=words, reason=reason)


def lost(reason: str, *, words: Literal["none", "one", "many"] = "one") -> Rule:
    return Rule(place="lost", words=words, reason=reason)


ONE_DEVICE = "an engine runs on one device; start one server per device"
SIZED = "ingot sizes its KV pool itself; on cpu, ingot build --kv-memory does"
OTHER_QUANT = "ingot reads modelopt and compressed-tensors checkpoints; of others build the original, --quant int4, int8, fp8 or nvfp4"
NO_CODE = "ingot never runs code from a checkpoint"
NO_LORA = "adapters are not supported; merge them into the checkpoint"
NO_DRAFT = "speculative decoding is not supported"
NO_MEDIA = "text models only"
TOOLS_ON = "tools are read wherever a request sends them"
THOUGHTS_ON = "thoughts are told apart wherever --reasoning-parser is given"
ONE_SERVER = "one process serves an engine"
BY_HAND = "its settings must be carried over by hand"
ONE_GRAMMAR = "there is one grammar backend, xgrammar"
NO_PAGES = "cross-origin requests are not answered"
END_TLS = "put a proxy in front that ends TLS"
NO_EVENTS = "KV events are not published"
TEXTS = "templates are given a message's text"
LONG_PROMPTS = "a prompt that is too long is refused"
NO_OFFLOAD = "weights and KV stay on the device"
ONE_BACKEND = "the engine's target decides on kernels"
SAFE_FORMAT = "ingot reads safetensors only"
CAPTURED = "ingot decides this when it builds"
CACHED = "the prefix cache is always on"
CHUNKED = "prompts are always chunked"
LOGGED = "there is no such log; /metrics and --log-level say what happens"
METERED = "/metrics is always there"
TEMPLATE = "the checkpoint's own chat template is used; put yours into it and build again"
AT_BUILD = "give it to ingot build when it fetches the model"

DTYPES = {
    "auto": "",
    "half": "float16",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float": "float32",
    "float32": "float32",
}
KV_DTYPES = {"auto": "", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e4m3fn": "fp8"}
DECLARED = ""  # the checkpoint says so itself
