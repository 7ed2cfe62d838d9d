"""`ingot migrate`. Prints two commands for a shell, and as comments what they leave out."""

from __future__ import annotations

import shlex

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def migrate(command: tuple[str, ...]) -> None:
    """Print the ingot commands that do what COMMAND of another server does.

    COMMAND is a line of vllm serve, sglang.launch_server, text-generation-launcher or trtllm-serve, quoted or not; a
    docker run of their images too. Every flag that could not be carried over is listed, with the reason.
    """
    from ingot.client.migrate.translate import engine_folder
    from ingot.client.migrate.translate import migrate as translate

    found = translate(command[0] if len(command) == 1 else shlex.join(command))
    engine = engine_folder(found)
    click.echo(shlex.join(["ingot", "build", found.model, "-o", engine, *found.build]))
    click.echo(shlex.join(["ingot", "serve", engine, *found.serve]))
    for heading, flags in (("Not needed", found.same), ("Not carried over", found.lost)):
        if flags:
            click.echo(f"\n# {heading}:")
        for given, reason in flags:
            click.echo(f"#   {given}: {reason}")
