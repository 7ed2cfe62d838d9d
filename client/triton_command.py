"""`ingot triton`: a real Triton server on this machine, over engines. Turns words into options; imports the rest when it runs."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ingot.client.triton_process import TritonServer

PORT = click.IntRange(1, 65535)


@click.command()
@click.argument("engines", nargs=-1, metavar="[NAME[@VERSION]=]ENGINE...")
@click.option("--install", is_flag=True, help="Only fetches the server: 55 MB, 230 MB unpacked.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="The model repository; ENGINES are rendered into it.",
)
@click.option("--http-port", default=8000, show_default=True, type=PORT)
@click.option("--grpc-port", default=8001, show_default=True, type=PORT)
@click.option("--metrics-port", default=8002, show_default=True, type=PORT)
@click.option(
    "--admin-key",
    envvar="INGOT_ADMIN_KEY",
    metavar="KEY",
    help="Loads, unloads and lists models; made up if not given.",
)
@click.option("--load-timeout", default=1800.0, show_default=True, type=click.FloatRange(1), help="Seconds to load in.")
def triton(
    engines: tuple[str, ...],
    install: bool,
    repository: Path,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    admin_key: str | None,
    load_timeout: float,
) -> None:
    """Serve ENGINES, or what REPOSITORY holds already, from a Triton server on loopback.

    The server is the real tritonserver of the PyTriton wheel; production runs the NGC container on the same repository.
    A model whose process dies is loaded again. SIGTERM or Ctrl-C stops the server.
    """
    from ingot.client.triton_process import ServerOptions, TritonServer
    from ingot.triton_home import default_home
    from ingot.triton_home import install as install_home

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    home = default_home()
    if install:
        if home.missing():
            install_home(home, say=lambda line: click.echo(line, err=True))
        click.echo(f"Triton is in {home.root}", err=True)
        return
    home.check()
    if engines:
        render_engines(engines, repository)
    key = {"admin_key": admin_key} if admin_key else {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = ServerOptions(
        http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port, load_timeout=load_timeout, **key
    )
    with TritonServer(home, repository, options) as server:
        click.echo(f"gRPC on {server.grpc_address}; admin key {options.admin_key}", err=True)
        asyncio.run(keep(server))


def render_engines(engines: tuple[str, ...], repository: Path) -> None:
    """Runs `ingot render` through the command group, which knows it; this room does not know the templates."""
    context = click.get_current_context()
    group = context.find_root().command
    render = group.get_command(context, "render") if isinstance(group, click.Group) else None
    if render is not None:
        context.invoke(render, engines=engines, out=repository)


async def keep(server: TritonServer) -> None:
    """Until a signal."""
    from ingot.client.grpc_async import AsyncClient
    from ingot.client.grpc_wire import ClientOptions
    from ingot.client.triton_keeper import Keeper

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncClient(server.grpc_address, ClientOptions(admin_key=server.options.admin_key)) as client:
        for row in await client.models():
            click.echo(f"{row.name} version {row.version or '-'}: {row.state or 'not loaded'} {row.reason}", err=True)
        keeper = asyncio.create_task(Keeper(client, server).run())
        await asyncio.wait([keeper, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        if keeper.done():
            keeper.result()  # only a mistake of ours ends it
        keeper.cancel()
