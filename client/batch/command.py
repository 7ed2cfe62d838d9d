"""`ingot batch`. Turns words into options, shows a bar, says how it went."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from pathlib import Path

import click


@click.command()
@click.argument("requests", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The answers' file.")
@click.option("--engine", type=click.Path(path_type=Path), help="Answers with this engine, in this process's care.")
@click.option("--url", help="Answers with the server there.")
@click.option("--api-key", envvar="INGOT_API_KEY", metavar="KEY", help="The server's key.")
@click.option("--model", help="In place of each request's model; with --engine always the engine's.")
@click.option("--concurrency", default=64, show_default=True, type=click.IntRange(1, 4096), help="Requests at once.")
def batch(
    requests: Path,
    out: Path,
    engine: Path | None,
    url: str | None,
    api_key: str | None,
    model: str | None,
    concurrency: int,
) -> None:
    """Answer REQUESTS, a JSONL file in OpenAI's batch format.

    Answers are written as they come, in no order. Run the same command again after a stop: what has an answer is not
    asked again.
    """
    from ingot.client.batch.lines import check_tasks, open_answers, read_tasks
    from ingot.client.batch.progress import bar
    from ingot.client.batch.run import BatchOptions, run_batch

    if (engine is None) == (url is None):
        raise click.UsageError("Give one of --engine and --url.")
    asked = check_tasks(requests)
    with open_answers(out) as (file, done):
        if asked <= done:
            click.echo(f"All {len(asked)} are answered: {out}", err=True)
            return
        tasks = (task for task in read_tasks(requests) if task.custom_id not in done)
        with bar(len(asked), len(asked & done)) as advance:
            options = BatchOptions(concurrency=concurrency, model=model)
            if url is not None:
                from ingot.client.batch.senders import UrlSender

                with closing(UrlSender(url, api_key=api_key, connections=concurrency)) as sender:
                    tally = asyncio.run(run_batch(tasks, sender, file, options, advance))
            else:
                from ingot.client.batch.engine import run_on_engine

                tally = asyncio.run(run_on_engine(Path(engine or ""), tasks, file, options, advance))
    click.echo(
        f"{tally.answered} answered, {tally.refused} refused, {tally.left} left, {len(asked & done)} from earlier: {out}",
        err=True,
    )
    if tally.left:
        click.echo("Run the same command again for those that are left.", err=True)
        sys.exit(1)
