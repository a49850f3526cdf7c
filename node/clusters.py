"""The node as a member of its clusters: hears who its peers and leaders are, leads, votes, and answers its peers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from node.cache import Cache
from node.context import Context
from node.core.seats import Seats
from node.core.voting import VotePolicy, Votes
from node.polls import Polls
from node.relay import Relay
from schemas import subjects
from schemas.bus import Subscription
from schemas.cluster import Membership
from schemas.codec import Decoder, encode
from schemas.decision import Poll, Vote, VoteRequest
from schemas.device import DeviceState
from schemas.errors import BadInput
from schemas.logs import fields
from schemas.peer import CacheDone, CacheGet, CacheItem, CachePut, ChunksAsk, ChunksHeld, PingAsk, Pong
from schemas.relay import BeatAck

log = logging.getLogger("fog.node.clusters")

MIB = 1 << 20

_vote: Decoder[VoteRequest] = Decoder(VoteRequest)
_get: Decoder[CacheGet] = Decoder(CacheGet)
_put: Decoder[CachePut] = Decoder(CachePut)
_ping: Decoder[PingAsk] = Decoder(PingAsk)
_chunks: Decoder[ChunksAsk] = Decoder(ChunksAsk)

Reply = Pong | Vote | CacheItem | CacheDone | ChunksHeld


class Clusters:
    """This node's seats, and what goes with them. `state` reads how the device is, at a time in seconds since 1970."""

    def __init__(
        self, context: Context, state: Callable[[float], DeviceState], policy: VotePolicy = VotePolicy.HEALTHY
    ) -> None:
        self._context, self._state = context, state
        self.seats = Seats(context.node)
        self.seated = asyncio.Event()  # the coordinator has said where this node belongs
        self._votes = Votes(policy)
        self.cache = Cache(context, self.seats, context.offer.cache_mb * MIB)
        self._polls = Polls(context, self.seats, self._vote_on)
        self._at: Callable[[str], str] = lambda _: ""
        self._subscription: Subscription | None = None
        self.relay: Relay | None = None  # of heartbeats
        # verb: what is done, and what an answer is made of that says no
        self._verbs: dict[str, tuple[Callable[[str, bytes], Reply], type[Reply]]] = {
            "ping": (self._ping, Pong),
            "vote": (self._asked_to_vote, Vote),
            "cache-get": (lambda cluster, data: self.cache.get(cluster, _get(data)), CacheItem),
            "cache-put": (lambda cluster, data: self.cache.put(cluster, _put(data)), CacheDone),
            "cache-drop": (lambda cluster, data: self.cache.drop(cluster, _get(data)), CacheDone),
        }

    def share(self, held: Callable[[str, ChunksAsk], ChunksHeld], at: Callable[[str], str] = lambda _: "") -> None:
        """`held` answers what there is of an artifact, to a member of that cluster; `at` says where this device listens, to
        one of that site."""
        self._at = at
        self._verbs["chunks"] = (lambda cluster, data: held(cluster, _chunks(data)), ChunksHeld)

    async def start(self) -> None:
        """Listen to peers."""
        subject = subjects.peer("*", self._context.node, "*")
        self._subscription = await self._context.bus.subscribe(subject, self._on_message)

    def stop(self) -> None:
        """Lead and copy no more."""
        self._polls.stop()
        self.cache.stop()

    # The coordinator's word.

    def told(self, said: Membership) -> str:
        """The coordinator says who is in a cluster; returns why that is refused, or ""."""
        before, led = self.seats.now.get(said.cluster), self.seats.leads(said.cluster)
        error = self.seats.told(said)
        now = self.seats.leads(said.cluster)
        if now and now != led:
            log.info("leading", extra=fields(cluster=said.cluster, term=now))
        if self.relay is not None:
            self.relay.told()
        if not error:
            self.seated.set()
            self.cache.peers_changed(said.cluster, before)
        return error

    def lead(self, poll: Poll) -> str:
        """The coordinator gives us a proposal to lead; returns why we do not, or ""."""
        return self._polls.begin(poll)

    # Peers.

    def _on_message(self, subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        cluster, _, verb = subjects.tail(subject, 1)[-3:]
        if verb == "beat":
            self._on_beat(cluster, reply, data)
            return
        row = self._verbs.get(verb)
        if row is None or not reply:
            self._context.note_bad(
                f"peer {verb:.40}", BadInput("verb", f"none of {', '.join(self._verbs)}, or no reply")
            )
            return
        do, kind = row
        try:
            if cluster not in self.seats.now:
                raise BadInput("cluster", f"{self._context.node} is not in cluster {cluster:.63}")
            answer = do(cluster, data)
        except BadInput as error:
            answer = kind(error=error.message[:300])
        self._context.bus.publish(reply, encode(answer))

    def _on_beat(self, cluster: str, reply: str, data: bytes) -> None:
        """A member's heartbeat, which is answered once the coordinator has it; what is refused, at once."""
        try:
            if self.relay is None or cluster not in self.seats.now:
                raise BadInput("cluster", f"{self._context.node} is not in cluster {cluster:.63}")
            self.relay.heard(cluster, reply, data)
        except BadInput as error:
            if reply:
                self._context.bus.publish(reply, encode(BeatAck(error=error.message[:300])))

    def _ping(self, cluster: str, data: bytes) -> Pong:
        seat, pool = self.seats.now[cluster], self.cache.pool
        at = self._at(_ping(data).site) if data else ""
        return Pong(self._context.node, seat.cluster_term, len(pool), pool.size, at=at)

    def _asked_to_vote(self, cluster: str, data: bytes) -> Vote:
        asked = _vote(data)
        if asked.proposal.cluster != cluster:
            raise BadInput("proposal", f"it is one of {asked.proposal.cluster}")
        if error := self.seats.against(cluster, asked.leader, asked.cluster_term):
            raise BadInput("cluster_term", error)
        return self._vote_on(asked.proposal.id)

    def _vote_on(self, proposal: str) -> Vote:
        return self._votes.on(proposal, self._context.closed_to, self._state(time.time()))
