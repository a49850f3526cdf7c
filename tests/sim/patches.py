"""What of the processes' surroundings the world replaces while it runs: clocks, chance, sockets, runners, keys."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from typing import Any

import coordinator.acting
import coordinator.clock
import coordinator.registrar
import node.daemon
import node.executor
from schemas import pull, store
from schemas.bus import Bus
from tests.sim import bus as sim_bus
from tests.sim.processes import SimIdentity
from tests.sim.runners import SimPool


class NoGc:
    """A takeover collects garbage, which takes a while and decides nothing."""

    collect = freeze = unfreeze = disable = enable = staticmethod(lambda: None)


def replaced(owner: Any, name: str, new: Any) -> contextlib.AbstractContextManager[None]:
    """`owner.name` is `new` for a while."""

    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        old = owner.__dict__[name]
        setattr(owner, name, new)
        try:
            yield
        finally:
            setattr(owner, name, old)

    return patch()


async def _connect(
    cls: type, target: Any, *, name: str, on_lost: Callable[[], None] | None = None,
    on_back: Callable[[], None] | None = None, wait: bool = False,
) -> Any:  # fmt: skip
    owner: Any = asyncio.get_running_loop().owner  # type: ignore[attr-defined]
    return await sim_bus.connect(owner.new_bus(name), on_lost, on_back, wait=wait)


@contextlib.contextmanager
def surroundings(world: Any, log: logging.Handler, slack: float) -> Iterator[None]:
    """The world's, in place of the machine's. `slack` stretches the loops that only look whether something was forgotten."""
    timeline, rng = world.timeline, world.chance
    kept = random.getstate()

    def wall() -> float:
        loop = timeline._running
        return float(world.epoch + timeline.now + (loop.owner.skew_s if loop is not None else 0.0))

    class Seeded(random.Random):
        def __new__(cls, *args: Any) -> Any:
            return super().__new__(cls)

        def __init__(self, *args: Any) -> None:
            super().__init__(*(args or (rng.random(),)))

    ticks: Callable[[], float] = partial(attrgetter("now"), timeline)  # no frame of Python's: it is asked all the time

    with contextlib.ExitStack() as stack:
        for name, new in {"time": wall, "monotonic": ticks, "perf_counter": ticks}.items():
            stack.enter_context(replaced(time, name, new))
        old = coordinator.clock.ticks
        for module in [m for n, m in sys.modules.items() if n.startswith(("coordinator", "node", "schemas"))]:
            for name in [n for n, value in vars(module).items() if value is old]:
                stack.enter_context(replaced(module, name, ticks))
        stack.enter_context(replaced(os, "fsync", lambda _: None))
        stack.enter_context(replaced(random, "Random", Seeded))
        stack.enter_context(replaced(secrets, "token_bytes", lambda n=32: rng.randbytes(n)))
        stack.enter_context(replaced(secrets, "token_hex", lambda n=16: rng.randbytes(n).hex()))
        stack.enter_context(replaced(Bus, "connect", classmethod(_connect)))
        stack.enter_context(replaced(node.executor, "Pool", SimPool))
        stack.enter_context(replaced(node.daemon, "Identity", SimIdentity))
        stack.enter_context(replaced(coordinator.registrar, "is_signed", lambda *_: True))
        stack.enter_context(replaced(coordinator.acting, "gc", NoGc))
        if slack > 1:
            stack.enter_context(replaced(pull, "WATCH_S", pull.WATCH_S * slack))
            stack.enter_context(replaced(pull, "EXPIRES_S", 600))
            stack.enter_context(replaced(store, "SWEEP_S", store.SWEEP_S * slack))
        fog = logging.getLogger("fog")
        level, propagate = fog.level, fog.propagate
        fog.addHandler(log)
        fog.setLevel(logging.INFO if world.transcript is not None else logging.ERROR)
        fog.propagate = False
        random.seed(world.seed)
        try:
            yield
        finally:
            fog.removeHandler(log)
            fog.setLevel(level)
            fog.propagate = propagate
            random.setstate(kept)
