"""`Handle`: a task that was started and may be waited for, watched or cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from client.watch import Outputs
from schemas.task import Output, Result

if TYPE_CHECKING:
    from client.fleet import Fleet


class Handle:
    """A started task, by its `id`. Not waiting for it, or being cancelled while waiting, leaves the task running."""

    def __init__(self, fleet: Fleet, task: str, future: asyncio.Future[Result], outputs: Outputs) -> None:
        self.id = task
        self._fleet, self._future, self._outputs = fleet, future, outputs

    @property
    def done(self) -> bool:
        """Whether the result is here."""
        return self._future.done()

    async def end(self) -> Result:
        """How the task ended, whatever it was: waits for the recorded `Result`."""
        return await asyncio.shield(self._future)

    async def result(self) -> Any:
        """The value, as of `Fleet.submit`. Raises TaskFailed."""
        try:
            return await self._fleet.result_value(await self.end())
        finally:
            if self._future.done():
                await self._outputs.close()

    async def output(self) -> AsyncIterator[Output]:
        """What the task prints and how far it is, as it comes, until it has ended. For one reader."""
        async for piece in self._outputs.until(self._future):
            yield piece

    async def cancel(self, reason: str = "") -> None:
        """End the task. Waiting for it then raises TaskFailed (cancelled)."""
        await self._fleet.cancel(self.id, reason)
