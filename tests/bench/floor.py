"""The floor: what a careful person writes by hand with nats-py, uvloop and msgspec, without a coordinator.

Two worker processes pull from one JetStream work queue, publish each result straight back to whoever submitted, and ack.
No placement, no accounting, no isolation, no second chance: everything that fogfleet adds is measured against this.
By default a result goes back as a core message and is kept nowhere; with `stored`, it is stored in a second stream first
and the task is acked after that, which is as much as fogfleet itself promises for a result.
Only documented parts of nats-py are used, with the patterns that are known to be quick: one inbox that counts the acks of
a window of publishes, two outstanding pull requests, callbacks that do not wait for each other.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from typing import Any

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from schemas.procs import die_with_parent
from tests.bench.processes import ROOT, environment

STREAM = "FLOOR"
CONSUMER = "workers"
RESULTS = "floor.result"  # where stored results go
WORKERS = 2
WINDOW = 2_000  # publishes without an ack yet
BATCH = 256  # messages of one pull request; two are outstanding
PULL_EXPIRES_S = 30
TIMEOUT_S = 120.0


class Task(msgspec.Struct):
    """What is asked: `x`, to be sent back to the subject `reply`."""

    id: str
    reply: str
    x: int = 0


class Result(msgspec.Struct):
    """What comes back."""

    id: str
    value: int


async def connect(url: str, seed: str, name: str) -> Client:
    """A plain nats-py connection."""
    auth: dict[str, Any] = {"nkeys_seed_str": seed} if seed else {}
    return await nats.connect(url, name=name, pending_size=64 << 20, **auth)


async def work(url: str, seed: str, stored: bool) -> None:
    """One worker: pull, run, answer, ack, for ever."""
    nc = await connect(url, seed, "floor-worker")
    unacked: dict[str, str] = {}  # task: where to ack it once its result is stored
    acks = nc.new_inbox()
    decode, encode = msgspec.json.Decoder(Task).decode, msgspec.json.Encoder().encode
    inbox = nc.new_inbox()
    left = 0

    async def ask() -> None:
        nonlocal left
        left += BATCH
        request = b'{"batch":%d,"expires":%d}' % (BATCH, PULL_EXPIRES_S * 10**9)
        await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}", request, reply=inbox)

    async def on_message(message: Msg) -> None:
        nonlocal left
        if not message.reply:  # a pull request expired: what it still asked for is not coming
            left -= int((message.headers or {}).get("Nats-Pending-Messages", 0))
        else:
            left -= 1
            task = decode(message.data)
            data = encode(Result(task.id, task.x))
            if stored:
                unacked[task.id] = message.reply
                await nc.publish(f"{RESULTS}.{task.id}", data, reply=f"{acks}.{task.id}")
            else:
                await nc.publish(task.reply, data)
                await nc.publish(message.reply, b"")
        if left <= BATCH:
            await ask()

    async def on_stored(message: Msg) -> None:
        await nc.publish(unacked.pop(message.subject.rsplit(".", 1)[1]), b"")

    await nc.subscribe(f"{acks}.*", cb=on_stored)
    await nc.subscribe(inbox, cb=on_message)
    await ask()
    await ask()
    print("ready", flush=True)
    await asyncio.Event().wait()


class Floor:
    """The submitting side, with its two workers. Use as an async context."""

    def __init__(self, url: str, seed: str, *, stored: bool = False) -> None:
        self._url, self._seed, self._stored = url, seed, stored
        self._workers: list[Process] = []
        self._waiting: dict[str, Callable[[], None]] = {}
        self._encode = msgspec.json.Encoder().encode
        self._acked = 0
        self._room = asyncio.Event()

    async def __aenter__(self) -> Floor:
        self._nc = await connect(self._url, self._seed, "floor-client")
        js = self._nc.jetstream()
        await js.add_stream(StreamConfig(STREAM, subjects=["floor.task.*"], retention=RetentionPolicy.WORK_QUEUE))
        consumer = ConsumerConfig(CONSUMER, CONSUMER, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=20_000)
        await js.add_consumer(STREAM, consumer)
        decode = msgspec.json.Decoder(Result).decode
        if self._stored:
            await js.add_stream(StreamConfig(f"{STREAM}_RESULTS", subjects=[f"{RESULTS}.*"], max_msgs_per_subject=1))
        self._acks, self._results = self._nc.new_inbox(), self._nc.new_inbox()

        async def on_ack(message: Msg) -> None:
            if b'"error"' in message.data:
                raise RuntimeError(f"the broker refused a floor task: {message.data!r}")
            self._acked += 1
            self._room.set()

        async def on_result(message: Msg) -> None:
            done = self._waiting.pop(decode(message.data).id, None)
            if done is not None:
                done()

        await self._nc.subscribe(self._acks, cb=on_ack)
        await self._nc.subscribe(f"{RESULTS}.*" if self._stored else self._results, cb=on_result)
        argv = [sys.executable, "-m", "tests.bench.floor", self._url, self._seed, "stored" if self._stored else ""]
        for _ in range(WORKERS):
            worker = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=environment(), stdout=PIPE)
            self._workers.append(worker)
        for worker in self._workers:
            assert worker.stdout is not None
            if await worker.stdout.readline() != b"ready\n":
                raise RuntimeError("a floor worker did not start")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for worker in self._workers:
            worker.kill()
            await worker.wait()
        await self._nc.jetstream().delete_stream(STREAM)
        if self._stored:
            await self._nc.jetstream().delete_stream(f"{STREAM}_RESULTS")
        await self._nc.close()

    async def throughput(self, count: int) -> float:
        """Tasks a second over `count` tasks, from the first submit to the last result."""
        done, left, self._acked = asyncio.Event(), count, 0

        def one() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        mark, began = f"{time.time_ns():x}", time.perf_counter()
        for number in range(count):
            await self._submit(f"{mark}-{number}", number, one)
            if number % 100 == 99:
                await self._until_acked(number - WINDOW)
        async with asyncio.timeout(TIMEOUT_S):
            await done.wait()
        return count / (time.perf_counter() - began)

    async def latencies(self, count: int) -> list[float]:
        """Seconds from submit to result of `count` tasks, one at a time."""
        mark, found = f"{time.time_ns():x}", []
        for number in range(count):
            answered = asyncio.get_running_loop().create_future()
            began = time.perf_counter()
            await self._submit(f"{mark}-{number}", number, lambda answered=answered: answered.set_result(None))  # type: ignore[misc]
            async with asyncio.timeout(TIMEOUT_S):
                await answered
            found.append(time.perf_counter() - began)
        return found

    async def _submit(self, task: str, x: int, done: Callable[[], None]) -> None:
        self._waiting[task] = done
        data = self._encode(Task(task, self._results, x))
        headers = {"Nats-Msg-Id": task}
        await self._nc.publish(f"floor.task.{task}", data, reply=self._acks, headers=headers)

    async def _until_acked(self, wanted: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self._acked < wanted:
                self._room.clear()
                await self._room.wait()


def main() -> None:
    """A worker: ``python -m tests.bench.floor URL SEED [stored]``."""
    die_with_parent()
    url, seed, stored = sys.argv[1:4]
    uvloop.run(work(url, seed, stored == "stored"))


if __name__ == "__main__":
    main()
