"""Heartbeats by way of the cluster's leader: as a member, and as the leader that says them all in one digest.

A beat counts as passed on when the coordinator's own word for it came back. Until then nothing is taken for granted: what is
refused, not answered in time, or answered by nobody, is said again directly.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TypeVar

from node.context import Context
from node.core.gathering import Gathering
from node.core.relaying import Route, Way, Ways, ack_wait_s, in_s, still_of
from node.core.seats import Seats
from schemas import subjects
from schemas.codec import Decoder, encode
from schemas.errors import BadInput
from schemas.membership import Heartbeat
from schemas.relay import BeatAck, DigestAck, MemberBeat
from schemas.ticks import ticks

T = TypeVar("T")
NOBODY = "no coordinator takes digests now"

_beat: Decoder[MemberBeat] = Decoder(MemberBeat)
_beat_ack: Decoder[BeatAck] = Decoder(BeatAck)
_digest_ack: Decoder[DigestAck] = Decoder(DigestAck)


class Relay:
    """`beat` says a full heartbeat directly, now; `plan` has the next one come by itself in so many seconds."""

    def __init__(self, context: Context, seats: Seats, beat: Callable[[], None], plan: Callable[[float], None]) -> None:
        self._context, self._seats, self._say, self._plan = context, seats, beat, plan
        self._ways = Ways(context.node)
        self._gathering = Gathering()
        self._before: Heartbeat | None = None
        self._interval_s = 0.0
        self._due_at = 0.0  # until when the next beat was announced, by `ticks`
        self._replies: dict[str, str] = {}  # member → where its acknowledgement goes
        self._open: dict[str, asyncio.TimerHandle] = {}

    def told(self) -> None:
        """The coordinator said who leads which cluster. Who waits for a digest that will not be is told at once."""
        before = self._ways.route
        self._ways.told(self._seats.now)
        if self._ways.route != before:
            self.flush()

    @property
    def wanted(self) -> bool:
        """Whether a leader is there to pass beats on: then what hardly changed is not said."""
        return self._ways.route is not None

    # As a member.

    def takes(self, beat: Heartbeat, by_itself: bool, interval_s: float) -> bool:
        """Send this beat by way of the leader, or keep it for the own digest; False: it is to go directly."""
        self._interval_s, self._due_at = interval_s, ticks() + beat.next_due_s
        before, self._before = self._before, beat
        way, route = self._ways.way(beat, by_itself, interval_s, ticks()), self._ways.route
        if way is Way.DIRECT or route is None:
            return False
        short = still_of(beat, before)
        if way is Way.OWN_DIGEST:
            self._gathering.add(short or beat, ticks())
            self._replies[beat.node] = ""
        else:
            said = MemberBeat(route.term, short, None if short else beat)
            self._ask(subjects.peer(route.cluster, route.leader, "beat"), encode(said), lambda d: self._acked(route, d))
        return True

    def _acked(self, route: Route, data: bytes) -> None:
        """Without `data` nobody answered."""
        ack = self._read(_beat_ack, data) or BeatAck(error=NOBODY)
        if ack.error:
            self._failed(route)
            return
        self._ways.passed_on(route)
        wait_s = in_s(ack.next_s, self._interval_s, self._due_at - ticks(), random.random())
        if wait_s is not None:
            self._plan(max(0.0, wait_s))

    def _failed(self, route: Route) -> None:
        self._ways.failed(route, self._interval_s, ticks())
        self._say()

    # As the leader.

    def heard(self, cluster: str, reply: str, data: bytes) -> None:
        """A member's beat. Raises BadInput when it is not for us to pass on."""
        said, seat = _beat(data), self._seats.now[cluster]
        beat = said.still or said.beat
        if beat is None or beat.node not in {peer.node for peer in seat.peers}:
            raise BadInput("beat", f"it is of no member of {cluster}")
        route = self._ways.route
        if route is None or (cluster, self._context.node, said.cluster_term) != tuple(route):
            raise BadInput("cluster_term", f"this node does not pass on beats in {cluster} under {said.cluster_term}")
        self._gathering.add(beat, ticks())
        self._replies[beat.node] = reply
        if self._gathering.must_go(self._interval_s, ticks()):
            self.flush()

    def next_in(self, wait_s: float) -> None:
        """When this node beats next, and with it says what it has gathered."""
        self._gathering.next_at = ticks() + wait_s

    def flush(self) -> None:
        """Say what was gathered."""
        if not self._replies:
            return
        route = self._ways.route
        replies, self._replies = self._replies, {}
        if route is None or route.leader != self._context.node:
            self._gathering.clear()
            self._tell(replies, error="this node leads no more")
            return
        digest = self._gathering.digest(route.cluster, route.term, ticks())
        if digest is not None:
            subject = subjects.digest(self._context.node)
            self._ask(subject, encode(digest), lambda data: self._digested(route, replies, data))

    def _digested(self, route: Route, replies: dict[str, str], data: bytes) -> None:
        ack = self._read(_digest_ack, data)
        error = NOBODY if ack is None or ack.term < self._context.term else ack.error
        not_taken = frozenset(ack.not_taken) if ack is not None else frozenset[str]()
        self._tell({node: reply for node, reply in replies.items() if error or node in not_taken}, error or "not taken")
        self._tell({node: reply for node, reply in replies.items() if not error and node not in not_taken})
        if self._context.node in replies:
            if error or self._context.node in not_taken:
                self._failed(route)
            else:
                self._ways.passed_on(route)

    def _tell(self, replies: dict[str, str], error: str = "") -> None:
        if not replies:
            return
        ack = encode(BeatAck(0.0 if error else self._gathering.next_s(ticks()), error[:300]))
        for reply in filter(None, replies.values()):
            self._context.bus.publish(reply, ack)

    # Asking.

    def _ask(self, subject: str, data: bytes, on_end: Callable[[bytes], None]) -> None:
        """Ask, and call `on_end` once: with the answer, or with nothing when none comes in time."""

        def on_reply(answer: bytes, _headers: bytes) -> None:
            self._open.pop(token).cancel()
            on_end(answer)

        def too_late() -> None:
            del self._open[token]
            self._context.bus.hang_up(token)
            on_end(b"")

        token = self._context.bus.call(subject, data, on_reply)
        self._open[token] = asyncio.get_running_loop().call_later(ack_wait_s(self._interval_s), too_late)

    def _read(self, decode: Decoder[T], data: bytes) -> T | None:
        if not data:
            return None
        try:
            return decode(data)
        except BadInput as error:
            self._context.note_bad("a heartbeat's acknowledgement", error)
            return None

    def stop(self) -> None:
        """Wait for nothing more."""
        for token, timer in self._open.items():
            timer.cancel()
            self._context.bus.hang_up(token)
        self._open.clear()
