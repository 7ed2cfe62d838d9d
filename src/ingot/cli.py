"""The command `ingot`: a table of subcommands, each imported when it is the one that runs.

Knows their names and how an error is shown; refuses to know what they do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import click

from ingot import __version__
from ingot.errors import DependencyError, IngotError


class Entry(NamedTuple):
    place: str  # module:attribute
    help: str  # its line in `ingot --help`
    extra: str  # the pip extra that brings what it imports


COMMANDS = {
    "build": Entry("ingot.builder.commands:build", "Build an engine from a checkpoint.", "build"),
    "inspect": Entry("ingot.builder.commands:inspect", "Show what an engine is.", "build"),
    "verify": Entry("ingot.builder.commands:verify", "Check an engine's files and its quality again.", "build"),
    "doctor": Entry("ingot.builder.doctor:doctor", "Say what this machine can build and serve.", "build"),
    "render": Entry("ingot.templates.commands:render", "Write a Triton model repository for engines.", "triton"),
    "triton": Entry("ingot.client.triton_command:triton", "Serve engines from a Triton server here.", "triton"),
    "serve": Entry("ingot.client.commands:serve", "Serve an engine over the OpenAI API.", "serve"),
    "ask": Entry("ingot.client.commands:ask", "Ask a running server.", "demo"),
    "migrate": Entry("ingot.client.migrate.command:migrate", "Say another server's command line in ours.", "serve"),
    "batch": Entry("ingot.client.batch.command:batch", "Answer a file of requests.", "serve"),
    "bench": Entry("ingot.runtime.bench.commands:bench", "Measure an engine's speed.", "serve"),
}


class LazyGroup(click.Group):
    """Lists every command of the table; imports one only when it is invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].place.partition(":")
        with packages_for(lambda: cmd_name):
            command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with packages_for(lambda: ctx.invoked_subcommand):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@contextmanager
def packages_for(name_command: Callable[[], str | None]) -> Iterator[None]:
    """Says which pip extra brings a package that a command lacks. The command is known once it runs."""
    try:
        yield
    except ModuleNotFoundError as error:
        command = name_command()
        if command is None or error.name is None or error.name.partition(".")[0] == "ingot":
            raise
        raise DependencyError(
            f"ingot {command} needs the package {error.name}, which is not installed.",
            mend=f"Install it: pip install 'ingot[{COMMANDS[command].extra}]'.",
        ) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ingot")
def cli() -> None:
    """A Hugging Face checkpoint in, a compiled and checked engine out, served at the speed of the machine."""


def main() -> None:
    """Runs the command line. Exit code 1 for a failure, 2 for a mistake in what was asked."""
    try:
        cli(prog_name="ingot")
    except IngotError as error:
        click.echo(f"Error: {error.message}\n{error.mend}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
