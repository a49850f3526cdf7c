"""The clusters' area: keeps what the machine decides, tells the members, and answers what operators ask.

Records and leaders are written by compare-and-set at the revision that this term saw last: one that finds another
coordinator's write there is deposed, and begins anew from what is kept (or has no term any more).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from msgspec import Struct

from coordinator.areas import Area, Endpoints, Term
from coordinator.cluster_teller import Teller
from coordinator.core.clusters import leading, machine, operating, relaying, views
from coordinator.core.clusters.nearness import COMMON
from coordinator.core.clusters.patterns import Patterns
from coordinator.core.clusters.restoring import restore
from coordinator.core.clusters.state import Action, Belongs, Clusters, Elect, Say, Tell, Write
from coordinator.core.clusters.traits import facts_of, site_of
from coordinator.core.events import Clustered
from coordinator.core.nodeview import NodeView
from coordinator.decider import Decider
from coordinator.refusal import Refusal
from coordinator.relays import Relays
from schemas import api, streams
from schemas import cluster as wire
from schemas.cluster import Traits
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, Conflict, FogError, Unreachable
from schemas.kv import Entry, Kv
from schemas.logs import fields
from schemas.membership import NodeState

log = logging.getLogger("fog.clusters")

LEADER = ".leader"  # the suffix of the key that holds a cluster's leadership
ROUND = 600  # ticks in which every node is looked at once: its record of tasks moves its score without a word
WRITES = 32  # at a time
AGAIN_S = 0.5

_record: Decoder[wire.ClusterRecord] = Decoder(wire.ClusterRecord)
_leadership: Decoder[wire.Leadership] = Decoder(wire.Leadership)
_shares: Decoder[wire.Shares] = Decoder(wire.Shares)


class ClustersArea(Area):
    """See the module."""

    name = "clusters"

    def __init__(self, term: Term) -> None:
        super().__init__(term)
        self.state = Clusters(term.number, int(term.clock() * 1e6), term.relay_from)
        self._kv = Kv(term.bus, term.store, streams.CLUSTERS)
        self._kept = Kv(term.bus, term.store, streams.AVAILABILITY)
        self._patterns = Patterns(term.clock())
        self._teller = Teller(term, self.state)
        self._decider = Decider(term, self.state)
        self._relays = Relays(term, self.state)
        self._revisions: dict[str, int] = {}
        self._unwritten: dict[str, wire.ClusterRecord | None] = {}
        self._writing: set[str] = set()
        self._to_look: list[str] = []
        self._do: dict[type, Callable[[Any], None]] = {
            Write: self._write,
            Elect: lambda a: self.spawn(self._elect(a)),
            Say: lambda a: term.events.emit(a.kind, a.about, a.key, a.data, term.clock()),
            Tell: lambda a: self._teller.tell(a.node),
            Belongs: lambda a: term.hand_on(Clustered(a.node, a.clusters)),
        }

    def endpoints(self) -> Endpoints:
        """What is asked about clusters, and done to them."""
        return {
            "cluster.list": (api.ListRequest, self._list),
            "cluster.info": (wire.ClusterRequest, self._info),
            "cluster.create": (wire.CreateCluster, self._operator(operating.create)),
            "cluster.pin": (wire.PinCluster, self._operator(operating.pin)),
            "cluster.grow": (wire.GrowCluster, self._operator(operating.grow)),
            "cluster.relay": (wire.RelayCluster, self._operator(operating.relay)),
            "cluster.dissolve": (wire.ClusterRequest, self._operator(operating.dissolve)),
            **self._decider.endpoints(),
        }

    # The area's life.

    async def start(self) -> None:
        """Read the clusters, their leaders, and what was learned of availability."""
        now = self.term.clock()
        entries = await self._kv.all()
        self._revisions = {key: entry.revision for key, entry in entries.items()}
        records = _read(entries, _record, self.term, leaders=False)
        leaders = _read(entries, _leadership, self.term, leaders=True)
        restore(self.state, records, leaders, now)
        for key, (shares, _) in _read(await self._kept.all(), _shares, self.term, leaders=False).items():
            log.debug("availability read", extra=fields(key=key, nodes=len(shares.nodes)))
            self._patterns.read(shares)
        for node in set(self.state.home) - set(self.term.nodes):
            machine.gone(self.state, node)
        await self._decider.start()
        await self._relays.start()

    def changed(self, nodes: Collection[str], now: float) -> None:
        """See `Area`."""
        for name in nodes:
            node = self.term.nodes.get(name)
            if node is None:
                self._patterns.forget(name)
                machine.gone(self.state, name)
                continue
            self._patterns.seen(name, node.state in (NodeState.ONLINE, NodeState.LATE), now)
            table = node.device.network_peers
            self.state.near.heard(
                name, site_of(node.device, self._was(name)), table if isinstance(table, dict) else None
            )
            self._see(node, now)
        for name in self.state.near.settle(now):
            if name in self.term.nodes:
                self._see(self.term.nodes[name], now)
        self._carry_out(machine.settle(self.state, now))

    def _see(self, node: NodeView, now: float) -> None:
        """It is as it is now."""
        pattern = self._patterns.word(node.id, node.record.capabilities.utc_offset_min)
        place = self.state.near.place.get(node.id, COMMON)
        machine.seen(self.state, facts_of(node, pattern, place, self._was(node.id)), now)

    def _was(self, node: str) -> Traits | None:
        """What it is seated by, or was when it was last seen."""
        known = self.state.nodes.get(node)
        if known is not None:
            return known.traits
        home = self.state.home.get(node)
        return machine.seat_of(home, node).traits if home is not None else None

    def tick(self, now: float) -> None:
        """Look at some nodes, at who waits to lead, at members that did not answer; and close the hour."""
        if not self._to_look:
            self._to_look = list(self.term.nodes)
        some = [self._to_look.pop() for _ in range(min(len(self._to_look), 1 + len(self.term.nodes) // ROUND))]
        self.changed([node for node in some if node in self.term.nodes], now)
        relaying.look(self.state)
        self._carry_out(machine.look_again(self.state, now) + machine.settle(self.state, now))
        self._teller.tick(now)
        self._decider.tick(now)
        if self._patterns.tick(now):
            self.spawn(self._keep_patterns())

    async def stop(self) -> None:
        """Write and tell nothing more."""
        await super().stop()
        await self._relays.stop()
        for task in (*self._teller.tasks, *self._decider.tasks):
            task.cancel()

    def _carry_out(self, wanted: list[Action]) -> None:
        for action in wanted:
            self._do[type(action)](action)

    # Keeping.

    def _write(self, write: Write) -> None:
        self._unwritten[write.cluster] = write.record
        if write.cluster not in self._writing and len(self._writing) < WRITES:
            self._writing.add(write.cluster)
            self.spawn(self._keep(write.cluster))

    async def _keep(self, cluster: str) -> None:
        """Write the newest of this cluster, and then of others that wait."""
        try:
            while True:
                record = self._unwritten.pop(cluster)
                if record is None:
                    for key in (cluster, cluster + LEADER):
                        await self._put(key, None)
                else:
                    await self._put(cluster, encode(record))
                if cluster in self._unwritten:
                    continue
                self._writing.discard(cluster)
                waiting = next((name for name in self._unwritten if name not in self._writing), None)
                if waiting is None:
                    return
                cluster = waiting
                self._writing.add(cluster)
        finally:
            self._writing.discard(cluster)

    async def _put(self, key: str, value: bytes | None) -> int:
        """Write (None: delete) by compare-and-set, however long it takes. Raises Conflict where another coordinator wrote."""
        while True:
            if not self.term.may():
                raise Conflict("this term is over")
            revision = self._revisions.get(key, 0)
            try:
                if value is not None:
                    revision = await self._kv.update(key, value, revision)
                    self._revisions[key] = revision
                elif revision:
                    await self._kv.delete(key, revision)
                    del self._revisions[key]
                return revision
            except Conflict:
                if not await self._explains(key, value):
                    raise
                if value is not None and (entry := await self._kv.get(key)) is not None:
                    return entry.revision
            except Unreachable:
                await asyncio.sleep(AGAIN_S)

    async def _explains(self, key: str, value: bytes | None) -> bool:
        """Whether what lies there is our own write (its answer was lost), or the mark of a deletion, upon which we write."""
        entry = await self._kv.get(key, even_deleted=True)
        if entry is None or not (entry.deleted or entry.value == value):
            return False
        self._revisions[key] = entry.revision
        if entry.deleted and value is None:
            self._revisions.pop(key, None)
        return True

    async def _elect(self, elect: Elect) -> None:
        key = elect.cluster + LEADER
        if elect.revision:
            self._revisions[key] = elect.revision
        term = await self._put(key, encode(elect.leadership))
        out: list[Action] = []
        leading.elected(self.state, elect.cluster, elect.leadership, term, self.term.clock(), out)
        self._carry_out(out)
        self._decider.look()

    async def _keep_patterns(self) -> None:
        for key, shares in self._patterns.shards().items():
            if not self.term.may():
                return
            try:
                await self._kept.put(key, encode(shares))
            except FogError as error:
                log.warning("what was learned of availability is not kept", extra=fields(error=error.message))
                return

    # Answering.

    async def _list(self, request: api.ListRequest) -> Struct:
        return views.clusters(self.state, self.term.nodes, request)

    async def _info(self, request: wire.ClusterRequest) -> Struct:
        cluster = self.state.clusters.get(request.cluster)
        if cluster is None:
            raise Refusal(
                "unknown-cluster", f"there is no cluster {request.cluster}", "`fog clusters` lists them", "cluster"
            )
        return views.row(self.state, cluster, self.term.nodes)

    def _operator(self, do: Callable[[Clusters, Any, float], str]) -> Callable[[Any], Coroutine[Any, Any, Struct]]:
        async def answer(request: Any) -> Struct:
            now = self.term.clock()
            try:
                note = do(self.state, request, now)
            except BadInput as error:
                raise Refusal("bad-request", error.problem, error.hint, error.field) from None
            self._carry_out(machine.settle(self.state, now))
            return api.Done(note)

        return answer


def _read(entries: dict[str, Entry], decode: Decoder[Any], term: Term, *, leaders: bool) -> dict[str, tuple[Any, int]]:
    """Those that can be read, by cluster; others are counted, and their clusters form anew."""
    found = {}
    for key, entry in entries.items():
        if key.endswith(LEADER) is not leaders:
            continue
        try:
            found[key.removesuffix(LEADER)] = decode(entry.value), entry.revision
        except BadInput as error:
            term.bad.add("cluster", key, str(error))
    return found
