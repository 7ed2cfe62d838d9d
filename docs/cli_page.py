"""Prints docs/cli.md from the commands' own --help, so that the page cannot drift from the program."""

from __future__ import annotations

import sys

import click

from ingot.cli import cli

HEAD = """# The command line

Written by `make docs` from `--help`; a test compares the two.
"""


def pages(command: click.Command, name: str, parent: click.Context | None = None) -> list[str]:
    """The help text of a command and of everything below it, as Markdown sections."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
    sections = [f"## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                sections += pages(found, child, context)
    return sections


def render() -> str:
    return "\n".join([HEAD, *pages(cli, "ingot")])


if __name__ == "__main__":
    sys.stdout.write(render())
