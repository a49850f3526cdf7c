"""What a new holder of the lease reads before it acts: everything that the streams know is fed into the core.

The order matters. The old term's consumers are gone by now, so nobody else takes anything; results are listened to before
they are read, so that none is missed between; TASKS and OUTCOMES are pulled only once the rest is known.

A large fleet takes longer to read than a lease lasts: after every page others of this process run, its renewal among them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from coordinator.core.events import Event, NodeKnown, ResultSeen
from coordinator.inbound import Inbound
from schemas import jetstream, streams, subjects
from schemas.bus import Bus
from schemas.codec import Decoder
from schemas.errors import BadInput
from schemas.kv import Kv
from schemas.logs import fields
from schemas.membership import NodeRecord
from schemas.store import Store

log = logging.getLogger("fog.takeover")

RESULTS_PAGE = 500


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
    wanted = await _work(bus, inbound, feed, breathe)
    done = 0
    for start in range(0, len(wanted), RESULTS_PAGE):
        for message in await jetstream.multi_last(bus, streams.RESULTS, wanted[start : start + RESULTS_PAGE]):
            head = inbound.result(message)
            if head is not None:
                feed(ResultSeen(head))
                done += 1
        await breathe()
    log.info("read the streams", extra=fields(nodes=len(nodes), work=len(wanted), done=done))


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
) -> list[str]:
    """Feed the work page by page; the subjects of the results that it may have."""
    wanted: dict[str, None] = {}
    async for page in jetstream.read_pages(bus, streams.WORK, subjects.work(">", "")[:-1]):
        for message in page:
            item = inbound.work(message)
            if item is not None:
                feed(item)
                wanted[subjects.result(item.head.submitter, item.head.id)] = None
        await breathe()
    return list(wanted)
