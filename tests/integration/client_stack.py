"""A running `fog up` for tests of what users run: the real broker, coordinator and nodes, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.procs import spawn
from tests.until import until

FOG = (sys.executable, "-P", "-m", "client.cli")
ROOT = Path(__file__).resolve().parents[2]


class Up:
    """One instance. `fog(...)` runs a command against it."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes]) -> None:
        self.home, self.process = home, process
        self.started: list[subprocess.Popen[str]] = []

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "FOG_HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def fog(self, *words: object, stdin: str | None = None, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FOG, *map(str, words)], env=self.env, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )  # fmt: skip

    def json(self, *words: object) -> Any:
        done = self.fog(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *words: object) -> subprocess.Popen[str]:
        """A command that is still running."""
        self.started.append(
            subprocess.Popen(
                [*FOG, *map(str, words)], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return self.started[-1]

    def ended(self, task: str) -> bool:
        return bool(self.json("task", task)["result"])


@contextmanager
def up(home: Path, *options: str) -> Iterator[Up]:
    """`fog up` with these options, until the end of the block."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(home)])}
    home.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-P", "-m", "coordinator.up", "--home", str(home), "--port", "-1", "--quiet", *options]
    with (home / "up.log").open("wb") as log:
        process = spawn(argv, env=env, stdout=log, stderr=log)
    running = Up(home, process)
    try:
        yield running
    finally:
        for command in running.started:
            command.kill()
        process.terminate()
        process.wait(30)


def wait_for_nodes(running: Up, count: int) -> None:
    """Return once so many nodes are online."""

    def online() -> bool:
        done = running.fog("nodes", "--json", "--state", "online")
        return done.returncode == 0 and len(json.loads(done.stdout)) >= count

    try:
        until(online, 30, f"{count} nodes online")
    except AssertionError as error:
        raise AssertionError(f"{error}; the log: {(running.home / 'up.log').read_text()[-3000:]}") from None
