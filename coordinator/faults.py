"""What made the core fail, over all terms of this process.

After a fault the state may be half changed, so the term ends and the streams give it back whole. A message that fails its
reader every time would make that go on for ever: after `TIMES` within `WITHIN_S` it is poison, and read no more.
"""

from __future__ import annotations

from collections import OrderedDict

from coordinator.core import events as ev

TIMES = 3
WITHIN_S = 60.0
KEPT = 1_000

Key = tuple[str, str]
PUMP: Key = ("pump", "")


class Faults:
    """Counts faults by what they were about."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Key, list[float]] = OrderedDict()
        self.poison: set[Key] = set()

    def add(self, key: Key, now: float) -> bool:
        """Count one; whether it is poison from now on."""
        times = [at for at in self._seen.pop(key, []) if now - at < WITHIN_S]
        self._seen[key] = [*times, now]
        if len(self._seen) > KEPT:
            self.poison.discard(self._seen.popitem(last=False)[0])
        if len(times) + 1 >= TIMES:
            self.poison.add(key)
        return key in self.poison


def key_of(event: ev.Event) -> Key:
    """What an event is about, as far as another one after a restart would be the same."""
    kind = type(event).__name__
    match event:
        case ev.TaskArrived() | ev.TaskUnreadable() | ev.WorkFound() | ev.OutcomeArrived():
            return kind, f"{event.source.stream}.{event.source.seq}"
        case ev.Beat():
            return kind, event.beat.node
        case ev.Relayed():
            return kind, event.leader
        case ev.ResultSeen():
            return kind, event.result.task
        case ev.NodeRegistering():
            return kind, event.request.node
        case ev.NodeKnown() | ev.NodeStored():
            return kind, event.record.node
        case ev.Placed() | ev.PlaceFailed() | ev.SplitEnded() | ev.Concluded() | ev.CancelAsked():
            return kind, event.task
        case ev.Disconnected() | ev.ProbeEnded() | ev.CommandEnded() | ev.DrainAsked() | ev.SleepAsked():
            return kind, event.node
    return kind, ""
