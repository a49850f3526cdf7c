"""What the coordinator saw itself: in which time a node harvested, told by its beats, never more than passed here.

Two beats that follow each other in time bound a span during which the node said that it harvests. It is kept by the clock of
the node, by which it claims, but is never longer than by ours; a node whose clock jumps, or that misses beats, begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from coordinator.core.nodeview import NodeView
from schemas import limits
from schemas.harvest import HarvestState
from schemas.spans import Span, Spans

SKEW_MS = 2_000  # by which a node's clock may run otherwise than ours within a run; beyond that it has jumped


class Beat(Struct, frozen=True):
    """One heartbeat: when the node sent it (its clock) and when it was heard (ours), both in milliseconds since 1970.

    `gap_ms`: how long after it the next one may come without a doubt about the time between."""

    sent_ms: int
    heard_ms: int
    boot: int
    harvesting: bool
    gap_ms: int


def beat_of(node: NodeView) -> Beat:
    """The node's latest beat, as the tasks' core holds it. What comes after it is in doubt when the node would be lost.

    A device that saves power announces that its next beat comes late; longer than any power mode makes it is a sleep.
    """
    sent_at = node.last_beat + (node.clock_ahead_s or 0.0)
    harvesting = node.harvest_state == HarvestState.HARVESTING and not node.asleep
    gap_s = min(node.next_due - node.last_beat, (limits.BEATS_STRETCHED + 1) * node.interval_s)
    gap_s += (limits.BEATS_MISSED - 1) * node.interval_s
    return Beat(max(0, round(1000 * sent_at)), round(1000 * node.last_beat), node.boot, harvesting, round(1000 * gap_s))


class Run(Struct):
    """Beats of one boot that followed each other: since the first one, up to the last."""

    first: Beat
    last: Beat


class Watch:
    """What was seen and is not in the book yet, by node."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._seen: dict[str, Spans] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def beat(self, node: str, beat: Beat) -> None:
        """The node's newest beat. One that was told before changes nothing."""
        run = self._runs.get(node)
        if run is not None and beat.heard_ms <= run.last.heard_ms:
            return
        if run is not None and self._follows(run, beat):
            span = _span(run, beat)
            if span[0] < span[1]:
                self._seen.setdefault(node, Spans()).add(span)
            run.last = beat
        else:
            run = self._runs[node] = Run(beat, beat)
        if not beat.harvesting:
            del self._runs[node]

    def _follows(self, run: Run, beat: Beat) -> bool:
        sent_ms, heard_ms = beat.sent_ms - run.first.sent_ms, beat.heard_ms - run.first.heard_ms
        in_time = beat.heard_ms - run.last.heard_ms <= run.last.gap_ms
        return beat.boot == run.last.boot and in_time and abs(sent_ms - heard_ms) <= SKEW_MS

    def put_back(self, seen: Mapping[str, tuple[Span, ...]]) -> None:
        """What was taken is not in the book after all, or perhaps it is: seen twice counts once."""
        for node, spans in seen.items():
            for span in spans:
                self._seen.setdefault(node, Spans()).add(span)

    def forget(self, node: str) -> None:
        """The node is gone; what was seen of it counts."""
        self._runs.pop(node, None)

    def harvesting(self) -> int:
        """How many nodes were harvesting by their last beats."""
        return len(self._runs)

    def take(self) -> dict[str, tuple[Span, ...]]:
        """What was seen since this was last asked."""
        seen, self._seen = self._seen, {}
        return {node: tuple(spans) for node, spans in seen.items()}


def _span(run: Run, beat: Beat) -> Span:
    """The time between the last beat and this one on the node's clock, shorter where less passed on ours.

    Both are measured from the run's first beat: that one beat took longer on its way than another costs nothing for good.
    """
    first = run.first
    begin_ms = min(run.last.sent_ms - first.sent_ms, run.last.heard_ms - first.heard_ms)
    end_ms = min(beat.sent_ms - first.sent_ms, beat.heard_ms - first.heard_ms)
    return first.sent_ms + begin_ms, first.sent_ms + end_ms
