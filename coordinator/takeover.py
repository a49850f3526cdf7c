"""What a new holder of the lease does before it acts: everything that the streams know is fed into the core.

The order matters. The old term's consumers go first, so that nobody else takes anything; results are listened to before
they are read, so that none is missed between; TASKS and OUTCOMES are pulled only once the rest is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordinator.core.events import Event, NodeKnown, ResultSeen, WorkFound
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

CONSUMER = "FOG_coordinator_"


def consumer_name(what: str, term: int) -> str:
    """The consumer of a term: ``FOG_coordinator_7_outcomes``."""
    return f"{CONSUMER}{term}_{what}"


async def drop_old_consumers(bus: Bus) -> None:
    """Delete the consumers of earlier terms; what they held is delivered anew."""
    for stream in (streams.TASKS, streams.OUTCOMES):
        for name in await jetstream.consumers(bus, stream):
            if name.startswith(CONSUMER):
                await jetstream.delete_consumer(bus, stream, name)


async def read_everything(bus: Bus, store: Store, inbound: Inbound, feed: Callable[[Event], None]) -> None:
    """Feed the nodes, the work in queues and waiting, and the results of that work."""
    inbound.fresh_after_seq = jetstream.last_seq(await jetstream.stream_info(bus, streams.TASKS))
    nodes = await _nodes(bus, store, inbound)
    for node in nodes:
        feed(node)
    work = [
        inbound.work(message) for message in await jetstream.read_all(bus, streams.WORK, subjects.work(">", "")[:-1])
    ]
    found = [item for item in work if item is not None]
    results = await _results(bus, inbound, found)
    for item in found:
        feed(item)
    for result in results:
        feed(result)
    log.info("read the streams", extra=fields(nodes=len(nodes), work=len(found), done=len(results)))


async def _nodes(bus: Bus, store: Store, inbound: Inbound) -> list[NodeKnown]:
    decode = Decoder(NodeRecord)
    known = []
    for key, entry in (await Kv(bus, store, streams.NODES).all()).items():
        try:
            known.append(NodeKnown(decode(entry.value), entry.revision))
        except BadInput as error:
            inbound.bad.add("node", key, str(error))
    return known


async def _results(bus: Bus, inbound: Inbound, found: list[WorkFound]) -> list[ResultSeen]:
    wanted = {subjects.result(item.head.submitter, item.head.id) for item in found}
    heads = [inbound.result(message) for message in await jetstream.multi_last(bus, streams.RESULTS, sorted(wanted))]
    return [ResultSeen(head) for head in heads if head is not None]
