"""Sets of time as disjoint spans ``[start, end)`` in whole milliseconds. Adding is idempotent, its order is no matter. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Span = tuple[int, int]


class Spans:
    """A set of moments. What touches is one span, so that a night of work is few of them."""

    __slots__ = ("_ends", "_starts", "total_ms")

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total_ms = 0
        for span in spans:
            self.add(span)

    def __iter__(self) -> Iterator[Span]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, span: Span) -> list[Span]:
        """Put it in; returns the parts of it that were not there before, in order."""
        start, end = span
        if start >= end:
            return []
        first, last = self._touched(start, end)
        new, at = [], start
        for known_start, known_end in zip(self._starts[first:last], self._ends[first:last], strict=True):
            if at < known_start:
                new.append((at, min(known_start, end)))
            at = max(at, known_end)
        if at < end:
            new.append((at, end))
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self.total_ms += sum(until - since for since, until in new)
        return new

    def covered_ms(self, span: Span) -> int:
        """How much of the span is in the set."""
        start, end = span
        first, last = self._touched(start, end)
        known = zip(self._starts[first:last], self._ends[first:last], strict=True)
        return sum(max(0, min(end, known_end) - max(start, known_start)) for known_start, known_end in known)

    def _touched(self, start: int, end: int) -> tuple[int, int]:
        """The range of indexes whose spans overlap or touch ``[start, end]``."""
        return bisect_left(self._ends, start), bisect_right(self._starts, end)
