"""What a new holder of the lease reads before it acts: everything that the streams know is fed into the core.

The order matters. The old term's consumers are gone by now, so nobody else takes anything; results are listened to before
they are read, so that none is missed between; TASKS and OUTCOMES are pulled only once the rest is known.

A large fleet takes longer to read than a lease lasts: after every page others of this process run, its renewal among them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime

from msgspec import Struct

from coordinator.core.events import Event, NodeKnown, ResultSeen
from coordinator.inbound import Inbound
from schemas import jetstream, limits, streams, subjects
from schemas.bus import Bus
from schemas.codec import Decoder
from schemas.errors import BadInput, FogError
from schemas.kv import Kv
from schemas.logs import fields
from schemas.membership import NodeRecord
from schemas.store import Store
from schemas.task import ResultHead, ResultState

log = logging.getLogger("fog.takeover")


class _End(Struct):
    task: str
    submitter: str


class CloudEnd(Struct):
    """What is read of the event of a task's end."""

    data: _End


class _Sent(Struct):
    """Of a WORK message: the term of who placed it."""

    term: int = 0


SLICE = 200  # messages that are taken in at a time, a millisecond or two, before others run
ASKS = 2  # pages of results that are asked for at a time: 16 MiB at most
LATE_S = (
    5.0,
    30.0,
    120.0,
    600.0,
)  # after a takeover: when it is looked for what was still on its way to the broker then
LOOK_BACK = 1_000  # results before the last one whose end was told: ends are told nearly in the order of the results
SURE_S = 0.75 * limits.DUPLICATE_WINDOW_S  # an event told twice is stored once if its first telling is younger
_ended = Decoder(CloudEnd)
_sent = Decoder(_Sent)


async def read_everything(
    bus: Bus, store: Store, inbound: Inbound, feed: Callable[[Event], None], breathe: Callable[[], Awaitable[None]]
) -> None:
    """Feed the nodes, the work in queues and waiting, and the results of that work.

    `breathe` is awaited after every page: it lets others run, and raises when the lease is over.
    """
    inbound.fresh_after_seq = jetstream.last_seq(await jetstream.stream_info(bus, streams.TASKS))
    await breathe()
    nodes = await _nodes(bus, store, inbound)
    for node in nodes:
        feed(node)
    await breathe()
    work, ended = await _work(bus, inbound, feed, breathe)
    for head in ended:
        feed(ResultSeen(head))
    log.info("read the streams", extra=fields(nodes=len(nodes), work=work, done=len(ended)))


async def _nodes(bus: Bus, store: Store, inbound: Inbound) -> list[NodeKnown]:
    decode = Decoder(NodeRecord)
    known = []
    for key, entry in (await Kv(bus, store, streams.NODES).all()).items():
        try:
            known.append(NodeKnown(decode(entry.value), entry.revision))
        except BadInput as error:
            inbound.bad.add("node", key, str(error))
    return known


async def _work(
    bus: Bus, inbound: Inbound, feed: Callable[[Event], None], breathe: Callable[[], Awaitable[None]]
) -> tuple[int, list[ResultHead]]:
    """Feed the work page by page; how much it was, and the results that it has. They are asked for while more is read: one
    that is stored after that is heard."""
    results = _Results(bus, inbound)
    work = 0
    try:
        # Without a filter: it is all that the stream takes, and the broker reads it at half the cost.
        async for page in jetstream.read_pages(bus, streams.WORK, ">"):
            wanted: list[str] = []
            for first in range(0, len(page), SLICE):
                found = [item for item in map(inbound.work, page[first : first + SLICE]) if item is not None]
                for item in found:
                    feed(item)
                work += len(found)
                wanted += [subjects.result(item.head.submitter, item.head.id) for item in found]
                await breathe()  # and the next page is asked for, so that the broker reads while this one is used
            inbound.late_after_seq = page[-1].seq
            await results.ask(wanted)
        await results.all_answered()
    finally:
        results.stop()
    return work, results.found


class _Results:
    """Looks results up, up to `ASKS` pages of them at a time."""

    def __init__(self, bus: Bus, inbound: Inbound) -> None:
        self._bus, self._inbound = bus, inbound
        self._asked: deque[asyncio.Task[list[jetstream.StoredMessage]]] = deque()
        self.found: list[ResultHead] = []

    async def ask(self, wanted: list[str]) -> None:
        """Ask for these; waits while enough is asked for."""
        while len(self._asked) >= ASKS:
            await self._next()
        self._asked.append(asyncio.create_task(jetstream.multi_last(self._bus, streams.RESULTS, wanted)))

    async def all_answered(self) -> None:
        """Until all that was asked for is in `found`."""
        while self._asked:
            await self._next()

    async def _next(self) -> None:
        heads = [self._inbound.result(message) for message in await self._asked[0]]
        self._asked.popleft()
        self.found += [head for head in heads if head is not None]

    def stop(self) -> None:
        """What is not answered yet is of no use."""
        for asked in self._asked:
            if not asked.cancel() and not asked.cancelled():
                asked.exception()


async def read_late(
    bus: Bus, inbound: Inbound, feed: Callable[[Event], None], breathe: Callable[[], Awaitable[None]], term: int
) -> None:
    """Feed what earlier terms put into ``_waiting``, as far as the broker stored it after it was read: what a coordinator
    says before its lease ends may be on its way for longer than that. (Of what lies at a node, the node tells.)"""
    waiting = subjects.work(subjects.WAITING, "*")
    async for page in jetstream.read_pages(bus, streams.WORK, waiting, inbound.late_after_seq + 1):
        late = [item for message in page if _term_of(message) < term and (item := inbound.work(message))]
        wanted = [subjects.result(item.head.submitter, item.head.id) for item in late]
        for message in await jetstream.multi_last(bus, streams.RESULTS, wanted):
            if (head := inbound.result(message)) is not None:
                feed(ResultSeen(head))
        for item in late:
            feed(item)
        if late:
            log.info("found work of earlier terms", extra=fields(tasks=len(late)))
        inbound.late_after_seq = page[-1].seq
        await breathe()


def _term_of(message: jetstream.StoredMessage) -> int:
    try:
        return _sent(message.data).term
    except BadInput:
        return 0  # looked at as any, and counted as bad


async def read_untold(
    bus: Bus, inbound: Inbound, feed: Callable[[Event], None], breathe: Callable[[], Awaitable[None]], now: float
) -> None:
    """Feed the results that were stored while nobody acted, or of which the last coordinator had no time to tell.

    A node that stored a result removes its WORK message, so nothing else shows that it ended. Called once this term acts.
    `now` is by the broker's clock, as the times of the results are.
    """
    last = jetstream.last_seq(await jetstream.stream_info(bus, streams.RESULTS))
    told = await _last_told(bus)
    sure_at = now - SURE_S
    found = 0
    async for page in jetstream.read_pages(bus, streams.RESULTS, subjects.result("*", "*"), told - LOOK_BACK):
        for message in page:
            head = inbound.result(message)
            if head is not None and (message.seq > told > 0 or _time_of(message) > sure_at):
                feed(ResultSeen(head))
                found += 1
        await breathe()
        if page[-1].seq >= last:
            break
    log.info("looked for ends that were not told", extra=fields(after_seq=told, looked_at=found))


async def _last_told(bus: Bus) -> int:
    """The sequence of the last result whose end was told; 0 when nothing is known of any."""
    seq = 0
    for state in ResultState:
        event = await jetstream.get_message(bus, streams.EVENTS, last_by=subjects.event(f"task.{state.value}", "*"))
        if event is None:
            continue
        try:
            end = _ended(event.data).data
            result = await jetstream.get_message(bus, streams.RESULTS, last_by=subjects.result(end.submitter, end.task))
        except FogError as error:  # anyone may say events
            log.info("an event of an end is not looked at", extra=fields(error=error.message))
            continue
        seq = max(seq, result.seq if result else 0)
    return seq


def _time_of(message: jetstream.StoredMessage) -> float:
    return datetime.fromisoformat(message.time).timestamp()
