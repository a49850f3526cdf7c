"""Digests of heartbeats: taken from those who lead, handed on to the core, and acknowledged."""

from __future__ import annotations

from coordinator.areas import Term
from coordinator.core.clusters import relaying
from coordinator.core.clusters.state import Clusters
from coordinator.core.events import Relayed
from schemas import subjects
from schemas.bus import Subscription
from schemas.codec import Decoder, encode
from schemas.errors import BadInput
from schemas.relay import Digest, DigestAck

_digest: Decoder[Digest] = Decoder(Digest)


class Relays:
    """Listens to leaders from `start` to `stop`."""

    def __init__(self, term: Term, state: Clusters) -> None:
        self._term, self._state = term, state
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Listen."""
        self._subscription = await self._term.bus.subscribe(subjects.digest("*"), self._heard)

    async def stop(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            await self._subscription.close()

    def _heard(self, subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        """Without the lease it is left to another coordinator; without an answer the members speak for themselves."""
        term = self._term
        if not term.may():
            return
        try:
            ack = self._take(subject[subject.rfind(".") + 1 :], _digest(data))
        except BadInput as error:
            term.bad.add("digest", subject, str(error))
            ack = DigestAck(term.number, error=error.message)
        if reply.startswith("_INBOX"):
            term.bus.publish(reply, encode(ack))

    def _take(self, leader: str, digest: Digest) -> DigestAck:
        error = relaying.against(self._state, leader, digest)
        if error:
            return DigestAck(self._term.number, error=error)
        stills, beats, not_taken = relaying.sort(self._state, self._term.nodes, digest)
        if stills or beats:
            self._term.hand_on(Relayed(leader, stills, beats))
        return DigestAck(self._term.number, not_taken)
