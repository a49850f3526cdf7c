"""The same kill on Dask: a scheduler and two workers as processes of their own, one task on the worker that dies.

Only where it is installed: ``pip install -e '.[bench]'``. The task is the one that our nodes run (`functions.begin`).
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from schemas.procs import spawn
from tests.bench.functions import begin
from tests.bench.processes import ROOT, environment

HOLD_S = 2.0
GIVE_UP_S = 60.0
POLL_S = 0.002


def hold(path: str, seconds: float) -> None:
    """What the worker runs."""
    begin(path)
    time.sleep(seconds)


def installed() -> bool:
    """Whether Dask can be put beside us."""
    return importlib.util.find_spec("distributed") is not None


def dask_kills(count: int) -> list[float]:
    """Milliseconds from SIGKILL of the worker that runs the task until it runs on another; of `count` kills."""
    with tempfile.TemporaryDirectory(prefix="dask-bench-") as folder, _Dask(Path(folder)) as dask:
        return [dask.one_kill(number) for number in range(count)]


class _Dask:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._client: Any = None

    def __enter__(self) -> _Dask:
        from distributed import Client

        try:
            where = self._folder / "scheduler.json"
            self._start(
                "scheduler",
                "scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--no-dashboard",
                "--scheduler-file",
                where,
            )
            _until(where.exists, "the scheduler")
            for name in ("bench-0", "bench-1"):
                self._worker(name)
            self._client = Client(scheduler_file=str(where), timeout=GIVE_UP_S)
            self._client.wait_for_workers(2, timeout=GIVE_UP_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._client is not None:
            self._client.close()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _start(self, name: str, kind: str, *options: object) -> None:
        argv = [sys.executable, "-m", "dask", kind, *map(str, options)]
        env = {**environment(), "BENCH_NODE": name}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = spawn(argv, env=env, cwd=ROOT, stdout=log, stderr=log)

    def _worker(self, name: str) -> None:
        options = ("--no-nanny", "--nthreads", 1, "--no-dashboard", "--name", f"{name}-{time.monotonic_ns()}")
        place = ("--host", "127.0.0.1", "--local-directory", self._folder / name)
        self._start(name, "worker", "--scheduler-file", self._folder / "scheduler.json", *options, *place)

    def one_kill(self, number: int) -> float:
        """Then there are two workers again."""
        path = self._folder / f"starts-{number}"
        future = self._client.submit(hold, str(path), HOLD_S, key=f"hold-{number}", pure=False)
        first = _starts(path, 1)[0][1]
        killed = time.monotonic()
        self._processes[first].send_signal(signal.SIGKILL)
        began, second = _starts(path, 2)[1]
        if second == first:
            raise RuntimeError("it began again on the dead worker")
        future.result(timeout=GIVE_UP_S)
        self._processes.pop(first).wait()
        self._worker(first)
        _until(lambda: len(self._client.scheduler_info(n_workers=-1)["workers"]) == 2, "two workers")
        return (began - killed) * 1e3


def _starts(path: Path, count: int) -> list[tuple[float, str]]:
    """The first attempts, once `count` have begun."""
    _until(lambda: path.exists() and path.read_text().count("\n") >= count, f"start {count}")
    return [(float(at), name) for at, _, name in (line.partition(" ") for line in path.read_text().splitlines())]


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Dask: {what} did not come within {GIVE_UP_S:g} s")
        time.sleep(POLL_S)
