"""The process that compiles grammars, so that a hostile one can hang, eat memory or crash without harming anybody.

It imports xgrammar once and then forks for every grammar: the child has seconds and bytes to spend and is killed by the
kernel when they are spent. Each grammar comes with a socket of its own, passed as a file descriptor; the answer goes back on it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec
import numpy as np
import xgrammar

from ingot.runtime.grammars.messages import Answer, Compiled, Refused, Vocabulary, encode
from ingot.runtime.grammars.tags import parts_of_tag
from ingot.runtime.params import Grammar

COMPILE_SECONDS = 5
EXTRA_BYTES = 1 << 30  # address space that a compilation may add
MAX_SERIALIZED = 64 << 20  # characters
REHEARSED_TOKENS = 48
MASK_SECONDS = 0.1  # of CPU, that one mask may take in a rehearsal: masks are filled between two steps
NICENESS = 10  # compiling gives way to steps
MAX_WHITESPACE = 1  # characters between two parts of a JSON text: with more, small models write little else
NO_TEXT = b"\xff"  # in no UTF-8
READY = b"+"
SPELLINGS = ("json", "text", "tags")


def make_compiler(info: xgrammar.TokenizerInfo) -> xgrammar.GrammarCompiler:
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)


def compile_grammar(grammar: Grammar, compiler: xgrammar.GrammarCompiler) -> xgrammar.CompiledGrammar:
    """Raises RuntimeError, which is xgrammar's for anything it does not take."""
    match grammar.kind:
        case "json_schema":
            return compiler.compile_json_schema(grammar.text, max_whitespace_cnt=MAX_WHITESPACE)
        case "regex":
            return compiler.compile_regex(grammar.text)
        case "choice":
            return compiler.compile_grammar("root ::= " + " | ".join(json.dumps(c) for c in json.loads(grammar.text)))
        case "ebnf":
            return compiler.compile_grammar(grammar.text)
        case "structural_tag":
            return compiler.compile_structural_tag(grammar.text)


def dead_end(grammar: Grammar) -> str | None:
    """What is wrong with a schema in a structural tag: a text may go anywhere, so none that is rehearsed tries them all."""
    byte_tokens = Vocabulary(tokens=[bytes([byte]) for byte in range(1 << 8)] + [b""], eos_token_ids=[1 << 8])
    compiler = make_compiler(tokenizer_info(byte_tokens, "json"))
    for text in sorted({json.dumps(schema) for schema in parts_of_tag(json.loads(grammar.text))}):
        part = compile_grammar(Grammar(kind="json_schema", text=text), compiler)
        wrong = rehearse(part, len(byte_tokens.tokens))
        if wrong is not None:
            return wrong
    return None


def rehearse(compiled: xgrammar.CompiledGrammar, vocab_size: int) -> str | None:
    """Follows a text through the grammar, spreading over the tokens that it allows. Says what is wrong with it, if anything."""
    matcher = xgrammar.GrammarMatcher(compiled)
    masks = xgrammar.allocate_token_bitmask(1, vocab_size)
    for step in range(REHEARSED_TOKENS):
        began = time.thread_time()
        matcher.fill_next_token_bitmask(masks)
        if time.thread_time() - began > MASK_SECONDS:
            return f"its masks take more than {MASK_SECONDS * 1000:.0f} ms each"
        allowed = np.unpackbits(masks.numpy().view(np.uint8), bitorder="little")[:vocab_size].nonzero()[0]
        if not len(allowed):
            return "no text fits it" if step == 0 else None
        matcher.accept_token(int(allowed[step * 7919 % len(allowed)]))
        if matcher.is_terminated():
            return None
    return None


def answer_to(grammar: Grammar, compiler: xgrammar.GrammarCompiler, vocab_size: int) -> Answer:
    try:
        compiled = compile_grammar(grammar, compiler)
        wrong = rehearse(compiled, vocab_size)
        if grammar.kind == "structural_tag":
            wrong = wrong or dead_end(grammar)
            return Refused(reason=wrong) if wrong else Compiled(text=None)
        text = "" if wrong else compiled.serialize_json()
    except MemoryError:
        return Refused(reason="it needs too much memory")
    except RuntimeError as error:  # xgrammar's own, "[time] file:line: what is wrong"
        said = str(error).strip().partition(": ")[2].strip() or str(error)
        return Refused(reason="it needs too much memory" if "bad_alloc" in said else said[:500])
    if len(text) > MAX_SERIALIZED:
        wrong = "it becomes too large"
    return Refused(reason=wrong) if wrong else Compiled(text=text)


def in_child(connection: socket.socket, compilers: Mapping[str, xgrammar.GrammarCompiler], vocab_size: int) -> None:
    """Ends the process; the kernel does where time or memory are spent."""
    signal.alarm(COMPILE_SECONDS)
    os.nice(NICENESS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # xgrammar writes warnings about what users send
    grammar = msgspec.msgpack.decode(read_all(connection), type=Grammar)
    connection.sendall(encode(answer_to(grammar, compilers[spelling_of(grammar.kind)], vocab_size)))
    os._exit(0)


def read_all(connection: socket.socket) -> bytes:
    """Until the other side says that it has written everything."""
    parts = []
    while part := connection.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def receive_socket(control: socket.socket) -> socket.socket | None:
    """The next question's; None when the executor is gone."""
    _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    return socket.socket(fileno=descriptors[0]) if descriptors else None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ingot.runtime.grammars.process", description="Started by an executor.")
    parser.add_argument("--socket-fd", type=int, required=True)
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    with socket.socket(fileno=options.socket_fd) as control:
        first = receive_socket(control)
        if first is None:
            return 0
        with first:
            vocabulary = msgspec.msgpack.decode(read_all(first), type=Vocabulary)
            compilers = {spelling: make_compiler(tokenizer_info(vocabulary, spelling)) for spelling in SPELLINGS}
            with suppress(ConnectionError):  # the executor may have ended meanwhile
                first.sendall(READY)
        while (connection := receive_socket(control)) is not None:
            with connection:
                if os.fork() == 0:
                    control.close()
                    in_child(connection, compilers, len(vocabulary.tokens))
    return 0


def spelling_of(kind: str) -> str:
    """Which of the vocabulary's spellings a kind of grammar is written in."""
    return {"json_schema": "json", "structural_tag": "tags"}.get(kind, "text")


def tokenizer_info(vocabulary: Vocabulary, spelling: str) -> xgrammar.TokenizerInfo:
    """For JSON without control characters: JSON forbids them in strings, xgrammar allows some, and spaces do between parts.
    For tags with the special tokens, which free text may hold and marks may be; ids that only pad the model are a byte there
    that free text may hold too, so that it needs no mask, and nothing else."""
    tokens = vocabulary.tokens
    if spelling == "json":
        tokens = [b"" if token and min(token) < ord(" ") else token for token in tokens]
    if spelling == "tags":
        ends = frozenset(vocabulary.eos_token_ids)
        tokens = [vocabulary.special.get(i, token or (b"" if i in ends else NO_TEXT)) for i, token in enumerate(tokens)]
    return xgrammar.TokenizerInfo(
        tokens,
        xgrammar.VocabType.RAW,
        vocab_size=len(vocabulary.tokens),
        stop_token_ids=vocabulary.eos_token_ids,
    )


if __name__ == "__main__":
    sys.exit(main())
