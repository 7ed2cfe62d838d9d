"""Keeps a local Triton alive: probes each model with a real call and brings back what has died, model or server.

Triton never restarts a dead model process, calls it ready all the while, and at times falls with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from ingot.client.grpc_async import AsyncClient
from ingot.client.triton_process import TritonServer
from ingot.errors import DeadlineError, ExecutorDiedError, IngotError

PROBE_EVERY = 1.0  # seconds
PROBE_TIMEOUT = 10.0
HUNG_AFTER = 6  # probes in a row without an answer until a model counts as hung

logger = logging.getLogger(__name__)


class Keeper:
    """`await keeper.run()` until cancelled. The client needs the server's admin key."""

    def __init__(self, client: AsyncClient, server: TritonServer) -> None:
        self._client = client
        self._server = server
        self._silent: Counter[str] = Counter()
        self._hosted: set[tuple[str, str]] = set()  # versions whose processes were seen
        self.reloads: Counter[str] = Counter()
        self.restarts = 0

    async def run(self) -> None:
        while True:
            try:
                if not self._server.running():
                    await self.restart("tritonserver died")
                await self.look()
            except IngotError as error:
                logger.warning("%s", error)
            await asyncio.sleep(PROBE_EVERY)

    async def restart(self, reason: str) -> None:
        logger.error("%s; starting tritonserver again", reason)
        self.restarts += 1
        self._silent.clear()
        self._hosted.clear()
        await asyncio.to_thread(self._server.restart)
        logger.warning("tritonserver is back")

    async def look(self) -> None:
        """Probes every loaded version once, and brings back what needs it.

        A Triton none of whose models lives is started afresh: those it had taken in vain it would still answer one a
        second, for as long hold up whoever asks, and at times fall.
        """
        ready = [(row.name, row.version) for row in await self._client.models() if row.state == "READY"]
        found = await asyncio.gather(*(self._dead(name, version) for name, version in ready))
        dead = sorted({name for (name, _), is_dead in zip(ready, found, strict=True) if is_dead})
        if dead and all(found):
            await self.restart(f"the process of {', '.join(dead)} died")
            return
        for name in dead:
            await self.reload(name)

    async def reload(self, model: str) -> None:
        """Unload and load: the one way Triton starts a model's process again."""
        logger.error("the process of %s died; loading it again", model)
        self.reloads[model] += 1
        self._silent.clear()
        self._hosted = {(name, version) for name, version in self._hosted if name != model}
        await self._client.unload(model)
        await self._client.load(model)
        logger.warning("%s is back", model)

    async def _dead(self, model: str, version: str) -> bool:
        if self._gone(model, version):
            return True  # known without asking: requests that pile up before a dead process are answered one a second
        try:
            await self._client.describe(model, version=version, timeout=PROBE_TIMEOUT)
        except ExecutorDiedError:
            return True
        except DeadlineError:
            self._silent[f"{model}/{version}"] += 1
            return self._silent[f"{model}/{version}"] >= HUNG_AFTER
        self._silent.pop(f"{model}/{version}", None)
        return False

    def _gone(self, model: str, version: str) -> bool:
        """Whether it had a process, which not every kind of model has, and has none now."""
        if self._server.hosts(model, version):
            self._hosted.add((model, version))
            return False
        return (model, version) in self._hosted
