"""Work that goes on beside the rest: kept until it has ended (the loop itself holds its tasks only weakly), and logged when it
raises."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any


class Beside:
    """One part's. `failed` says in the part's own words what it means when work raises."""

    def __init__(self, log: logging.Logger, failed: str) -> None:
        self._log, self._failed = log, failed
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error(self._failed, exc_info=error)

    async def wait(self, timeout_s: float) -> None:
        """Until all that has begun has ended, at most so long."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout_s)

    def cancel(self) -> None:
        """End what has not."""
        for task in self._tasks:
            task.cancel()
