"""Gets an artifact's chunks, from the store and from members of this node's clusters, as `core.swarm` decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from node.apps.links import Links
from node.context import Context
from node.core.seats import Seats
from node.core.swarm import Ask, Drop, FromStore, Get, Swarm
from schemas import subjects
from schemas.artifact import Chunk
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, FogError
from schemas.event import PeerEvent
from schemas.logs import fields
from schemas.peer import ChunksAsk, ChunksHeld, held_by
from schemas.peer_link import read_address
from schemas.rendezvous import owners
from schemas.ticks import ticks

log = logging.getLogger("fog.node.peers")

SMALL = 1 << 20  # bytes that are missing: less is not worth a round of questions, and comes from the store
PEERS = 16  # that are asked: of a large cluster the leader, and those that everybody else asks for this artifact
SEATED_S = 5.0
ANSWER_S = 1.0
GET_S = 30.0  # for one chunk, waiting at the peer included
TICK_S = 0.25

_held: Decoder[ChunksHeld] = Decoder(ChunksHeld)


class Wanted(NamedTuple):
    """`order`: the artifact's different chunks in the manifest's order; `missing` are those of them that are not here.

    `store` gets some from the store and keeps them; `keep` keeps one that a peer sent, and raises BadInput when its bytes
    are not what its name says (it blocks). `batch` tells how many may be asked of the store in one go.
    """

    artifact: str
    order: list[str]
    missing: list[Chunk]
    batch: Callable[[], int]
    store: Callable[[list[Chunk]], Awaitable[None]]
    keep: Callable[[Chunk, bytes], None]
    came: Callable[[Chunk], None]


class Peers:
    """`seated` is set once this node was told its clusters. `may_serve`: whether others can get chunks from here now. `paced`
    holds transfers to this node's bandwidth. `site` is the mark of this node's gateway."""

    def __init__(
        self,
        context: Context,
        seats: Seats,
        seated: asyncio.Event,
        paced: Callable[[int], Awaitable[None]],
        may_serve: Callable[[], bool],
        site: Callable[[], str] = lambda: "",
    ) -> None:
        self.context, self.paced, self.may_serve, self.site = context, paced, may_serve, site
        self._seats, self._seated = seats, seated
        self.out: dict[str, float] = {}  # peers that are left out, until when on the monotonic clock

    def near(self, artifact: str) -> dict[str, str]:
        """Whom to ask for an artifact, and the cluster that each is in with this node."""
        found: dict[str, str] = {}
        leaders = set()
        for cluster, seat in self._seats.now.items():
            leaders.add(seat.leader)
            found |= {peer.node: cluster for peer in seat.peers if peer.node not in found}
        found.pop(self.context.node, None)
        if len(found) > PEERS:
            first = [node for node in found if node in leaders]
            chosen = [*first, *(node for node in owners(artifact, found, PEERS) if node not in first)][:PEERS]
            found = {node: found[node] for node in chosen}
        return found

    async def known(self) -> None:
        """Wait until this node was told its clusters: one that comes back has apps to get before it hears who is near."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEATED_S):
                await self._seated.wait()

    async def get(self, wanted: Wanted) -> None:
        """Get what is missing. Raises FogError or OSError of the store or the disk; what came is kept."""
        await _Download(self, wanted).run()

    def drop(self, cluster: str, peer: str, artifact: str, digest: str) -> None:
        """Tell of a peer that serves rubbish."""
        context, reason = self.context, "it served other bytes than those of the chunk"
        log.warning("a peer is dropped", extra=fields(peer=peer, cluster=cluster, digest=digest, reason=reason))
        key = f"{context.node}.{context.boot}.peer-dropped.{peer}.{digest[7:23]}"
        event = PeerEvent(cluster, context.node, peer, artifact, digest, reason)
        context.events.emit("cluster.peer-dropped", cluster, key, event, time.time())


class _Download:
    """One artifact on its way."""

    def __init__(self, peers: Peers, wanted: Wanted) -> None:
        self._peers, self._wanted = peers, wanted
        self._chunks = {chunk.digest: chunk for chunk in wanted.missing}
        self._small = sum(chunk.size for chunk in wanted.missing) < SMALL
        self._swarm = Swarm(peers.context.node, list(self._chunks), ticks(), serves=peers.may_serve(), out=peers.out)
        self._links = Links(peers.context.node)
        self._at: dict[str, tuple[str, ChunksHeld]] = {}  # of all that were heard: the cluster, and what was said last
        self._do: dict[type, Callable[[Any], Awaitable[None]]] = {
            Ask: self._ask,
            Get: self._get,
            FromStore: self._from_store,
        }

    async def run(self) -> None:
        """Until all of it is here."""
        tasks: set[asyncio.Task[None]] = set()
        try:
            while not self._swarm.done:
                self._swarm.serves = self._peers.may_serve()
                for action in self._swarm.next(ticks(), self._wanted.batch()):
                    tasks.add(asyncio.ensure_future(self._do[type(action)](action)))
                if not tasks:
                    await asyncio.sleep(TICK_S)
                    continue
                ended, tasks = await asyncio.wait(tasks, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._links.close()

    async def _ask(self, _: Ask) -> None:
        near: dict[str, str] = {}
        if not self._small:
            await self._peers.known()
            near = self._peers.near(self._wanted.artifact)
        for gone in self._at.keys() - near.keys():
            self._swarm.silent(gone)
        await asyncio.gather(*(self._ask_one(node, cluster) for node, cluster in near.items()))
        self._swarm.asked(ticks())

    async def _ask_one(self, node: str, cluster: str) -> None:
        context, wanted = self._peers.context, self._wanted
        ask = encode(ChunksAsk(context.node, wanted.artifact, self._peers.site()))
        try:
            held = _held(await context.bus.request(subjects.peer(cluster, node, "chunks"), ask, ANSWER_S))
            read_address(held.at)
        except FogError:
            self._swarm.silent(node)
            return
        self._at[node] = cluster, held
        self._swarm.heard(node, held.takes, held_by(held.have, wanted.order), ticks())

    async def _from_store(self, action: FromStore) -> None:
        some = [self._chunks[digest] for digest in action.digests]
        await self._wanted.store(some)
        self._swarm.stored(action.digests)

    async def _get(self, action: Get) -> None:
        chunk, node = self._chunks[action.digest], action.node
        try:
            data = await self._served(chunk, node)
            if data is None:
                return
            await asyncio.to_thread(self._wanted.keep, chunk, data)  # the disk's errors are not the peer's
        except BadInput:
            self._links.drop(node)
            self._drop(action)
            return
        await self._peers.paced(chunk.size)
        self._wanted.came(chunk)
        self._swarm.came(action.digest, node, ticks())

    async def _served(self, chunk: Chunk, node: str) -> bytes | None:
        """What a peer serves under the name of a chunk; None when it serves nothing, which the swarm was told."""
        cluster, held = self._at[node]
        try:
            async with asyncio.timeout(GET_S):
                data = await self._links.get(cluster, node, held, chunk)
        except (OSError, EOFError) as error:
            told = fields(peer=node, error=str(error) or type(error).__name__)
            log.info("a peer cannot be reached", extra=told)
            self._swarm.broken(chunk.digest, node, ticks())
            return None
        if data is None:
            self._swarm.lacks(chunk.digest, node, ticks())
        return data

    def _drop(self, action: Get) -> None:
        for told in self._swarm.rubbish(action.digest, action.node, ticks()):
            assert isinstance(told, Drop)
            self._peers.drop(self._at[told.node][0], told.node, self._wanted.artifact, told.digest)
