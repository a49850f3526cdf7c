"""A fleet of one process for tests of the client alone: it answers the API and runs what lies in TASKS, by the contract.

The real broker is in between; `tests/integration/test_client_fleet.py` has the real coordinator and nodes instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from schemas import jetstream, limits, streams, subjects
from schemas.api import ApiError, Done, FunctionRow, FunctionsReply
from schemas.bus import Bus
from schemas.chunks import JobRecord, Span, chunk_id
from schemas.codec import Decoder, encode
from schemas.device import FunctionOffer, Parameter
from schemas.objects import Objects
from schemas.pull import Message, Puller
from schemas.store import Ack, Store
from schemas.streams import JOBS
from schemas.task import (
    Blob,
    CommandRun,
    ItemError,
    MapRun,
    Output,
    Result,
    ResultState,
    Task,
)

decode_task: Decoder[Task] = Decoder(Task)
NAME = "fake"


def offer(name: str, kind: str = "json", *, variadic: bool = False) -> FunctionOffer:
    return FunctionOffer(name, (Parameter("value", kind),), variadic)


def divide(value: int) -> float:
    return 12 / value


FUNCTIONS: dict[str, tuple[FunctionOffer, Callable[..., Any]]] = {
    "echo": (offer("echo"), lambda value: value),
    "sha256": (offer("sha256", "bytes"), lambda content: hashlib.sha256(content).hexdigest()),
    "reverse": (offer("reverse", "bytes"), lambda content: content[::-1]),
    "divide": (offer("divide"), divide),
    "say": (offer("say", "str"), lambda text: text),
}


class FakeFleet:
    """Use as an async context. `hold` keeps tasks from starting; no node offers what is in `lacks`; `slow` keeps answers
    about functions back, as they were when asked, until `answer_late`."""

    def __init__(self, bus: Bus, slots: int = 2, split_above: int = 0) -> None:
        self.bus, self.slots, self.split_above = bus, slots, split_above
        self.store, self.objects = Store(bus), Objects(bus)
        self.hold = asyncio.Event()
        self.hold.set()
        self.ran: list[Task] = []
        self.cancelled: list[str] = []
        self.waiting: set[str] = set()
        self.asked = 0
        self.lacks: set[str] = set()
        self.slow = False
        self._late: list[tuple[str, bytes]] = []
        self.item_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Any] = []

    async def __aenter__(self) -> FakeFleet:
        await jetstream.ensure_streams(self.bus)
        await self._make_consumer()
        self._puller = Puller(self.bus, streams.TASKS, NAME, self._arrived, batch=64, on_missing=self._make_consumer)
        await self.answer()
        await self._puller.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._puller.stop()
        await self.silence()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.store.close()

    async def answer(self) -> None:
        """Answer the API."""
        self._subscriptions = [
            await self.bus.subscribe(subjects.api("fleet", "functions"), self._functions),
            await self.bus.subscribe(subjects.api("task", "cancel"), self._cancel),
        ]

    async def silence(self) -> None:
        """Answer the API no more."""
        for subscription in self._subscriptions:
            await subscription.close()
        self._subscriptions = []

    async def _make_consumer(self) -> None:
        await jetstream.create_consumer(
            self.bus, streams.TASKS, NAME, filter_subject=subjects.submit(0, "*", "*").replace(".0.", ".*."),
            ack_wait_s=limits.TASKS_ACK_WAIT_S, max_ack_pending=1000,
        )  # fmt: skip

    def _functions(self, _subject: str, reply: str, _data: bytes, _headers: bytes) -> None:
        self.asked += 1
        offered = [found for found, _ in FUNCTIONS.values() if found.name not in self.lacks]
        self._late.append((reply, encode(FunctionsReply(tuple(FunctionRow(one, 1, self.slots) for one in offered)))))
        if not self.slow:
            self.answer_late()

    def answer_late(self) -> None:
        """Send the answers that were kept back, and keep none back any more."""
        self.slow = False
        for reply, data in self._late:
            self.bus.publish(reply, data)
        self._late.clear()

    def _cancel(self, _subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        task = msgspec.json.decode(data)["task"]
        if task not in self.waiting:
            error = ApiError("unknown-task", f"no task {task}", "see `fog tasks`")
            self.bus.publish(reply, encode(error), headers=b"Nats-Service-Error-Code: unknown-task\r\n")
            return
        self.cancelled.append(task)
        self.bus.publish(reply, encode(Done()))

    def _arrived(self, message: Message) -> None:
        task = decode_task(message.data)
        self.waiting.add(task.id)
        running = asyncio.get_running_loop().create_task(self._run(task, message))
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)

    async def _run(self, task: Task, message: Message) -> None:
        await self.hold.wait()
        self.ran.append(task)
        began = time.time()
        try:
            fields = await self._do(task)
        except Exception as error:
            fields = {"state": ResultState.FAILED, "reason": f"{type(error).__name__}: {error}"}
        result = Result(
            task.id, task.submitter, fields.pop("state", ResultState.SUCCEEDED), node="fake-1", attempts=1,
            started_at=began, duration_ms=(time.time() - began) * 1000, **fields,
        )  # fmt: skip
        self.waiting.discard(task.id)
        self.store.post(subjects.result(task.submitter, task.id), encode(result), task.id, _stored)
        message.ack(self.bus)

    async def _do(self, task: Task) -> dict[str, Any]:
        run = task.run
        if isinstance(run, MapRun):
            return await self._map(run)
        if isinstance(run, CommandRun):
            return await self._command(task, run)
        args = msgspec.json.decode(run.args)
        for file in run.files:
            args[file.index] = await self.objects.bytes_of(file.blob)
        return await self._value(FUNCTIONS[run.name][1](*args))

    async def _value(self, value: Any) -> dict[str, Any]:
        if isinstance(value, bytes):
            return {"blob": await self.objects.blob(value)}
        return {"value": msgspec.Raw(encode(value))}

    async def _command(self, task: Task, run: CommandRun) -> dict[str, Any]:
        said = Output(task.id, 1, "stdout", " ".join(run.argv) + "\n")
        self.bus.publish(subjects.output(task.submitter, task.id), encode(said))
        await self.bus.flush()
        return {"exit_code": len(run.argv), "stdout": said.text}

    async def _map(self, run: MapRun) -> dict[str, Any]:
        if self.split_above and run.count > self.split_above:
            return await self._split(run)
        items: list[Any] = [await self.objects.bytes_of(blob) for blob in run.files]
        if run.packed is not None:
            items = msgspec.json.decode(await self.objects.bytes_of(run.packed))
        elif bytes(run.items):
            items = msgspec.json.decode(run.items)
        assert len(items) == run.count
        await asyncio.sleep(self.item_s * run.count)
        values, errors = [], []
        for index, item in enumerate(items, run.first):
            try:
                values.append(FUNCTIONS[run.name][1](item))
            except Exception as error:
                values.append(None)
                errors.append(ItemError(index, f"{type(error).__name__}: {error}"))
        return {**await self._values(values), "item_errors": tuple(errors), "items": run.count}

    async def _values(self, values: list[Any]) -> dict[str, Any]:
        if any(isinstance(value, bytes) for value in values):
            blobs = []
            for value in values:
                ref = None if value is None else await self.objects.put(value)
                blobs.append(None if ref is None else Blob(len(value), None, ref))
            return {"blobs": tuple(blobs)}
        data = encode(values)
        if len(data) > limits.INLINE_MAX:
            return {"blob": Blob(len(data), None, await self.objects.put(data)), "packed": True}
        return {"value": msgspec.Raw(data)}

    async def _split(self, run: MapRun) -> dict[str, Any]:
        """Cut the chunk into two halves, store the results of both, and say so."""
        entry = await jetstream.get_message(self.bus, f"KV_{JOBS}", last_by=f"$KV.{JOBS}.{run.job}")
        assert entry is not None
        record = msgspec.json.decode(entry.data, type=JobRecord)
        half, items = run.count // 2, msgspec.json.decode(run.items)
        parts = []
        for first, some in ((run.first, items[:half]), (run.first + half, items[half:])):
            part = chunk_id(record.secret, run.job, Span(first, len(some)))
            parts.append(part)
            fields = await self._map(MapRun(run.name, run.job, first, len(some), msgspec.Raw(encode(some))))
            state = fields.pop("state", ResultState.SUCCEEDED)
            done = Result(part, record.submitter, state, node="fake-2", attempts=1, **fields)
            await self.store.put(subjects.result(record.submitter, part), encode(done), msg_id=part)
        return {"parts": tuple(parts)}


def _stored(answer: Ack | Exception) -> None:
    assert isinstance(answer, Ack), answer
