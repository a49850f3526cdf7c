"""A task as the coordinator holds it, and the table of the states that it may go through."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from coordinator.core.events import Source
from schemas.task import History, Outcome, ResultHead, TaskHead

if TYPE_CHECKING:
    from coordinator.core.classes import NeedsClass
    from coordinator.core.nodeview import NodeView


class Life(StrEnum):
    """Where a task is. Ended tasks are not held: only their ids are remembered."""

    QUEUED = "queued"  # waits for a free slot
    WAITING = "waiting"  # fits no known node, or backs off
    PLACING = "placing"  # a WORK message is on its way to the broker
    PLACED = "placed"  # lies in a node's queue, or runs
    SPLITTING = "splitting"  # its parts are on their way to the broker as tasks of their own
    ASKING = "asking"  # RESULTS is being asked before a move
    CONCLUDING = "concluding"  # a result of our own is on its way


# By themselves: CPython 3.11 looks `Life.PLACED` up by a function in Python (0.3 µs), and every task asks a dozen times.
QUEUED, PLACING, PLACED, SPLITTING = Life.QUEUED, Life.PLACING, Life.PLACED, Life.SPLITTING
ASKING, CONCLUDING = Life.ASKING, Life.CONCLUDING

TRANSITIONS: dict[Life, frozenset[Life]] = {
    Life.QUEUED: frozenset({Life.PLACING, Life.WAITING, Life.CONCLUDING, Life.PLACED, Life.ASKING, Life.SPLITTING}),
    Life.WAITING: frozenset({Life.QUEUED, Life.PLACING, Life.CONCLUDING, Life.PLACED, Life.ASKING, Life.SPLITTING}),
    Life.PLACING: frozenset({Life.PLACED, Life.WAITING, Life.QUEUED, Life.ASKING, Life.CONCLUDING, Life.SPLITTING}),
    Life.PLACED: frozenset({Life.ASKING, Life.WAITING, Life.QUEUED, Life.CONCLUDING, Life.SPLITTING}),
    Life.SPLITTING: frozenset({Life.QUEUED, Life.WAITING, Life.PLACING, Life.CONCLUDING}),
    Life.ASKING: frozenset({Life.QUEUED, Life.WAITING, Life.PLACING, Life.PLACED, Life.CONCLUDING, Life.SPLITTING}),
    Life.CONCLUDING: frozenset({Life.ASKING}),  # our result was refused: somebody else's is there
}

NO_CANDIDATES: tuple[tuple[str, float, float, float, float, float, float], ...] = ()


class TaskRecord:
    """One task that has no result yet. `source` is where it lies now; `leftovers` what must go once it is over.

    `order` sorts by age (the broker's timestamp of its submission), `since` is when it came into its state, `node` where it
    is charged, `why` the sampled candidates of its last placement, as `rank.Candidate` tuples.
    """

    __slots__ = (
        "announced", "asked_at", "bound", "cancelled", "cls", "cost_ms", "deadline_at", "gone", "head", "history", "id",
        "in_queue", "judged", "judged_from", "last", "lease_until", "leftovers", "missed_in", "node", "not_before",
        "order", "own", "park_reason", "parked", "place_failures", "placed_at", "priority", "reason", "result_by",
        "running", "running_since", "seq", "shun_until", "shunned", "since", "source", "source_placement", "state",
        "stays", "submitter", "undone_at", "untold", "whole", "why", "windowed",
    )  # fmt: skip

    def __init__(self, head: TaskHead, source: Source, history: History, submitted_at: float, now: float) -> None:
        self.id = head.id
        self.submitter = head.submitter
        self.head = head
        self.priority = int(head.priority)
        self.source = source
        self.source_placement = history.placement  # the placement as which it was stored there
        self.history = history
        self.order = submitted_at
        self.since = now
        self.state = QUEUED
        self.node: NodeView | None = None
        self.cls: NeedsClass | None = None
        self.in_queue = False
        self.windowed = False
        self.announced = False
        self.cost_ms = 0.0
        self.deadline_at = None if head.deadline_s is None else submitted_at + head.deadline_s
        self.result_by = 0.0
        self.not_before = 0.0
        self.shun_until = 0.0
        self.shunned: dict[str, float] | None = None  # nodes that gave it back, until when they are left alone
        self.placed_at = 0.0
        self.place_failures = 0
        self.asked_at = 0.0
        self.undone_at = 0.0  # RESULTS, asked at this time, held nothing of it
        self.seq = 0
        self.judged = 0  # the placement whose outcome was taken in
        self.judged_from = 0.0  # when that was stored
        self.missed_in = -1
        self.bound = ""
        self.park_reason = ""
        self.parked = False  # its place is _waiting
        self.stays = False  # it lies in TASKS, besides the window, since _waiting has no room for it
        self.reason = ""
        self.running: bool | None = None
        self.running_since = 0.0  # when a beat first said so
        self.lease_until = 0.0  # exclusive: until then a node may run it
        self.leftovers: list[Source] | None = None
        self.last: Outcome | None = None
        self.untold: Outcome | None = None  # to be judged once RESULTS holds nothing
        self.gone: tuple[Source, float] | None = None  # the place that was found empty, and when
        self.own: ResultHead | None = None  # the result that we had recorded
        self.why = NO_CANDIDATES
        self.whole = False  # it cannot be split
        self.cancelled = ""  # why it is to be cancelled, once its split has ended

    def to(self, state: Life, now: float) -> None:
        """Change the state as the table allows; anything else is a fault of ours."""
        if state is not self.state:
            if state not in TRANSITIONS[self.state]:
                raise AssertionError(f"task {self.id}: {self.state.value} may not become {state.value}")
            self.state = state
        self.since = now


def items_of(head: TaskHead) -> int:
    """How many calls the task makes: a map chunk's items, else one."""
    return getattr(head.run, "count", 1)


def what_of(head: TaskHead) -> tuple[str, str]:
    """The task's kind and its function's name; a command's is its program."""
    run = head.run
    kind = str(run.__struct_config__.tag)
    argv = getattr(run, "argv", None)
    return (kind, argv[0][:128]) if argv is not None else (kind, getattr(run, "name", ""))
