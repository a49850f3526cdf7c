"""Tells members who their peers and leaders are, until they say that they have heard it."""

from __future__ import annotations

import asyncio
import logging

from coordinator.areas import Term
from coordinator.core.clusters.sampling import sample
from coordinator.core.clusters.state import Cluster, Clusters
from schemas import subjects
from schemas.cluster import Membership, Peer
from schemas.codec import Decoder, encode
from schemas.errors import FogError
from schemas.membership import NodeAnswer

log = logging.getLogger("fog.clusters")

AT_ONCE = 64  # nodes that are told at a time
ANSWER_S = 2.0
AGAIN_S = 2.0  # after nobody answered

_answer: Decoder[NodeAnswer] = Decoder(NodeAnswer)


class Teller:
    """Keeps every member up to date. `tasks` is what is under way."""

    def __init__(self, term: Term, state: Clusters) -> None:
        self._term, self._state = term, state
        self._heard: dict[str, dict[str, tuple[int, int]]] = {}  # node → cluster → (boot, version) that it has heard
        self._wanted: dict[str, None] = {}
        self._later: dict[str, float] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def tell(self, node: str) -> None:
        """The node's clusters have changed, or it is new (again)."""
        if node not in self._wanted:
            self._wanted[node] = None
            self._start()

    def tick(self, now: float) -> None:
        """Those that did not answer are told again."""
        for node in [node for node, at in self._later.items() if now >= at]:
            del self._later[node]
            self.tell(node)

    def _start(self) -> None:
        while self._wanted and len(self.tasks) < AT_ONCE:
            node = next(iter(self._wanted))
            del self._wanted[node]
            task = asyncio.get_running_loop().create_task(self._tell(node))
            self.tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("a member could not be told of its clusters", exc_info=error)
        self._start()

    async def _tell(self, node: str) -> None:
        facts = self._state.nodes.get(node)
        if facts is None or facts.gone:
            self._heard.pop(node, None)
            return
        heard = self._heard.setdefault(node, {})
        for said in self._to_say(node, heard):
            version = (facts.boot, said.version)
            if heard.get(said.cluster) == version:
                continue
            if not await self._ask(node, said):
                self._later[node] = self._term.clock() + AGAIN_S
                return
            if said.peers:
                heard[said.cluster] = version
            else:
                heard.pop(said.cluster, None)

    def _to_say(self, node: str, heard: dict[str, tuple[int, int]]) -> list[Membership]:
        now_in = [self._state.clusters[c] for c in self._state.of.get(node, frozenset()) if c in self._state.clusters]
        left = [Membership(self._term.number, name) for name in heard if name not in {c.id for c in now_in}]
        return [*left, *(self._membership(cluster, node) for cluster in now_in)]

    def _membership(self, cluster: Cluster, node: str) -> Membership:
        peers = cluster.told or (Peer(node),)
        return Membership(
            self._term.number, cluster.id, cluster.term, cluster.version, cluster.leader, peers, cluster.relays,
            sample(self._state, cluster, node),
        )  # fmt: skip

    async def _ask(self, node: str, said: Membership) -> bool:
        if not self._term.may():
            return False
        try:
            subject = subjects.command(node, "cluster")
            return _answer(await self._term.bus.request(subject, encode(said), ANSWER_S)).ok
        except FogError:
            return False
