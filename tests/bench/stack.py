"""A real fleet for the bench: broker, coordinator and nodes as processes of their own, in a home that is thrown away."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from coordinator.broker import Broker
from schemas import subjects
from schemas.bus import Bus
from schemas.procs import how_it_ended, spawn
from schemas.target import Target
from tests.bench.processes import ROOT, environment

READY_S = 60.0


class Stack:
    """Use as an async context. `nodes` daemons offer tests.bench.functions.

    `events` counts what was said of nodes and coordinators, by kind. Nobody listens to the tasks' events here: they are
    said and stored, and what a watcher costs, in this very process, is no part of what is measured.
    """

    def __init__(self, nodes: int = 0, coordinator: tuple[str, ...] = ()) -> None:
        self._wanted, self._coordinator = nodes, coordinator
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: list[subprocess.Popen[bytes]] = []
        self._about: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()
        self.events: Counter[str] = Counter()

    async def __aenter__(self) -> Stack:
        self.home = Path(tempfile.mkdtemp(prefix="fog-bench-"))
        try:
            self._broker = await asyncio.to_thread(Broker.start, self.home, port=-1)
            self.bus = await Bus.connect(self.target, name="bench")
            for area in ("node", "coordinator"):
                await self.bus.subscribe(subjects.event(f"{area}.*", "*"), self._on_event)
            self._start("coordinator", "coordinator", "--name", "bench", *self._coordinator)
            await self._until("coordinator.elected")
            await asyncio.gather(*(self.start_node(f"bench-{number}") for number in range(self._wanted)))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for process in (*self._processes.values(), *self._ended):
            process.kill()
            process.wait()
        if hasattr(self, "bus"):
            await self.bus.close()
        if hasattr(self, "_broker"):
            await asyncio.to_thread(self._broker.stop)
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def target(self) -> Target:
        """How to reach the broker."""
        return self._broker.target

    @property
    def broker_pid(self) -> int:
        """The process id of the broker."""
        return self._broker.pid

    def pid(self, name: str) -> int:
        """The process id of ``coordinator`` or of a node."""
        return self._processes[name].pid

    async def restart_broker(self) -> None:
        """Kill the broker and start it again; returns once it takes connections."""
        await asyncio.to_thread(self._broker.kill)
        self._broker = await asyncio.to_thread(Broker.start, self.home, port=-1)

    async def start_node(self, name: str, *options: str) -> None:
        """Start a node daemon (again) and wait until the coordinator has taken it in."""
        self._about.discard(("node.registered", name))
        self._start(name, "node", "--name", name, "--import", "tests.bench.functions", *options)
        await self._until("node.registered", name)

    async def start_follower(self, name: str) -> None:
        """Start another coordinator and wait until it follows the acting one."""
        self._start(name, "coordinator", "--name", name)
        deadline = asyncio.get_running_loop().time() + READY_S
        while "following" not in self._log(name):
            if asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(f"{name} does not follow\n{self._log(name)}")
            await asyncio.sleep(0.05)

    async def start_coordinator(self, name: str) -> None:
        """Start another coordinator and wait until it acts."""
        self._start(name, "coordinator", "--name", name)
        await self.acts(name)

    async def acts(self, name: str) -> None:
        """Wait until this coordinator acts."""
        await self._until("coordinator.elected", name)

    def end(self, name: str, how: signal.Signals) -> None:
        """Signal a process that will end of it."""
        process = self._processes.pop(name)
        process.send_signal(how)
        self._ended.append(process)

    def _start(self, name: str, module: str, *arguments: str) -> None:
        where = ("--nats", self._broker.url, "--creds", str(self.home / "fog.creds"), "--home", str(self.home))
        argv = [sys.executable, "-m", module, *arguments, *where]
        env = {**environment(), "BENCH_NODE": name}
        with (self.home / f"{name}.log").open("wb") as log:
            self._processes[name] = spawn(argv, env=env, cwd=ROOT, stdout=log, stderr=log)

    def _on_event(self, subject: str, _reply: str, _data: bytes, _headers: bytes) -> None:
        area, what, about = subjects.tail(subject, 1)
        self.events[f"{area}.{what}"] += 1
        self._about.add((f"{area}.{what}", about))
        self._changed.set()

    async def _until(self, kind: str, about: str = "") -> None:
        """Wait for an event; raises RuntimeError with the log of a process that ended, or of all when it never comes."""
        deadline = asyncio.get_running_loop().time() + READY_S
        while not any(found == kind and about in ("", thing) for found, thing in self._about):
            for name, process in self._processes.items():
                if (code := process.poll()) is not None:
                    raise RuntimeError(f"{name}: {how_it_ended(code)}\n{self._log(name)}")
            if asyncio.get_running_loop().time() > deadline:
                logs = "\n".join(f"{name}: {self._log(name)}" for name in self._processes)
                raise RuntimeError(f"no {kind} {about} within {READY_S:.0f} s\n{logs}")
            self._changed.clear()
            try:
                async with asyncio.timeout(0.5):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def log(self, name: str) -> str:
        """All that a process has said."""
        return (self.home / f"{name}.log").read_text("utf-8", "replace")

    def _log(self, name: str) -> str:
        return self.log(name)[-2000:]
