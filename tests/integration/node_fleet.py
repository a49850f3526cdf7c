"""A coordinator made of schemas only, and real node daemons under it: what the tests of the node play with."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Raw

from schemas import streams, subjects
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.creds import Creds, write_creds
from schemas.jetstream import ensure_streams, get_message, stream_info
from schemas.limits import EXCLUSIVE_LEASE_S
from schemas.membership import Heartbeat, NodeAnswer, NodeCommand, Register, Registered, Renewed
from schemas.procs import spawn
from schemas.pull import Message, Puller
from schemas.store import Store
from schemas.target import Target
from schemas.task import FunctionRun, History, Outcome, OutcomeKind, Output, Result, Run, Task, TaskHead, Work
from tests.proxy import Proxy, proxied

ROOT = Path(__file__).resolve().parents[2]
register_of: Decoder[Register] = Decoder(Register)
beat_of: Decoder[Heartbeat] = Decoder(Heartbeat)
outcome_of: Decoder[Outcome] = Decoder(Outcome)
result_of: Decoder[Result] = Decoder(Result)
answer_of: Decoder[NodeAnswer] = Decoder(NodeAnswer)
head_of: Decoder[TaskHead] = Decoder(TaskHead)
output_of: Decoder[Output] = Decoder(Output)


async def until(condition: Callable[[], Any], timeout_s: float = 60.0, what: str = "") -> Any:
    """Wait, on the event loop, until `condition` holds, and return what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what or condition} did not hold within {timeout_s} s"
        await asyncio.sleep(0.01)
    return found


class Fleet:
    """The fake coordinator: answers registrations, collects what nodes say, places work."""

    def __init__(self, bus: Bus, target: Target, folder: Path) -> None:
        self.bus, self.store, self.target, self.folder = bus, Store(bus), target, folder
        self.registers: list[Register] = []
        self.beats: list[Heartbeat] = []
        self.results: dict[str, Result] = {}
        self.outcomes: list[Outcome] = []
        self.outputs: list[Output] = []
        self.events: list[bytes] = []
        self.interval_s = 5.0
        self.term = 1
        self.boot = 1
        self.answering = True
        self.confirming = False  # beats that ask are answered
        self.refusal = ""
        self.drained = False  # by the fleet's record
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.placed = 0
        self.python: tuple[str, ...] = ()

    @classmethod
    async def open(cls, target: Target, folder: Path) -> Fleet:
        """Connect, make the streams, and listen."""
        bus = await Bus.connect(target, name="fake-coordinator")
        await ensure_streams(bus)
        fleet = cls(bus, target, folder)
        await bus.subscribe(subjects.register("*"), fleet._on_register)
        await bus.subscribe(subjects.heartbeat("*"), fleet._on_beat)
        await bus.subscribe(subjects.done("*", "*"), fleet._on_done)
        await bus.subscribe(subjects.output("*", "*"), lambda _s, _r, data, _h: fleet.outputs.append(output_of(data)))
        await bus.subscribe(subjects.event("task.started", "*"), lambda _s, _r, data, _h: fleet.events.append(data))
        await fleet._take_outcomes()
        return fleet

    async def _take_outcomes(self) -> None:
        from schemas.jetstream import create_consumer

        async def make() -> None:
            everything = subjects.outcome("*", "*")
            await create_consumer(
                self.bus, streams.OUTCOMES, "fake", filter_subject=everything, ack_wait_s=60, max_ack_pending=1000
            )

        def take(message: Message) -> None:
            self.outcomes.append(outcome_of(message.data))
            message.ack(self.bus)

        await make()
        self._puller = Puller(self.bus, streams.OUTCOMES, "fake", take, batch=100, on_missing=make)
        await self._puller.start()

    def _on_beat(self, _subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        self.beats.append(beat_of(data))
        if reply and self.confirming:
            self.bus.publish(reply, encode(Renewed(self.term, self.boot, EXCLUSIVE_LEASE_S)))

    def _on_register(self, _subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        request = register_of(data)
        if not self.answering:
            return
        if self.refusal:
            answer = Registered(error=self.refusal, hint="use another id")
        elif not request.signature:
            answer = Registered(challenge="prove it")
        else:
            self.registers.append(request)
            keep = tuple(held.task for held in request.held)
            answer = Registered(
                boot=self.boot, term=self.term, interval_s=self.interval_s, keep=keep, drained=self.drained
            )
        self.bus.publish(reply, encode(answer))

    def _on_done(self, _subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        result = result_of(data)
        assert result.task not in self.results, "a second result was recorded"
        self.results[result.task] = result

    # Nodes.

    def start_node(self, name: str = "n1", *args: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A node daemon as a process of its own; its log goes to `log(name)`."""
        creds = self.folder / "fog.creds"
        write_creds(creds, Creds(self.target.url, self.target.seed))
        argv = [
            sys.executable,
            *self.python,
            "-m",
            "node",
            "--name",
            name,
            "--home",
            str(self.folder),
            "--creds",
            str(creds),
            *args,
        ]
        path = os.pathsep.join((str(ROOT), str(self.folder)) if not self.python else (str(ROOT),))
        with open(self.folder / f"{name}.log", "ab") as log:
            more = {"PYTHONPATH": path, **(env or {})}
            node = spawn(argv, env={**os.environ, **more}, stdout=log, stderr=log, cwd=self.folder)
        self.nodes.append(node)
        return node

    async def node(self, name: str = "n1", *args: str, **more: Any) -> subprocess.Popen[bytes]:
        """A node daemon that has registered and sent its first heartbeat."""
        before = len(self.beats)
        node = self.start_node(name, "--cores", "2", "--memory-mb", "1000", *args, **more)
        await until(lambda: any(b.node == name for b in self.beats[before:]), what=f"{name} beats; {self.log(name)}")
        return node

    def log(self, name: str = "n1") -> str:
        """What the daemon has logged."""
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    async def command(self, verb: str, node: str = "n1", **fields: Any) -> NodeAnswer:
        """Ask the node something, under this coordinator's term."""
        command = NodeCommand(**{"term": self.term, **fields})
        return answer_of(await self.bus.request(subjects.command(node, verb), encode(command), 2.0))

    # Tasks.

    async def place(self, run: Run | None = None, task: str = "", node: str = "n1", **fields: Any) -> Task:
        """Store a task in the node's queue. `history`, `result_by` and `deadline_at` go to the WORK message."""
        self.placed += 1
        work = {key: fields.pop(key) for key in ("history", "result_by", "deadline_at") if key in fields}
        history = work.pop("history", History(placement=1, submitted_at=time.time()))
        made = Task(task or f"t{self.placed}", "me", run or FunctionRun("echo", Raw(b"[1]")), **fields)
        message = encode(Work(Raw(encode(made)), history, term=self.term, **work))
        await self.store.put(subjects.work(node, made.id), message, msg_id=f"{made.id}.{history.placement}")
        return made

    async def result(self, task: Task | str, timeout_s: float = 60.0) -> Result:
        """The task's recorded result."""
        name = task if isinstance(task, str) else task.id
        found: Result = await until(lambda: self.results.get(name), timeout_s, f"result of {name}; {self.log()}")
        return found

    async def outcome(self, task: Task, kind: OutcomeKind | None = None, timeout_s: float = 60.0) -> Outcome:
        """The outcome that carries the task on."""

        def find() -> Outcome | None:
            same = [o for o in self.outcomes if head_of(o.task).id == task.id]
            return next((o for o in same if kind in (None, o.kind)), None)

        found: Outcome = await until(find, timeout_s, f"outcome of {task.id}; {self.log()}")
        return found

    async def waiting_work(self) -> int:
        """Messages in FOG_WORK: not acked yet."""
        return int((await stream_info(self.bus, streams.WORK))["state"]["messages"])

    async def until_acked(self, timeout_s: float = 60.0, left: int = 0) -> None:
        """Wait until FOG_WORK is empty, but for what is `left`."""
        deadline = time.monotonic() + timeout_s
        while await self.waiting_work() > left:
            assert time.monotonic() < deadline, "the work was not acked"
            await asyncio.sleep(0.01)

    async def stored(self, stream: str, subject: str) -> Any:
        """The last message of a subject."""
        return await get_message(self.bus, stream, last_by=subject)

    async def close(self) -> None:
        """End every daemon of the test, and the connection."""
        for node in self.nodes:
            if node.poll() is None:
                node.send_signal(signal.SIGKILL)
                node.wait()
        await self._puller.stop()
        self.store.close()
        await self.bus.close()


@asynccontextmanager
async def behind_a_proxy(target: Target, folder: Path, functions: str) -> AsyncIterator[tuple[Fleet, Proxy]]:
    """A fleet whose nodes reach the broker through a proxy, and can import `functions` as ``own_functions``."""
    (folder / "own_functions.py").write_text(functions)
    with proxied(target) as proxy:
        fleet = await Fleet.open(target, folder)
        fleet.target = proxy.target(target)
        try:
            yield fleet, proxy
        finally:
            await fleet.close()
