"""A fleet of real processes for tests of the whole: coordinators and nodes of their own, on one account of a broker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from client.api import Api
from schemas import streams, subjects
from schemas.api import CancelRequest, DrainRequest, Empty, NodeInfo, NodeRequest, StatusReply, TaskInfo, TaskRequest
from schemas.api import Done as Accepted
from schemas.bus import Bus, header
from schemas.codec import Decoder, encode
from schemas.creds import Creds, write_creds
from schemas.jetstream import stream_info
from schemas.names import new_id
from schemas.procs import how_it_ended, spawn
from schemas.store import Store
from schemas.target import Target
from schemas.task import FunctionRun, Needs, Result, Retry, Run, Task, TaskPriority
from tests.until import eventually

ROOT = Path(__file__).resolve().parents[2]
ME = "tester"
READY_S = 30.0
result_of: Decoder[Result] = Decoder(Result)


class Stack:
    """Starts, kills and asks. `results` holds every result that the broker stored, `events` every event in the order of
    its coming. `doubled` counts results of tasks that had another one: it must stay empty. (Of several servers, one that
    begins to lead may republish what its predecessor had republished: the same message of the stream.)"""

    def __init__(self, bus: Bus, target: Target, folder: Path) -> None:
        self.bus, self.target, self.folder = bus, target, folder
        self.store, self.api = Store(bus), Api(bus)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.within: tuple[str, ...] = ()  # words before the command of whatever is started: ``ip netns exec x``
        self.results: dict[str, Result] = {}
        self.ended: list[str] = []
        self.doubled: Counter[str] = Counter()
        self._stored_as: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        write_creds(folder / "fog.creds", Creds(target.url, target.seed))

    # Processes.

    def start(self, name: str, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a process of ours; its log is ``<name>.log``."""
        where = ("--creds", str(self.folder / "fog.creds"), "--home", str(self.folder))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FOG_")}
        more = {"PYTHONPATH": str(ROOT), "STACK_NODE": name, **(env or {})}
        with (self.folder / f"{name}.log").open("ab") as log:
            words = [*self.within, sys.executable, "-P", "-m", *argv, *where]
            process = spawn(words, env={**kept, **more}, stdout=log, stderr=log, cwd=self.folder)
        self.processes[name] = process
        return process

    async def coordinator(self, name: str = "c1") -> subprocess.Popen[bytes]:
        """Start a coordinator, and return once it acts."""
        process = self.start(name, "coordinator", "--name", name)
        await self.event("coordinator.elected", name)
        return process

    async def node(self, name: str, *options: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a node with two cores and slots (or as the options say), and return once the coordinator took it in."""
        before = len(self.events)
        process = self.start_node(name, *options, env=env)
        await self.event("node.registered", name, since=before)
        return process

    def start_node(self, name: str, *options: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a node without waiting."""
        usual = ("--cores", "2", "--slots", "2", "--memory-mb", "1000", "--leave-grace-s", "0.2")
        return self.start(
            name, "node", "--name", name, *usual, "--import", "tests.integration.stack_functions", *options, env=env
        )

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Signal a process, and wait until it is gone."""
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(60)

    def log(self, name: str) -> str:
        """What a process has logged."""
        path = self.folder / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    # Events and results.

    async def listen(self) -> None:
        """Hear all that the broker republishes and stores."""
        await self.bus.subscribe(subjects.done("*", "*"), self._on_done)
        await self.bus.subscribe(subjects.event("*.*", "*"), self._on_event)

    def _on_done(self, _subject: str, _reply: str, data: bytes, headers: bytes) -> None:
        result = result_of(data)
        seq = header(headers, b"Nats-Sequence")
        if self._stored_as.setdefault(result.task, seq) != seq:
            self.doubled[result.task] += 1
        self.results[result.task] = result
        self.ended.append(result.task)

    def _on_event(self, _subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        self.events.append(msgspec.json.decode(data))

    def seen(self, kind: str, about: str = "", since: int = 0) -> list[dict[str, Any]]:
        """The events of a kind (``task.started``) about something."""
        return [e for e in self.events[since:] if e["type"] == f"fog.{kind}" and about in ("", e["subject"])]

    async def event(self, kind: str, about: str = "", since: int = 0, timeout_s: float = READY_S) -> dict[str, Any]:
        """The first event of a kind about something, waited for; a process that died fails the test at once."""

        def came() -> bool:
            for name, process in self.processes.items():
                code = process.poll()
                assert code is None, f"{name}: {how_it_ended(code or 0)}\n{self.log(name)[-2000:]}"
            return bool(self.seen(kind, about, since))

        await eventually(came, timeout_s, f"{kind} {about}")
        return self.seen(kind, about, since)[0]

    def story(self, task: str) -> list[str]:
        """What happened to a task, by the events' own times: ``["assigned", "started", "succeeded"]``."""
        told = sorted((e for e in self.events if e["subject"] == task), key=lambda e: e["time"])
        return [e["type"].removeprefix("fog.task.") for e in told]

    async def result(self, task: str, timeout_s: float = 60.0) -> Result:
        """The task's recorded result."""

        def came() -> bool:
            return task in self.results

        try:
            await eventually(came, timeout_s, f"the result of {task}")
        except AssertionError as error:
            logs = "\n".join(f"{name}: {self.log(name)[-1500:]}" for name in self.processes)
            raise AssertionError(f"{error}; its story: {self.story(task)}\n{logs}") from None
        return self.results[task]

    async def all_results(self, tasks: list[str], timeout_s: float = 60.0) -> None:
        """Wait until all of these have a result."""
        await eventually(lambda: all(t in self.results for t in tasks), timeout_s, f"results of {len(tasks)} tasks")

    # Tasks.

    def make(self, name: str = "echo", *args: object, run: Run | None = None, task: str = "", **fields: Any) -> Task:
        """A task; `cores`, `node`, `labels`, … are its needs, `retries` and `backoff_s` its retry policy."""
        needs = {key: fields.pop(key) for key in list(fields) if key in Needs.__struct_fields__}
        retry = Retry(fields.pop("retries", 2), fields.pop("backoff_s", 0.05))
        run = run or FunctionRun(name, msgspec.Raw(msgspec.json.encode(args)))
        return Task(task or new_id("t"), ME, run, needs=Needs(**needs), retry=retry, **fields)

    async def submit(self, name: str = "echo", *args: object, **fields: Any) -> str:
        """Submit a task, and return its id once the broker has it."""
        task = self.make(name, *args, **fields)
        await self.put(task)
        return task.id

    async def put(self, task: Task) -> None:
        """Submit it as the client does."""
        await self.store.put(subjects.submit(task.priority, task.submitter, task.id), encode(task), msg_id=task.id)

    async def put_all(self, tasks: list[Task]) -> list[str]:
        """Submit many, and return their ids once the broker has them all."""
        await asyncio.gather(*(self.put(task) for task in tasks))
        return [task.id for task in tasks]

    # Asking the coordinator.

    async def status(self) -> StatusReply:
        """``fog status``."""
        return await self.api.call("fleet", "status", Empty(), StatusReply)

    async def node_info(self, node: str) -> NodeInfo:
        """``fog node-info``."""
        return await self.api.call("node", "info", NodeRequest(node), NodeInfo)

    async def task_info(self, task: str) -> TaskInfo:
        """``fog task``."""
        return await self.api.call("task", "info", TaskRequest(task), TaskInfo)

    async def cancel(self, task: str) -> None:
        """``fog cancel``."""
        await self.api.call("task", "cancel", CancelRequest(task, ME), Accepted)

    async def drain(self, node: str, deadline_s: float = 60.0, resume: bool = False) -> None:
        """``fog drain``."""
        await self.api.call("node", "drain", DrainRequest(node, deadline_s, resume), Accepted)

    async def stored(self, stream: str) -> int:
        """How many messages a stream holds."""
        return int((await stream_info(self.bus, stream))["state"]["messages"])

    async def nothing_left(self, timeout_s: float = 60.0) -> None:
        """Wait until no queue holds anything and nothing is charged to anybody: every account is at zero."""
        left: dict[str, object] = {}

        async def settled() -> bool:
            status = await self.status()
            queues = (streams.TASKS, streams.WORK, streams.OUTCOMES)
            left.update({stream: await self.stored(stream) for stream in queues}, tasks=sum(status.tasks.values()))
            left.update(slots=status.slots_used, cores=status.cores_used)
            return not any(left.values())

        try:
            await eventually(settled, timeout_s)
        except AssertionError:
            raise AssertionError(f"something is left after {timeout_s} s: {left}, {await self.status()}") from None

    async def close(self) -> None:
        """Kill what runs, and go."""
        for name in list(self.processes):
            if self.processes[name].poll() is None:
                self.kill(name)
        self.store.close()
        await self.bus.close()


@asynccontextmanager
async def stack(target: Target, folder: Path) -> AsyncIterator[Stack]:
    """A stack without any process yet; what was started in it is gone at its end."""
    made = Stack(await Bus.connect(target, name="tests"), target, folder)
    try:
        await made.listen()
        yield made
    finally:
        await made.close()


def priority(name: str) -> TaskPriority:
    """A priority by its name."""
    return TaskPriority[name.upper()]
