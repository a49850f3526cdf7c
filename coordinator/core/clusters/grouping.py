"""The rule by which nodes form clusters: the leaves of a B+-tree over what nodes are like.

The nodes of one site (those behind one gateway; all whose gateway is unknown count as one) stand in the order of their
seats: place (who is near whom by what they measured: nearness.py), then device type, performance tier, link quality and
availability pattern, then id. A cluster is a run of neighbours in that order, so its members are as alike as the site allows.

- A node that joins goes to the cluster whose run it falls into. One of more than `SIZE_MAX` is split where its neighbours
  differ most, the smaller part being a new cluster: at most `MOVED_MAX` members move.
- A node that leaves is taken out. One of fewer than `SIZE_MIN` joins the neighbour that is more alike, or takes one member
  from it if that is large: at most two members move.

So at every moment a cluster has `SIZE_MIN` to `SIZE_MAX` members, or is the only one of its site. The cost of a change is
that of two binary searches. The same joins and leaves in the same order give the same clusters.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from operator import attrgetter

from schemas.cluster import Seat

SIZE_TARGET = 5
SIZE_MIN, SIZE_MAX = 3, 8
MERGED_MAX = SIZE_TARGET + 1  # two neighbours are made one if they have no more members; else one member moves over
MOVED_MAX = (SIZE_MAX + 1) // 2  # other nodes that change their cluster by one join or leave

_first = attrgetter("place", "device_type", "tier", "latency", "pattern")


class Group:
    """Some nodes in order. Its members are changed by the rule alone, or by an operator alone."""

    __slots__ = ("id", "seats")

    def __init__(self, name: str, seats: Iterable[Seat] = ()) -> None:
        self.id = name
        self.seats = sorted(seats)


Make = Callable[[], Group]


class Site:
    """The groups of one site, in order. `lows[i]` is where the run of `groups[i]` begins; the first begins at the start."""

    __slots__ = ("groups", "lows")

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self.groups = sorted(groups, key=lambda group: group.seats[0])
        self.lows = [group.seats[0] for group in self.groups]

    def at(self, seat: Seat) -> int:
        """The index of the group into whose run the seat falls."""
        return max(0, bisect_right(self.lows, seat) - 1)

    def drop(self, at: int) -> None:
        """Take a group out; its neighbours have its run from now on."""
        del self.groups[at], self.lows[at]


def join(site: Site, seat: Seat, make: Make) -> list[Group]:
    """Seat a node; returns the groups that changed, the node's own first."""
    if not site.groups:
        site.groups.append(make())
        site.lows.append(seat)
    at = site.at(seat)
    group = site.groups[at]
    insort(group.seats, seat)
    if len(group.seats) <= SIZE_MAX:
        return [group]
    made = _split(site, at, make())
    return [made, group] if seat in made.seats else [group, made]


def leave(site: Site, seat: Seat) -> list[Group]:
    """Unseat a node; returns the groups that changed. One without seats is no longer of the site."""
    at = site.at(seat)
    group = site.groups[at]
    del group.seats[bisect_left(group.seats, seat)]
    return heal(site, at)


def heal(site: Site, at: int) -> list[Group]:
    """Bring a group that may be too small back within bounds; returns it, and the neighbour that helped."""
    group = site.groups[at]
    if len(group.seats) >= SIZE_MIN or len(site.groups) == 1:
        if not group.seats:
            site.drop(at)
        return [group]
    by = _more_alike(site, at)
    other = site.groups[by]
    if len(group.seats) + len(other.seats) <= MERGED_MAX:
        other.seats = sorted((*other.seats, *group.seats))
        group.seats = []
        if at < by:
            site.lows[by] = site.lows[at]
        site.drop(at)
    elif by < at:
        group.seats.insert(0, other.seats.pop())
        site.lows[at] = group.seats[0]
    else:
        group.seats.append(other.seats.pop(0))
        site.lows[by] = other.seats[0]
    return [group, other]


def likeness(one: Seat, other: Seat) -> int:
    """How many traits, the most important first, two seats have in common: 0 (another place) to 5 (all)."""
    traits = list(zip(_first(one.traits), _first(other.traits), strict=True))
    return next((n for n, (mine, its) in enumerate(traits) if mine != its), len(traits))


def _split(site: Site, at: int, made: Group) -> Group:
    """Cut a group in two where neighbours are least alike, as near to the middle as that allows."""
    group = site.groups[at]
    seats, middle = group.seats, len(group.seats) / 2
    cuts = range(SIZE_MIN, len(seats) - SIZE_MIN + 1)
    cut = min(cuts, key=lambda cut: (likeness(seats[cut - 1], seats[cut]), abs(cut - middle), -cut))
    lower, upper = seats[:cut], seats[cut:]
    if len(lower) < len(upper):
        made.seats, group.seats = lower, upper
        site.groups.insert(at, made)
    else:
        group.seats, made.seats = lower, upper
        site.groups.insert(at + 1, made)
    site.lows.insert(at + 1, upper[0])
    return made


def _more_alike(site: Site, at: int) -> int:
    """The neighbour whose nearest member is more alike; of two, the smaller."""
    groups = site.groups
    seats = groups[at].seats

    def preference(by: int) -> tuple[int, int]:
        near = (groups[by].seats[-1], seats[0]) if by < at else (seats[-1], groups[by].seats[0])
        return likeness(*near) if seats else 0, -len(groups[by].seats)

    return max((by for by in (at - 1, at + 1) if 0 <= by < len(groups)), key=preference)
