"""The floor: what a careful person writes by hand with nats-py, uvloop and msgspec, without a coordinator.

Two worker processes pull from one JetStream work queue, publish each result straight back to whoever submitted, and ack.
No placement, no accounting, no isolation, no stored result, no second chance: everything that fogfleet adds is measured
against this. Two of them:

- *plain*, which the figures are judged by: nats-py's own JetStream calls, used for speed (`publish_async` with a wide
  window, `fetch` of large batches, acks that are not waited for). A throw-away pipeline of this design, handed down as
  the speed to stay near, does 0.65 of it.
- *raw*, stated beside it: JetStream's protocol spoken by hand past nats-py's JetStream client (pull requests and publish
  acks through subscriptions of one's own), as fogfleet itself does it. The same pipeline does 0.45 of that.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from typing import Any

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig

from schemas.procs import die_with_parent
from tests.bench.processes import ROOT, environment

STREAM = "FLOOR"
CONSUMER = "workers"
WORKERS = 2
WINDOW = 2_000  # publishes without an ack yet
BATCH = 256  # messages of one fetch, or of one of the two outstanding pull requests
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


async def work_plain(nc: Client) -> None:
    """One worker on nats-py's JetStream client: fetch, run, answer, ack, for ever."""
    decode, encode = msgspec.json.Decoder(Task).decode, msgspec.json.Encoder().encode
    queue = await nc.jetstream().pull_subscribe_bind(CONSUMER, stream=STREAM)
    print("ready", flush=True)
    while True:
        try:
            messages = await queue.fetch(BATCH, timeout=PULL_EXPIRES_S)
        except NatsTimeout:
            continue
        for message in messages:
            task = decode(message.data)
            await nc.publish(task.reply, encode(Result(task.id, task.x)))
            await message.ack()


async def work_raw(nc: Client) -> None:
    """One worker that asks by the protocol, with two pull requests open ahead of need."""
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
            await nc.publish(task.reply, encode(Result(task.id, task.x)))
            await nc.publish(message.reply, b"")
        if left <= BATCH:
            await ask()

    await nc.subscribe(inbox, cb=on_message)
    await ask()
    await ask()
    print("ready", flush=True)
    await asyncio.Event().wait()


class Floor:
    """The submitting side, with its two workers. Use as an async context."""

    def __init__(self, url: str, seed: str, *, raw: bool = False) -> None:
        self._url, self._seed, self._raw = url, seed, raw
        self._workers: list[Process] = []
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._encode = msgspec.json.Encoder().encode
        self._acked = self._sent = 0
        self._room = asyncio.Event()

    async def __aenter__(self) -> Floor:
        self._nc = await connect(self._url, self._seed, "floor-client")
        self._js = self._nc.jetstream(publish_async_max_pending=WINDOW)
        await self._js.add_stream(StreamConfig(STREAM, subjects=["floor.task.*"], retention=RetentionPolicy.WORK_QUEUE))
        consumer = ConsumerConfig(CONSUMER, CONSUMER, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=20_000)
        await self._js.add_consumer(STREAM, consumer)
        self._acks, self._results = self._nc.new_inbox(), self._nc.new_inbox()
        await self._nc.subscribe(self._acks, cb=self._on_ack)
        await self._nc.subscribe(self._results, cb=self._on_result)
        await self._start_workers()
        return self

    async def _start_workers(self) -> None:
        argv = [sys.executable, "-m", "tests.bench.floor", self._url, self._seed, "raw" if self._raw else "plain"]
        for _ in range(WORKERS):
            worker = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=environment(), stdout=PIPE)
            self._workers.append(worker)
        for worker in self._workers:
            assert worker.stdout is not None
            if await worker.stdout.readline() != b"ready\n":
                raise RuntimeError("a floor worker did not start")

    async def __aexit__(self, *_exc: object) -> None:
        for worker in self._workers:
            worker.kill()
            await worker.wait()
        await self._js.delete_stream(STREAM)
        await self._nc.close()

    async def _on_ack(self, message: Msg) -> None:
        if b'"error"' in message.data:
            raise RuntimeError(f"the broker refused a floor task: {message.data!r}")
        self._acked += 1
        self._room.set()

    async def _on_result(self, message: Msg) -> None:
        done = self._waiting.pop(msgspec.json.decode(message.data, type=Result).id, None)
        if done is not None:
            done.set_result(None)

    async def throughput(self, count: int) -> float:
        """Tasks a second over `count` tasks, each awaited, from the first submit to the last result."""
        mark, began = f"{time.time_ns():x}", time.perf_counter()
        answers = [await self._submit(f"{mark}-{number}", number) for number in range(count)]
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*answers)
        return count / (time.perf_counter() - began)

    async def latencies(self, count: int) -> list[float]:
        """Seconds from submit to result of `count` tasks, one at a time."""
        mark, found = f"{time.time_ns():x}", []
        for number in range(count):
            began = time.perf_counter()
            answered = await self._submit(f"{mark}-{number}", number)
            async with asyncio.timeout(TIMEOUT_S):
                await answered
            found.append(time.perf_counter() - began)
        return found

    async def _submit(self, task: str, x: int) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[task] = answer
        data, headers = self._encode(Task(task, self._results, x)), {"Nats-Msg-Id": task}
        subject = f"floor.task.{task}"
        if not self._raw:
            await self._js.publish_async(subject, data, headers=headers)
            return answer
        self._sent += 1
        await self._nc.publish(subject, data, reply=self._acks, headers=headers)
        if self._sent % 100 == 0:
            await self._until_acked(self._sent - WINDOW)
        return answer

    async def _until_acked(self, wanted: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self._acked < wanted:
                self._room.clear()
                await self._room.wait()


async def work(url: str, seed: str, kind: str) -> None:
    """One worker process."""
    nc = await connect(url, seed, "floor-worker")
    await (work_raw(nc) if kind == "raw" else work_plain(nc))


def main() -> None:
    """A worker: ``python -m tests.bench.floor URL SEED plain|raw``."""
    die_with_parent()
    url, seed, kind = sys.argv[1:4]
    uvloop.run(work(url, seed, kind))


if __name__ == "__main__":
    main()
