"""Which way a node's heartbeat goes: to the coordinator itself, or by way of its cluster's leader. Pure: the time comes in.

A beat that is not acknowledged within `ack_wait_s` is said again directly, in full, which is long before the coordinator
misses it: it allows for 1.15 × the announced gap + 0.5 s (`coordinator/core/tune.py`). A leader that failed is tried again
after ever longer; another one, or another term of it, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import NamedTuple

from schemas.cluster import Membership
from schemas.harvest import HarvestState
from schemas.membership import Heartbeat
from schemas.relay import Still

HOLD = 0.12  # of an interval: a leader keeps a beat for its next digest for this long at most
LEAD = (0.02, 0.08)  # of an interval: a member beats so much before its leader's next digest
SHUN_MAX = 32  # intervals for which a leader that keeps failing is passed by
UNSAID = ("full", "asleep", "leaving", "held", "offer", "limits", "enforced")  # by a beat that is said in short
SAME = tuple({*Heartbeat.__struct_fields__} - {*Still.__struct_fields__, *UNSAID})  # and what it leaves as it was


class Way(Enum):
    """Where a beat goes."""

    DIRECT = "direct"
    LEADER = "leader"
    OWN_DIGEST = "own digest"  # this node leads


class Route(NamedTuple):
    """The cluster in which beats are relayed, and who does it under which term."""

    cluster: str
    leader: str
    term: int


class Moment(NamedTuple):
    """What decides about one beat. `by_itself`: it is due, and was not brought about by a change."""

    beat: Heartbeat
    by_itself: bool
    interval_s: float
    route: Route | None
    shunned: bool


# When a beat goes directly whatever else holds, and why.
DIRECT_WHEN: tuple[tuple[str, Callable[[Moment], bool]], ...] = (
    ("nobody relays it", lambda m: m.route is None),
    ("it tells of a change, or all there is", lambda m: not m.by_itself or m.beat.full),
    ("it announces a sleep or the end", lambda m: m.beat.asleep or m.beat.leaving),
    ("its time is paid for, by what the coordinator itself saw", lambda m: m.beat.harvest_state == HarvestState.HARVESTING),
    ("it beats more rarely than its leader", lambda m: m.beat.next_due_s > 1.5 * m.interval_s),
    ("its leader did not pass the last one on", lambda m: m.shunned),
)  # fmt: skip


def why_direct(moment: Moment) -> str:
    """Why this beat goes directly; "" when it is relayed."""
    return next((why for why, holds in DIRECT_WHEN if holds(moment)), "")


class Ways:
    """This node's route, and what became of the beats that took it."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.route: Route | None = None
        self._failed = 0  # in a row, on this route
        self._shunned_until = 0.0

    def told(self, seats: Mapping[str, Membership]) -> None:
        """The coordinator said who leads which cluster."""
        routes = (Route(c, s.leader, s.cluster_term) for c, s in sorted(seats.items()) if s.relay and s.leader)
        route = next(routes, None)
        if route != self.route:
            self.route, self._failed, self._shunned_until = route, 0, 0.0

    def way(self, beat: Heartbeat, by_itself: bool, interval_s: float, now: float) -> Way:
        """Where this beat goes."""
        if self.route is None:  # so most often that the rest of the table is not even read
            return Way.DIRECT
        if why_direct(Moment(beat, by_itself, interval_s, self.route, now < self._shunned_until)):
            return Way.DIRECT
        return Way.OWN_DIGEST if self.route.leader == self._node else Way.LEADER

    def passed_on(self, route: Route) -> None:
        """The coordinator has a beat that went this way."""
        if route == self.route:
            self._failed = 0

    def failed(self, route: Route, interval_s: float, now: float) -> None:
        """A beat that went this way was refused, or not acknowledged in time."""
        if route == self.route:
            self._failed += 1
            self._shunned_until = now + interval_s * min(SHUN_MAX, 2**self._failed)


def ack_wait_s(interval_s: float) -> float:
    """How long to wait for the word that the coordinator has the beat."""
    return (HOLD + 0.03) * interval_s + 0.5


def in_s(next_s: float, interval_s: float, left_s: float, chance: float) -> float | None:
    """Seconds until the next beat, so that it comes just before a digest that goes out in `next_s`, and not later than
    announced (`left_s` from now); None: leave it at what was planned. `chance` is in 0..1."""
    wait_s = next_s - interval_s * (LEAD[0] + (LEAD[1] - LEAD[0]) * chance)
    return min(wait_s, left_s) if wait_s > 0 else None


def still_of(beat: Heartbeat, before: Heartbeat | None) -> Still | None:
    """The beat in short, if it says no more than that all is as in the one `before` it, but for the readings."""
    if before is None or beat.boot != before.boot or beat.seq != before.seq + 1 or before.asleep or before.leaving:
        return None
    if any(getattr(beat, name) for name in UNSAID):
        return None
    if any(getattr(beat, name) != getattr(before, name) for name in SAME):
        return None
    return Still(beat.node, beat.boot, beat.seq, beat.sent_at, beat.next_due_s, beat.seen_seq, beat.state)
