"""Who is near whom at one site, by the round trips that devices measured to each other: the *place* of each device.

Devices behind one gateway may be far apart all the same: two access points, a slow bridge, a radio at its edge. A pair is
*near* with a round trip of at most `NEAR_MS`, *far* from `FAR_MS` on, and neither between. What either side measured counts,
the smaller of both: a way that is quick for one of them exists. From that follows a device's place, a name by which devices
of a site are in order before anything else:

1. Fewer than `MEASURED_MIN` round trips of its own: it stays where it is ("" at first, the common place).
2. Near to nobody: `ALONE`, if most of those that it measured are near to somebody; else it stays. (Where nobody is near to
   anybody, as over a broker far away, nothing tells them apart.)
3. Else the oldest place in which it is near to somebody, and of whose devices (those near to somebody) it is far from no
   more than half. What those near to it measured counts as its own.
4. If there is none, a new one: others that are near to it follow by 3, and those that are more stay where they are.

Going back is the same rule: who is near to a device of an older place again returns there.

Nobody moves by noise: what is told is rounded and sticks (node/core/nearness.py), the gap between near and far decides
nothing, and a place is kept for `KEPT_S` before the next. A device is judged when it says something new, and
with it those that it measured; when one takes a place, those around it are judged again, `JUDGED` in one turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import heappop, heappush, nsmallest
from sys import intern

NEAR_MS, FAR_MS = 20, 50
MEASURED_MIN = 2
KEPT_S = 1800.0
COMMON, ALONE = "", "alone"
JUDGED = 64  # devices in one turn; more wait for the next

Table = Mapping[str, int]


class Nearness:
    """What devices measured, and their places. The same calls in the same order give the same places."""

    def __init__(self) -> None:
        self.place: dict[str, str] = {}  # COMMON where it is not in here
        self._tables: dict[str, Table] = {}
        self._sites: dict[str, str] = {}
        self._there: dict[str, Counter[str]] = {}  # site → place → devices
        self._since: dict[str, float] = {}  # when it took its place
        self._number = 0  # of the newest place
        self._look: dict[str, None] = {}  # those whose place is to be judged, in order
        self._later: list[tuple[float, str]] = []  # those whose place was kept, by when it need not be any more
        self._waits: set[str] = set()  # the same

    def restore(self, node: str, site: str, place: str, now: float) -> None:
        """A seat that is kept: the place that it had."""
        self._arrive(node, site)
        if place:
            self._take(node, place, now)

    def heard(self, node: str, site: str, table: Table | None) -> None:
        """The device says what it measured: round trips in ms. None: nothing yet."""
        if self._sites.get(node) != site:
            self._arrive(node, site)
            self._look[node] = None
        if table is None:
            self._tables.pop(node, None)
        elif self._tables.get(node) != table:
            self._tables[node] = {intern(peer): ms for peer, ms in table.items()}
            self._look[node] = None
            self._look.update(dict.fromkeys(self._around(node)))

    def forget(self, node: str) -> None:
        """The fleet knows it no more."""
        self._leave(node)
        for known in (self._tables, self._look):
            known.pop(node, None)

    def oldest(self, site: str, count: int) -> list[str]:
        """The oldest places of a site in which there is somebody."""
        places = (place for place in self._there.get(site, ()) if place != ALONE)
        return nsmallest(count, places, key=_age)

    def between(self, one: str, other: str) -> int | None:
        """The round trip of a pair in ms, as far as it was measured."""
        known = [ms for a, b in ((one, other), (other, one)) if (ms := self._tables.get(a, {}).get(b)) is not None]
        return min(known, default=None)

    def settle(self, now: float) -> list[str]:
        """Judge who is to be; returns those whose place is another one now."""
        while self._later and self._later[0][0] <= now:
            node = heappop(self._later)[1]
            self._waits.discard(node)
            self._look[node] = None
        moved = []
        for _ in range(min(len(self._look), JUDGED)):
            node = next(iter(self._look))
            del self._look[node]
            if self._judge(node, now):
                moved.append(node)
                self._look.update(dict.fromkeys(self._around(node)))
        return moved

    def _judge(self, node: str, now: float) -> bool:
        was, place = self.place.get(node, COMMON), self._wanted(node)
        if place == was:
            return False
        since = self._since.get(node)
        if since is not None and now < since + KEPT_S:
            if node not in self._waits:
                self._waits.add(node)
                heappush(self._later, (since + KEPT_S, node))
            return False
        self._take(node, place, now)
        return True

    def _arrive(self, node: str, site: str) -> None:
        """It is at that site from now on, in the common place."""
        self._leave(node)
        self._sites[node] = site
        self._there.setdefault(site, Counter())[COMMON] += 1

    def _leave(self, node: str) -> None:
        """It is nowhere."""
        site, place = self._sites.pop(node, None), self.place.pop(node, COMMON)
        self._since.pop(node, None)
        if site is not None:
            self._count_out(site, place)

    def _count_out(self, site: str, place: str) -> None:
        there = self._there[site]
        there[place] -= 1
        if not there[place]:
            del there[place]
        if not there:
            del self._there[site]

    def _take(self, node: str, place: str, now: float) -> None:
        """It takes that place."""
        site = self._sites[node]
        self._there[site][place] += 1
        self._count_out(site, self.place.get(node, COMMON))
        self.place[node], self._since[node] = place, now
        self._number = max(self._number, _age(place))

    def _wanted(self, node: str) -> str:
        """The place that it should have: see the module."""
        was, around = self.place.get(node, COMMON), self._around(node)
        if len(around) < MEASURED_MIN:
            return was
        near = [peer for peer, ms in around.items() if ms <= NEAR_MS]
        if not near:
            others = sum(self._is_near_somebody(peer) for peer in around)
            return ALONE if 2 * others > len(around) else was
        places = {self.place.get(peer, COMMON) for peer in near} - {ALONE}
        known = self._known(near, around)
        fitting = [place for place in places if not self._torn(place, known)]
        return min(fitting, key=_age) if fitting else f"p{self._number + 1}"

    def _around(self, node: str) -> dict[str, int]:
        """The devices of its site that it measured."""
        site = self._sites.get(node)
        table = self._tables.get(node, {})
        return {p: self.between(node, p) or ms for p, ms in table.items() if self._sites.get(p) == site and p != node}

    def _is_near_somebody(self, node: str) -> bool:
        return any(ms <= NEAR_MS for ms in self._around(node).values())

    def _known(self, near: list[str], around: dict[str, int]) -> dict[str, int]:
        """The round trips that it measured, and those that the devices near to it did, which are as good for it."""
        known = dict(around)
        for mate in near:
            for peer, ms in self._around(mate).items():
                known[peer] = min(ms, known.get(peer, ms))
        return known

    def _torn(self, place: str, known: dict[str, int]) -> bool:
        """Whether it is far from more than half of those of this place. One that is near to nobody is no sign of two places."""
        here = [peer for peer in known if self.place.get(peer, COMMON) == place]
        there = [known[peer] for peer in here if known[peer] <= NEAR_MS or self._is_near_somebody(peer)]
        return 2 * sum(ms >= FAR_MS for ms in there) > len(there)


def _age(place: str) -> int:
    """0 for the common place; the older, the smaller."""
    return int(place[1:]) if place[:1] == "p" and place[1:].isdigit() else 0
