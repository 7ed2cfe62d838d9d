"""A command line of another server to ingot's two: pure functions over the tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from ingot.client.migrate.rules import Dialect, Rule
from ingot.client.migrate.sglang import SGLANG
from ingot.client.migrate.tgi import TGI
from ingot.client.migrate.trtllm import TRTLLM
from ingot.client.migrate.vllm import VLLM
from ingot.errors import RequestError

DIALECTS = (VLLM, SGLANG, TGI, TRTLLM)
UNKNOWN = Rule(place="lost", words="one", reason="ingot's tables do not know this flag")
SERVE_DEFAULTS = {"--host": "127.0.0.1", "--port": "8000"}


@dataclass(slots=True)
class Migration:
    dialect: Dialect
    model: str = ""
    build: list[str] = field(default_factory=list)
    serve: list[str] = field(default_factory=list)
    same: list[tuple[str, str]] = field(default_factory=list)  # what was given, and why nothing is needed
    lost: list[tuple[str, str]] = field(default_factory=list)  # what was given, and why it cannot be had


def migrate(command: str) -> Migration:
    """Raises RequestError where the line is no command of a server in the tables, or names no model."""
    try:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise RequestError(f"The command line does not parse: {error}.", mend="Close its quotes.") from error
    dialect, before, after = find_program([word for word in words if word.strip()])
    found = Migration(dialect)
    if before:
        found.lost.append((shlex.join(before), "it stands before the server's command"))
    read_flags(found, after)
    if not found.model:
        raise RequestError(f"The command line of {dialect.name} names no model.", mend="Add it.")
    add_defaults(found)
    return found


def find_program(words: Sequence[str]) -> tuple[Dialect, list[str], list[str]]:
    """The dialect, the words before its program (an interpreter aside) and those after. An image may be told its program."""
    for start in range(len(words)):
        for dialect in DIALECTS:
            for program in dialect.programs:
                if not stands_at(words, start, program):
                    continue
                if "/" in program[0]:
                    start = program_in_image(words, start, dialect) or start
                    program = next((one for one in dialect.programs if stands_at(words, start, one)), program)
                before = [word for word in words[:start] if not re.fullmatch(r"(.*/)?python[\d.]*", word)]
                return dialect, before, list(words[start + len(program) :])
    known = ", ".join(" ".join(dialect.programs[0]) for dialect in DIALECTS)
    raise RequestError("This is no command line that ingot can read.", mend=f"Known are: {known}.")


def program_in_image(words: Sequence[str], image: int, dialect: Dialect) -> int | None:
    """Where a program of the dialect stands behind the image: `docker run lmsysorg/sglang python3 -m sglang...`."""
    places = range(image + 1, len(words))
    return next((i for i in places if any(stands_at(words, i, program) for program in dialect.programs)), None)


def stands_at(words: Sequence[str], start: int, program: Sequence[str]) -> bool:
    found = words[start : start + len(program)]
    return len(found) == len(program) and all(map(begins, found, program))


def begins(word: str, part: str) -> bool:
    """A program may be given with its folder, an image with its tag."""
    return word == part or word.endswith(f"/{part}") or ("/" in part and word.startswith(f"{part}:"))


def read_flags(found: Migration, words: list[str]) -> None:
    waiting = [part for word in words for part in ([word] if not is_flag(word) else word.split("=", 1))]
    while waiting:
        word = waiting.pop(0)
        if not is_flag(word):
            if found.model:
                found.lost.append((word, "it belongs to no flag"))
            found.model = found.model or word
            continue
        rule, flag = rule_of(found.dialect, word)
        values: list[str] = []
        while waiting and not is_flag(waiting[0]) and (rule.words == "many" or (rule.words == "one" and not values)):
            values.append(waiting.pop(0))
        apply(found, rule, flag, values)


def is_flag(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def rule_of(dialect: Dialect, word: str) -> tuple[Rule, str]:
    """The flag's rule, and the flag as it was given. A --no-... asks for what is so, or for what cannot be."""
    flag = word.replace("_", "-")
    flag = dialect.aliases.get(flag, flag)
    if flag in dialect.flags:
        return dialect.flags[flag], word
    positive = dialect.flags.get(flag.replace("--no-", "--", 1))
    if positive is None or not flag.startswith("--no-"):
        return UNKNOWN, word
    if positive.place == "same":
        return Rule(place="lost", words="none", reason=f"it cannot be switched off: {positive.reason}"), word
    return Rule(place="same", words="none", reason="it is off unless it is asked for"), word


def apply(found: Migration, rule: Rule, flag: str, values: list[str]) -> None:
    given = " ".join([flag, *values])
    if rule.place in ("same", "lost"):
        (found.same if rule.place == "same" else found.lost).append((given, rule.reason))
        return
    if not values:
        found.lost.append((given, "it has no value"))
        return
    if rule.place == "model":
        found.model = values[0]
        return
    ours = values[0] if rule.values is None else rule.values.get(values[0].lower())
    if ours is None:
        known = ", ".join(sorted({one for one in (rule.values or {}).values() if one}))
        found.lost.append((given, rule.reason or f"{rule.option} has no such value; it has {known}"))
        return
    into = found.build if rule.place == "build" else found.serve
    if not ours:
        found.same.append((given, "it is so where the checkpoint says so"))
    elif rule.option == "--api-key":
        into += [word for value in values for word in (rule.option, value)]
    else:
        into += [rule.option, ours]
        for other in values[1:]:
            found.lost.append((f"{flag} {other}", f"{rule.option} takes one value"))


def add_defaults(found: Migration) -> None:
    """Where the other server's defaults are not ours, they are said."""
    theirs = {"--host": found.dialect.default_host, "--port": found.dialect.default_port}
    for option, value in theirs.items():
        if option not in found.serve and value not in (SERVE_DEFAULTS[option], "localhost"):
            found.serve += [option, value]
    if found.dialect.names_whole_model and "--served-model-name" not in found.serve:
        found.serve += ["--served-model-name", found.model]


def engine_folder(found: Migration) -> str:
    """engines/NAME-QUANT, as the Makefile names them."""
    name = found.model.rstrip("/").rpartition("/")[2]
    options = dict(zip(found.build[::2], found.build[1::2], strict=True))
    tags = [options.get("--quant", ""), "kvfp8" if options.get("--kv") == "fp8" else ""]
    return "engines/" + "-".join([name, *filter(None, tags)])
