"""A batch on an engine that this process starts and stops: the server's app without its socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ingot.client.batch.lines import Task
from ingot.client.batch.run import BatchOptions, Tally, run_batch
from ingot.client.batch.senders import AppSender
from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.openai.app import create_app
from ingot.runtime.supervisor import SupervisorOptions


async def run_on_engine(
    engine: Path,
    tasks: Iterator[Task],
    answers: BinaryIO,
    options: BatchOptions,
    on_line: Callable[[], None],
    supervisor: SupervisorOptions | None = None,
) -> Tally:
    """Raises EngineError and its like where the engine does not load."""
    backend = EmbeddedBackend(engine, EmbeddedOptions(supervisor=supervisor or SupervisorOptions(log_level="warning")))
    await backend.start()
    try:
        (card,) = await backend.models()
        options = replace(options, model=card.name)
        return await run_batch(tasks, AppSender(create_app(backend)), answers, options, on_line)
    finally:
        await backend.stop(0)
