"""Falling asleep and waking up: told by the coordinator, by a signal, or by the clock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from node.context import ASLEEP, Context
from node.recorder import Recorder
from schemas import limits
from schemas.errors import Unreachable
from schemas.logs import fields
from schemas.ticks import ticks

log = logging.getLogger("fog.node.sleeper")

LOOK_S = 5.0  # between two looks whether the machine was suspended, or the time is over


class Sleeper:
    """`beat` sends a heartbeat now, `room_again` hears whether work may be taken. While asleep there is the file `mark`, from
    when the broker has all that was said: who suspends the machine can wait for it."""

    def __init__(
        self,
        context: Context,
        recorder: Recorder,
        beat: Callable[[], None],
        room_again: Callable[[], None],
        sleep_s: float,
        mark: Path,
    ) -> None:
        self._context, self._recorder, self._sleep_s, self._mark = context, recorder, sleep_s, mark
        self._beat, self._room_again = beat, room_again
        self._loop = asyncio.get_running_loop()
        self._look_again: asyncio.TimerHandle | None = None
        self._saying: asyncio.Task[None] | None = None
        self._mark.unlink(missing_ok=True)

    def sleep(self, for_s: float = 0.0) -> None:
        """Take no more work for so long (0: as configured), hand back what waits, and say so. What runs goes on."""
        if self._context.leaving:
            return
        for_s = min(for_s or self._sleep_s, limits.SLEEP_MAX_S)
        self._context.sleep.announce(for_s, ticks(), time.monotonic())
        log.info("asleep", extra=fields(node=self._context.node, for_s=for_s))
        self._recorder.hand_back(ASLEEP)
        self._room_again()
        self._beat()
        self._saying = self._loop.create_task(self._say_so())
        self._watch()

    async def _say_so(self) -> None:
        """The mark is there once the broker has what was said."""
        with contextlib.suppress(Unreachable, OSError):
            await self._recorder.all_posted(LOOK_S)
            await self._context.bus.flush()
            if self._context.sleep:
                self._mark.touch()

    def wake(self, why: str) -> None:
        """Take work again, and say so. Nothing when it does not sleep."""
        if not self._context.sleep:
            return
        self.stop()
        self._context.sleep.wake()
        log.info("awake", extra=fields(node=self._context.node, why=why))
        self._room_again()
        self._beat()

    def _watch(self) -> None:
        if self._look_again is not None:
            self._look_again.cancel()
        self._look_again = self._loop.call_later(min(LOOK_S, self._context.sleep.gap_s(ticks())), self._look)

    def _look(self) -> None:
        self._look_again = None
        if why := self._context.sleep.over(ticks(), time.monotonic()):
            self.wake(why)
        elif self._context.sleep:
            self._watch()

    def stop(self) -> None:
        """Look no more."""
        for one in (self._look_again, self._saying):
            if one is not None:
                one.cancel()
        self._mark.unlink(missing_ok=True)
