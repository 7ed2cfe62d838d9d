"""What a grammar may be before anybody compiles it: sizes, and for JSON schemas every keyword. No torch and no xgrammar.

A keyword that could not be enforced is refused rather than ignored: an answer that does not fit its schema is a wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

from ingot.errors import RequestError
from ingot.runtime.grammars.expressions import misread
from ingot.runtime.grammars.tags import FORMATS, objects_of_tag
from ingot.runtime.params import Grammar

MAX_CHARS = 1 << 16
TAG_COPIES = 4  # of a schema that a structural tag may hold, one for each place where a call may stand
MAX_CHOICES = 1024
MAX_DEPTH = 64  # of nested schemas
MAX_SCHEMAS = 2048  # in one schema
MAX_BRANCHES = 256  # of one anyOf
MAX_ENUM = 1024
MAX_COUNT = 1 << 14  # items, characters, properties that a schema may ask for

TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
NAMES_OF_TYPES: dict[type, frozenset[str]] = {  # of what a JSON decoder makes
    bool: frozenset({"boolean"}),
    dict: frozenset({"object"}),
    float: frozenset({"number"}),
    int: frozenset({"integer", "number"}),
    list: frozenset({"array"}),
    str: frozenset({"string"}),
    type(None): frozenset({"null"}),
}
ONE = ("additionalProperties", "items", "propertyNames", "unevaluatedItems", "unevaluatedProperties")  # hold a schema
MANY = ("allOf", "anyOf", "oneOf", "prefixItems")  # hold a list of schemas
NAMED = ("$defs", "definitions", "patternProperties", "properties")  # hold schemas by name
COUNTS = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")
NUMBERS = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
NEEDS_TYPE = frozenset({*COUNTS, *NUMBERS, "format", "pattern"})
UNSUPPORTED = frozenset(
    {"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "contains", "dependencies", "dependentRequired"}
    | {"dependentSchemas", "else", "if", "maxContains", "minContains", "not", "then"}
)
NOT_IN_STRINGS = (
    '"',
    r"\\",
    r"\x",
    r"\u00",
)  # a pattern is matched against the JSON text, not the string it stands for
REPLACES_THE_REST = ("$ref", "const", "enum", *MANY[:3])  # beside these, xgrammar reads no other constraint
SAYS_NOTHING = frozenset(
    {"$comment", "$id", "$schema", "default", "deprecated", "description", "discriminator", "examples", "readOnly"}
    | {"title", "type", "writeOnly", "$defs", "definitions"}
)


def check_grammar(grammar: Grammar, *, max_chars: int = MAX_CHARS, max_depth: int = MAX_DEPTH) -> None:
    """Raises RequestError, for a schema with the path of what is wrong in it."""
    allowed = max_chars * (TAG_COPIES if grammar.kind == "structural_tag" else 1)
    if len(grammar.text) > allowed:
        refuse(f"The grammar has {len(grammar.text)} characters; {allowed} are allowed.", "Send a smaller one.")
    if not grammar.text:
        refuse("The grammar is empty.", "Send one, or leave it out.")
    if grammar.kind == "choice":
        choices = decoded(grammar.text)
        if not isinstance(choices, list) or not 1 <= len(choices) <= MAX_CHOICES:
            refuse(f"The choices are not a list of 1 to {MAX_CHOICES}.", "Send a list of strings.")
        if not all(isinstance(choice, str) and choice for choice in choices):
            refuse("A choice is empty or no string.", "Send a list of strings.")
    if grammar.kind == "regex" and (said := misread(grammar.text)) is not None:
        refuse(f"The expression {said}.", "Anchor it as a whole or not at all, and spell it without.")
    if grammar.kind == "json_schema":
        check_schema(decoded(grammar.text), max_depth)
    if grammar.kind == "structural_tag":
        check_tag(decoded(grammar.text), max_depth)


def decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        refuse(f"The schema nests deeper than {MAX_DEPTH} levels.", "Flatten it.")
    except msgspec.DecodeError as error:
        refuse(f"The grammar is not valid JSON: {error}.", "Correct it.")


def check_tag(tag: Any, max_depth: int) -> None:
    """Its types of format, its schemas and its expressions; the rest is xgrammar's to refuse."""
    for place in objects_of_tag(tag):
        kind = place.get("type")
        if kind not in FORMATS:
            refuse(f"A structural tag of the type {str(kind)[:80]!r}.", f"Use {', '.join(sorted(FORMATS))}.")
        if kind == "json_schema":
            check_schema(place.get("json_schema"), max_depth)
        if kind == "regex" and (said := misread(str(place.get("pattern")))) is not None:
            refuse(f"An expression of the structural tag {said}.", "Spell it without.")


def check_schema(schema: Any, max_depth: int = MAX_DEPTH) -> None:
    level: list[tuple[str, Any]] = [("#", schema)]
    total = 0
    for _ in range(max_depth):
        total += len(level)
        if total > MAX_SCHEMAS:
            refuse(f"The schema holds more than {MAX_SCHEMAS} schemas.", "Send a smaller one.")
        for path, one in level:
            check_one(path, one, schema)
        level = [below for path, one in level if isinstance(one, dict) for below in children(path, one)]
        if not level:
            return
    refuse(f"The schema nests deeper than {max_depth} levels, at {level[0][0][:200]}.", "Flatten it.")


def children(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in ONE:
        if key in schema:
            yield f"{path}/{key}", schema[key]
    for key in MANY:
        yield from ((f"{path}/{key}/{i}", one) for i, one in enumerate(schema.get(key, ())))
    for key in NAMED:
        yield from ((f"{path}/{key}/{name}", one) for name, one in schema.get(key, {}).items())


def check_one(path: str, schema: Any, root: Any) -> None:
    """One schema without those below it, whose containers are looked at so that `children` can walk them."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        invalid(path, "is no schema; a schema is an object or a boolean")
    for key in schema.keys() & UNSUPPORTED:
        unsupported(f"{path}/{key}", "cannot be enforced while text is generated")
    check_type(path, schema)
    check_containers(path, schema)
    check_values(path, schema)
    check_combination(path, schema)
    if "$ref" in schema:
        check_ref(f"{path}/$ref", schema["$ref"], root)


def check_type(path: str, schema: dict[str, Any]) -> None:
    found = schema.get("type", [])
    for name in found if isinstance(found, list) else [found]:
        if not isinstance(name, str) or name not in TYPES:
            invalid(f"{path}/type", f"is {str(name)[:80]!r}; types are {', '.join(sorted(TYPES))}")


def check_containers(path: str, schema: dict[str, Any]) -> None:
    for key in NAMED:
        if not isinstance(schema.get(key, {}), dict):
            invalid(f"{path}/{key}", "is no object of schemas")
    for key in MANY:
        if not isinstance(schema.get(key, []), list) or schema.get(key) == []:
            invalid(f"{path}/{key}", "is no list of schemas")
        if len(schema.get(key, [])) > MAX_BRANCHES:
            unsupported(f"{path}/{key}", f"has {len(schema[key])} entries; {MAX_BRANCHES} are allowed")
    if len(schema.get("allOf", [])) > 1:
        unsupported(f"{path}/allOf", "has several entries, whose intersection cannot be enforced")
    enum = schema.get("enum", [None])
    if not isinstance(enum, list) or not 1 <= len(enum) <= MAX_ENUM:
        invalid(f"{path}/enum", f"is no list of 1 to {MAX_ENUM} values")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        invalid(f"{path}/required", "is no list of names")
    for name in required:
        if name not in schema.get("properties", {}):
            unsupported(f"{path}/required", f"names {name[:80]!r}, which is not among the properties")


def check_values(path: str, schema: dict[str, Any]) -> None:
    for key in COUNTS:
        value = schema.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            invalid(f"{path}/{key}", "is no whole number from 0 on")
        if value > MAX_COUNT:
            unsupported(f"{path}/{key}", f"is {value}; at most {MAX_COUNT} is allowed")
    for key in NUMBERS:
        if not isinstance(schema.get(key, 0), int | float) or isinstance(schema.get(key), bool):
            invalid(f"{path}/{key}", "is no number")
    for key in ("format", "pattern", "$ref"):
        if not isinstance(schema.get(key, ""), str):
            invalid(f"{path}/{key}", "is no string")
    if any(sign in schema.get("pattern", "") for sign in NOT_IN_STRINGS):
        unsupported(f"{path}/pattern", "has a quote, a backslash or a coded character, which JSON strings must escape")
    if (said := misread(schema.get("pattern", ""))) is not None:
        unsupported(f"{path}/pattern", said)
    if schema.get("uniqueItems"):
        unsupported(f"{path}/uniqueItems", "cannot be enforced while text is generated")


def check_combination(path: str, schema: dict[str, Any]) -> None:
    for key in REPLACES_THE_REST:
        beside = sorted(schema.keys() - SAYS_NOTHING - {key}) if key in schema else []
        if beside:
            unsupported(f"{path}/{beside[0]}", f"stands beside {key}, where it cannot be enforced")
    bounds = sorted(schema.keys() & NEEDS_TYPE)
    if bounds and "type" not in schema:
        unsupported(f"{path}/{bounds[0]}", "stands in a schema without a type")
    if "multipleOf" in schema and (schema.get("type") != "integer" or schema["multipleOf"] % 1 != 0):
        unsupported(f"{path}/multipleOf", "can be enforced for integers only")
    if "pattern" in schema and schema.keys() & {"minLength", "maxLength"}:
        unsupported(f"{path}/pattern", "stands beside a length, which belongs into the pattern then")
    if "format" in schema and (beside := sorted(schema.keys() & {"maxLength", "minLength", "pattern"})):
        unsupported(f"{path}/{beside[0]}", "stands beside format, where it cannot be enforced")
    values = {"enum": schema.get("enum", []), "const": [schema["const"]] if "const" in schema else []}
    for key, listed in values.items():
        if "type" in schema and not all(is_of(value, schema["type"]) for value in listed):
            unsupported(f"{path}/{key}", "has a value that is not of the schema's type")


def is_of(value: Any, types: str | list[str]) -> bool:
    """Whether a JSON value is of one of the types; 1.0 is an integer too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return not NAMES_OF_TYPES[type(value)].isdisjoint([types] if isinstance(types, str) else types)


def check_ref(path: str, ref: str, root: Any) -> None:
    if ref != "#" and not ref.startswith("#/"):
        unsupported(path, f"is {ref[:80]!r}; only references within the schema are followed")
    target = root
    for step in ref.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdecimal() and len(name) < 6 and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, dict) and name in target:
            target = target[name]
        else:
            invalid(path, f"is {ref[:80]!r}, which is nowhere in the schema")


def invalid(path: str, what: str) -> NoReturn:
    refuse(f"The schema is not valid: {path[:300]} {what}.", "Correct it.")


def unsupported(path: str, what: str) -> NoReturn:
    refuse(f"The schema cannot be honoured: {path[:300]} {what}.", "Leave it out, or check it after the answer.")


def refuse(message: str, mend: str) -> NoReturn:
    raise RequestError(message, mend=mend, param="grammar")
