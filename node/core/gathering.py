"""What a leader holds for its next digest. Pure: the time comes in.

A digest goes out when the leader itself beats. Members learn from each acknowledgement when that is next, and beat just
before; what comes at another time (a member that is new here) is not kept waiting, but goes out at once.
"""

from __future__ import annotations

from msgspec.structs import replace

from node.core.relaying import HOLD
from schemas.membership import Heartbeat
from schemas.relay import Aged, Digest, Still


class Gathering:
    """The newest beat of each member since the last digest. `next_at`: when the leader beats next."""

    def __init__(self) -> None:
        self.next_at = float("inf")
        self.clear()

    def add(self, beat: Still | Heartbeat, now: float) -> None:
        """A beat was heard. A short one follows the whole one before it, and both are kept."""
        if isinstance(beat, Still):
            self._stills[beat.node] = beat, now
        else:
            self._beats[beat.node] = beat, now
            self._stills.pop(beat.node, None)

    def must_go(self, interval_s: float, now: float) -> bool:
        """Whether what was heard cannot wait for the next digest."""
        return self.next_at - now > HOLD * interval_s

    def next_s(self, now: float) -> float:
        """Seconds until the next digest; 0 when nothing is planned."""
        return max(0.0, self.next_at - now) if self.next_at < float("inf") else 0.0

    def digest(self, cluster: str, term: int, now: float) -> Digest | None:
        """All that was gathered, to be sent now; None when there is nothing."""
        if not self._stills and not self._beats:
            return None
        stills = tuple(replace(still, age_s=round(now - at, 3)) for still, at in self._stills.values())
        beats = tuple(Aged(round(now - at, 3), beat) for beat, at in self._beats.values())
        self.clear()
        return Digest(cluster, term, stills, beats)

    def clear(self) -> None:
        """Forget what was gathered."""
        self._stills: dict[str, tuple[Still, float]] = {}
        self._beats: dict[str, tuple[Heartbeat, float]] = {}
