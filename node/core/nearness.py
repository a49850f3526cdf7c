"""To whom this device measures the round trip, how often, and what it tells of it. Pure.

Few and rarely: a measurement is `PINGS` pings, of which the quickest counts (what a busy device or a sleeping radio adds, it
adds to some). At most `PINGS_AN_HOUR` in any hour, with the heartbeat, when the radio is awake anyway; none at all while
`why_not` says why. Each device is measured anew after `AGAIN_S`.

What is told is the nearest of `SCALE_MS`, once everybody was tried. It stays as it was told until two measurements in a
row differ from it by more than `STICKS` times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import log

from schemas.advice import PowerMode
from schemas.cluster import Membership, Near
from schemas.device import PEERS_MAX, DeviceState, NetworkType

PINGS = 3
PINGS_AN_HOUR = 60
AGAIN_S = 2 * 3600.0
SILENT_S = 600.0  # after which one that did not answer is tried again
SCALE_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
STICKS = 1.6


def why_not(mode: PowerMode, state: DeviceState, refuses: str) -> str:
    """Why it measures nothing now, "" when it may. `refuses`: why it takes no work, as it is asleep, drained or in use."""
    if refuses:
        return refuses
    if mode in (PowerMode.POWER_SAVE, PowerMode.CRITICAL):
        return f"its power mode is {mode}"
    if state.network_metered is True or state.network_type is NetworkType.CELLULAR:
        return "its network is metered"
    return ""


def named(told: Iterable[Membership]) -> dict[str, Near]:
    """Whom it is to measure, by the clusters that it is in: of those told last, no more than a heartbeat may tell of. It may be
    in one too many, whose coordinator died before it could say that this device has left it."""
    last = [near for cluster in told for near in cluster.near][-PEERS_MAX:]
    return {near.node: near for near in last}


def rounded(ms: float, told: int | None = None) -> int:
    """What is told of a round trip, where `told` was before."""
    if told is not None and told / STICKS <= ms <= told * STICKS:
        return told
    return min(SCALE_MS, key=lambda step: abs(log(step) - log(max(ms, 0.001))))


class Measuring:
    """`table` is what is told: round trips in ms; None before everybody was tried once."""

    def __init__(self) -> None:
        self.table: dict[str, int] | None = None
        self._found: dict[str, int] = {}
        self._due: dict[str, float] = {}  # of all that were tried
        self._unsure: set[str] = set()  # those whose last measurement was another one
        self._pings: deque[float] = deque(maxlen=PINGS_AN_HOUR)

    def next(self, peers: Sequence[str], now: float) -> str:
        """Whom to measure now; "" for nobody. The pings of it are counted by that."""
        allowed = len(self._pings) + PINGS <= PINGS_AN_HOUR or self._pings[PINGS - 1] <= now - 3600.0
        due = [peer for peer in peers if self._due.get(peer, now) <= now]
        if not due or not allowed:
            return ""
        self._pings.extend([now] * PINGS)
        return min(due, key=lambda peer: self._due.get(peer, 0.0))

    def measured(self, peer: str, ms: float | None, peers: Sequence[str], now: float) -> None:
        """The quickest ping took so long; None: it did not answer. `peers` are those to be measured by now."""
        before = self._found.get(peer)
        value = None if ms is None else rounded(ms, before)
        self._due[peer] = now + (SILENT_S if value is None else AGAIN_S)
        if before is not None and value != before and peer not in self._unsure:
            self._unsure.add(peer)
            self._due[peer] = now
        else:
            self._unsure.discard(peer)
            self._found.pop(peer, None)
            if value is not None:
                self._found[peer] = value
        for known in (self._found, self._due):
            for gone in known.keys() - set(peers):
                del known[gone]
        table = {name: self._found[name] for name in sorted(self._found)}
        if table != self.table and all(name in self._due for name in peers):
            self.table = table
