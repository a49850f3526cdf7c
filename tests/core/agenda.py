"""What is to happen in a world, in order of time: made for hundreds of thousands of entries, most of them far from now."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

Entry = tuple[float, int, Callable[..., object], tuple[object, ...]]


class Agenda:
    """Entries by time, those of the same time in the order in which they were put.

    Only the second that runs is kept sorted, the later ones are plain lists: one heap of everything costs a walk through
    cold memory for every entry.
    """

    def __init__(self) -> None:
        self._now: list[Entry] = []  # a heap: of this second and before
        self._second = -1
        self._later: dict[int, list[Entry]] = {}
        self._seconds: list[int] = []  # a heap: the keys of `_later`
        self._number = itertools.count()

    def put(self, at: float, what: Callable[..., object], args: tuple[object, ...]) -> None:
        """Have `what` called at `at` ≥ 0."""
        entry, second = (at, next(self._number), what, args), int(at)
        if second <= self._second:
            heapq.heappush(self._now, entry)
        elif (found := self._later.get(second)) is not None:
            found.append(entry)
        else:
            self._later[second] = [entry]
            heapq.heappush(self._seconds, second)

    def take(self, end: float) -> Entry | None:
        """The next entry, if it is due at `end` or before."""
        while not self._now:
            if not self._seconds or self._seconds[0] > end:
                return None
            self._second = heapq.heappop(self._seconds)
            self._now = self._later.pop(self._second)
            heapq.heapify(self._now)
        return heapq.heappop(self._now) if self._now[0][0] <= end else None
