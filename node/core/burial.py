"""What a lane's line comes to when its runner is gone: who is to blame, who had begun, and who had not."""

from __future__ import annotations

from msgspec import Struct

from node.core.attempts import Attempt
from node.core.lanes import Lane
from node.core.last import Last


class Buried(Struct, frozen=True):
    """Each attempt of the line is in one of these, in order.

    `blamed`: the runner ended by itself, on this one, which it had begun (`began`) or found at its head. `cut`: they had
    begun, or even ended, and another one took the runner with it before they told. `stopped`: they were to be stopped, and
    whether each had begun. `again`: they had not begun and wait again, each `alone` where it cannot be known which begun.
    """

    blamed: Attempt | None = None
    began: bool = False
    cut: tuple[Attempt, ...] = ()
    stopped: tuple[tuple[Attempt, bool], ...] = ()
    again: tuple[Attempt, ...] = ()
    alone: bool = False


def judge(lane: Lane, last: Last | None) -> Buried:
    """The lane's runner is gone. `last` None: it wrote nothing down. Then nobody is blamed where it may have been several:
    runners answer in batches, so that the head may have been through."""
    line = lane.line
    if last is None:
        if lane.since is not None and len(line) > 1 and not lane.doomed:
            stopped = tuple((a, False) for a in line if a.stop_why)
            return Buried(stopped=stopped, again=tuple(a for a in line if not a.stop_why), alone=True)
        last = Last(line[0].key if line and lane.since is not None else 0, 0)
    begun = last.begun
    blamed = None if lane.doomed else _culprit(lane, last)
    others = [attempt for attempt in line if attempt is not blamed]
    return Buried(
        blamed,
        blamed is not None and blamed.key <= begun,
        cut=tuple(a for a in others if a.key <= begun and not a.stop_why),
        stopped=tuple((a, a.key <= begun) for a in others if a.stop_why),
        again=tuple(a for a in others if a.key > begun and not a.stop_why),
    )


def _culprit(lane: Lane, last: Last) -> Attempt | None:
    """On which attempt a runner ended that nobody stopped; None: between two, or on one that was to be stopped.

    One that ended before it began anything ended on its head: that must not be handed over for ever.
    """
    if last.begun > last.through:
        found = next((attempt for attempt in lane.line if attempt.key == last.begun), None)
    else:
        found = lane.line[0] if lane.line and lane.line[0].key > last.begun else None
    return None if found is None or found.stop_why else found
