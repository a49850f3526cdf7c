"""One running version: a process in a session of its own that never outlives the daemon, its tree measured and ended whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from node.core.memory import MIB
from node.core.usage import Look, all_used_s
from node.enforce.enforcer import usable_cores
from node.enforce.holding import CAN_HOLD
from node.enforce.share import hold_to
from node.enforce.trees import Trees
from node.runners import tree
from schemas.logs import fields
from schemas.procs import how_it_ended, reaped, spawn
from schemas.rollout import Service

log = logging.getLogger("fog.node.apps")

LOOK_S = 0.1  # between two looks whether it ended
OUTPUT_MAX = 1 << 20  # bytes of the log of one version's output; then it begins anew, and so much of what was is kept
TOO_MUCH = "Memory allocation exceeded"  # operators grep for these words


class Running:
    """A started process. `on_end(how)` is called once, unless it was told to stop."""

    def __init__(
        self, app: str, version: str, run: Service, folder: Path, output: Path, on_end: Callable[[str], None]
    ) -> None:
        self._app, self._version, self._run, self._on_end = app, version, run, on_end
        self._stopping = False
        self._why = ""
        self._output = output
        _shorten(output)
        output.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = [word.replace("{dir}", str(folder)) for word in run.argv]
        env = {**os.environ, **{k: v.replace("{dir}", str(folder)) for k, v in run.env.items()}}
        with output.open("ab") as log_file:
            self._process = spawn(words, env=env, stdout=log_file, stderr=subprocess.STDOUT, cwd=folder)
        self.pid = self._process.pid
        self._cores, self._trees = usable_cores(os.cpu_count() or 1), Trees()
        self._looked: dict[int, Look] = {}
        self._looked_at = 0.0
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._watch())
        self._holding = loop.create_task(self._hold()) if CAN_HOLD and run.cpu_percent < 100 else None
        log.info("an app started", extra=fields(app=app, version=version, pid=self.pid))

    def _up(self) -> bool:
        return self._process.poll() is None

    async def _hold(self) -> None:
        try:
            await hold_to(self._run.cpu_percent / 100, self._cores, self.pid, self._up)
        except Exception:
            log.exception("an app is not held to its cpu_percent any more")

    async def _watch(self) -> None:
        while self._up():  # noqa: ASYNC110 - the end of a process of another session is no event here
            await asyncio.sleep(LOOK_S)
        reaped(self.pid)
        tree.kill(self.pid)  # what it left behind in its session
        if not self._stopping:
            self._on_end(self._why or how_it_ended(self._process.returncode))

    async def stop(self) -> None:
        """TERM, then KILL after its `stop_s`; returns when nothing of it runs."""
        self._stopping = True
        if self._holding is not None:
            self._holding.cancel()
        if self._up():
            tree.ask_to_stop(self.pid)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._run.stop_s):
                    await asyncio.shield(self._task)
        tree.kill(self.pid)
        await self._task

    def measure(self, now: float) -> tuple[float, float]:
        """``(percent of the device since the last look, MiB)`` of its whole tree. One that takes too much memory is ended, a
        log that is too long is begun anew."""
        if os.name == "posix":  # elsewhere a process would write on where it was, and not at the end
            _shorten(self._output)
        before, before_at = self._looked, self._looked_at
        self._looked, self._looked_at = self._trees.look((self.pid,)), now
        percent = 100 * all_used_s(before, self._looked) / (now - before_at) / self._cores if now > before_at else 0.0
        mib = sum(sample.rss for look in self._looked.values() for sample in look.values()) / MIB
        if self._run.memory_mb and mib > self._run.memory_mb and self._up():
            self._why = f"{TOO_MUCH}: {mib:.0f} MiB, {self._run.memory_mb} MiB are its limit"
            log.warning(TOO_MUCH, extra=fields(app=self._app, version=self._version, mib=round(mib)))
            tree.kill(self.pid)
        return max(0.0, percent), mib


def _shorten(output: Path) -> None:
    with contextlib.suppress(OSError):  # not there yet, or the disk is full: then room counts more than what it said
        size = output.stat().st_size
        if size <= OUTPUT_MAX:
            return
        try:
            with output.open("rb") as log_file:
                log_file.seek(size - OUTPUT_MAX)
                output.with_suffix(".old").write_bytes(log_file.read(OUTPUT_MAX))
        finally:
            os.truncate(output, 0)
