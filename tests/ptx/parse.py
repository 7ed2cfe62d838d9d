"""PTX text -> a list of instructions. Knows the syntax that NVRTC writes, and no instruction's meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    opcode: tuple[str, ...]  # its parts between dots
    operands: tuple[str, ...]
    guard: str  # the predicate that it runs under, or nothing
    negated: bool
    lines: tuple[int, ...]  # of the CUDA source: the innermost function's, then its callers'
    text: str

    def where(self) -> str:
        return f"`{self.text}` (source line {' < '.join(map(str, self.lines))})"


@dataclass(slots=True, kw_only=True)
class Kernel:
    """One entry point. `registers`: (type, count) by prefix. `shared`: offsets of the static shared variables."""

    name: str
    params: list[str] = field(default_factory=list)
    registers: dict[str, tuple[str, int]] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    static_bytes: int = 0
    dynamic: str = ""  # the name of the dynamic shared array
    cluster: int = 1
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


SHARED = re.compile(r"\.shared \.align (\d+) \.\w(\d+) (\w+)(?:\[(\d*)\])?;")
REGISTERS = re.compile(r"\.reg \.(\w+)\s+(%\w+?)<(\d+)>")
SCOPED = re.compile(r"\.reg \.(\w+) ([\w, ]+)$")
GUARDED = re.compile(r"@(!?)(\S+)\s+(.*)", re.DOTALL)
LOCATION = re.compile(r"\.loc\s+\d+ (\d+)|inlined_at \d+ (\d+)")


def parse(text: str) -> Kernel:
    """The only entry point of a module."""
    found = re.search(r"\.entry (\w+)\(", text)
    assert found, "no kernel in this PTX"
    kernel = Kernel(name=found[1])
    lines: tuple[int, ...] = ()
    scoped: dict[str, str] = {}
    pending = ""
    for raw in text.splitlines():
        line = raw.split("//")[0].strip()
        if not line or (not pending and outside_code(kernel, line)):
            continue
        if line.startswith(".loc"):
            here = tuple(int(a or b) for a, b in LOCATION.findall(line))
            lines = here
        elif line == "{":
            scoped = {}
        elif line == "}":
            continue
        elif line.endswith(":"):
            kernel.labels[line[:-1]] = len(kernel.code)
        else:
            pending += " " + line
            if not pending.endswith(";"):
                continue
            for statement in filter(None, (part.strip() for part in pending.split(";"))):
                if declared := SCOPED.match(statement):
                    for name in declared[2].replace(" ", "").split(","):
                        scoped[name] = f"%scoped{len(kernel.registers)}_0"
                        kernel.registers[f"%scoped{len(kernel.registers)}_"] = (declared[1], 1)
                else:
                    kernel.code.append(instruction(statement, lines, scoped))
            pending = ""
    return kernel


def outside_code(kernel: Kernel, line: str) -> bool:
    """Takes in a declaration or a directive, of which there is nothing to run."""
    if found := SHARED.search(line):
        align, bits, name, count = int(found[1]), found[2], found[3], found[4]
        if count == "":
            kernel.dynamic = name
            return True
        kernel.shared[name] = -(-kernel.static_bytes // align) * align
        kernel.static_bytes = kernel.shared[name] + int(bits) // 8 * int(count or 1)
        return True
    if found := REGISTERS.match(line):
        kernel.registers[found[2]] = (found[1], int(found[3]))
        return True
    if found := re.match(r"\.param .*?(\w+)(\[\d+\])?,?$", line):
        kernel.params.append(found[1])
        return True
    if found := re.match(r"\.reqnctapercluster (\d+)(?:, 1)*$", line):
        kernel.cluster = int(found[1])
        return True
    return line in ")(" or (line.startswith(".") and not line.startswith((".loc", ".reg"))) or line.endswith('"')


def instruction(statement: str, lines: tuple[int, ...], scoped: dict[str, str]) -> Instruction:
    guard, negated, body = "", False, statement
    if found := GUARDED.match(statement):
        negated, guard, body = found[1] == "!", found[2], found[3]
    opcode, _, rest = body.partition(" ") if " " in body else body.partition("\t")
    operands = tuple(split(re.sub(r"(?<![%\w])[A-Za-z_]\w*", lambda name: scoped.get(name[0], name[0]), rest.strip())))
    return Instruction(
        opcode=tuple(opcode.strip().split(".")),
        operands=operands,
        guard=scoped.get(guard, guard),
        negated=negated,
        lines=lines,
        text=re.sub(r"\s+", " ", statement)[:160],
    )


def split(text: str) -> list[str]:
    """At commas outside of brackets and braces."""
    parts, depth, begin = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
    last = text[begin:].strip()
    return [*parts, last] if last else parts
