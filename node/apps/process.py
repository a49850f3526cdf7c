"""One running version: a process in a session of its own that never outlives the daemon, its tree measured and ended whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from node.runners import tree
from schemas.logs import fields
from schemas.procs import how_it_ended, reaped, spawn
from schemas.rollout import Service

log = logging.getLogger("fog.node.apps")

LOOK_S = 0.1  # between two looks whether it ended
OUTPUT_MAX = 1 << 20  # bytes of the log of one version's output; then it begins anew, the one before is kept
TOO_MUCH = "Memory allocation exceeded"  # operators grep for these words


class Running:
    """A started process. `on_end(how)` is called once, unless it was told to stop."""

    def __init__(
        self, app: str, version: str, run: Service, folder: Path, output: Path, on_end: Callable[[str], None]
    ) -> None:
        self._app, self._version, self._run, self._on_end = app, version, run, on_end
        self._stopping = False
        self._why = ""
        with contextlib.suppress(OSError):
            if output.stat().st_size > OUTPUT_MAX:
                os.replace(output, output.with_suffix(".old"))
        output.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = [word.replace("{dir}", str(folder)) for word in run.argv]
        env = {**os.environ, **{k: v.replace("{dir}", str(folder)) for k, v in run.env.items()}}
        with output.open("ab") as log_file:
            self._process = spawn(words, env=env, stdout=log_file, stderr=subprocess.STDOUT, cwd=folder)
        self.pid = self._process.pid
        self._seen: tuple[float, float] | None = None
        self._task = asyncio.get_running_loop().create_task(self._watch())
        log.info("an app started", extra=fields(app=app, version=version, pid=self.pid))

    async def _watch(self) -> None:
        while self._process.poll() is None:  # noqa: ASYNC110 - the end of a process of another session is no event here
            await asyncio.sleep(LOOK_S)
        reaped(self.pid)
        tree.kill(self.pid)  # what it left behind in its session
        if not self._stopping:
            self._on_end(self._why or how_it_ended(self._process.returncode))

    async def stop(self) -> None:
        """TERM, then KILL after its `stop_s`; returns when nothing of it runs."""
        self._stopping = True
        if self._process.poll() is None:
            tree.ask_to_stop(self.pid)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._run.stop_s):
                    await asyncio.shield(self._task)
        tree.kill(self.pid)
        await self._task

    def kill(self) -> None:
        """At once, and without waiting: the daemon ends."""
        self._stopping = True
        tree.kill(self.pid)
        self._task.cancel()

    def measure(self, now: float) -> tuple[float, float]:
        """``(percent of one core since the last look, MiB)`` of its whole tree. One that takes too much memory is ended."""
        seconds, rss = _usage(self.pid)
        before, self._seen = self._seen, (now, seconds)
        percent = 0.0 if before is None or now <= before[0] else 100 * (seconds - before[1]) / (now - before[0])
        mib = rss / (1 << 20)
        if self._run.memory_mb and mib > self._run.memory_mb and self._process.poll() is None:
            self._why = f"{TOO_MUCH}: {mib:.0f} MiB, {self._run.memory_mb} MiB are its limit"
            log.warning(TOO_MUCH, extra=fields(app=self._app, version=self._version, mib=round(mib)))
            tree.kill(self.pid)
        return max(0.0, percent), mib


def _usage(pid: int) -> tuple[float, int]:
    """CPU seconds and bytes of memory of a process and all below it."""
    import psutil

    seconds, rss = 0.0, 0
    for one in (pid, *(child for child, _ in tree.below(pid))):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(one)
            times = process.cpu_times()
            seconds += times.user + times.system
            rss += process.memory_info().rss
    return seconds, rss
