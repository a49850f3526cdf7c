"""A task as the coordinator holds it, and the table of the states that it may go through."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from coordinator.core.events import Source
from schemas.task import History, Outcome, ResultHead, TaskHead

if TYPE_CHECKING:
    from coordinator.core.classes import NeedsClass
    from coordinator.core.nodeview import NodeView
    from coordinator.core.rank import Candidate


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


class TaskRecord(Struct, eq=False):
    """One task that has no result yet. `source` is where it lies now; `leftovers` what must go once it is over.

    `order` sorts by age (the broker's timestamp of its submission), `since` is when it came into its state, `node` where it
    is charged, `why` the sampled candidates of its last placement, as `rank.Candidate` tuples.
    """

    id: str
    submitter: str
    head: TaskHead
    priority: int
    source: Source
    source_placement: int  # the placement as which it was stored there
    history: History
    order: float
    since: float
    deadline_at: float | None
    state: Life = QUEUED
    node: NodeView | None = None
    cls: NeedsClass | None = None
    in_queue: bool = False
    windowed: bool = False
    announced: bool = False
    cost_ms: float = 0.0
    result_by: float = 0.0
    not_before: float = 0.0
    shun_until: float = 0.0
    shunned: dict[str, float] | None = None  # nodes that gave it back, until when they are left alone
    placed_at: float = 0.0
    place_failures: int = 0
    asked_at: float = 0.0
    undone_at: float = 0.0  # RESULTS, asked at this time, held nothing of it
    seq: int = 0
    judged: int = 0  # the placement whose outcome was taken in
    judged_from: float = 0.0  # when that was stored
    missed_in: int = -1
    bound: str = ""
    park_reason: str = ""
    parked: bool = False  # its place is _waiting
    stays: bool = False  # it lies in TASKS, besides the window, since _waiting has no room for it
    reason: str = ""
    running: bool | None = None
    running_since: float = 0.0  # when a beat first said so
    lease_until: float = 0.0  # exclusive: until then a node may run it
    leftovers: list[Source] | None = None
    last: Outcome | None = None
    untold: Outcome | None = None  # to be judged once RESULTS holds nothing
    gone: tuple[Source, float] | None = None  # the place that was found empty, and when
    own: ResultHead | None = None  # the result that we had recorded
    why: tuple[Candidate, ...] = ()
    whole: bool = False  # it cannot be split
    cancelled: str = ""  # why it is to be cancelled, once its split has ended

    def to(self, state: Life, now: float) -> None:
        """Change the state as the table allows; anything else is a fault of ours."""
        if state is not self.state:
            if state not in TRANSITIONS[self.state]:
                raise AssertionError(f"task {self.id}: {self.state.value} may not become {state.value}")
            self.state = state
        self.since = now


def record_of(head: TaskHead, source: Source, history: History, submitted_at: float, now: float) -> TaskRecord:
    """A task that lies at `source` as the newest placement of its history."""
    deadline_at = None if head.deadline_s is None else submitted_at + head.deadline_s
    return TaskRecord(
        head.id, head.submitter, head, int(head.priority), source, history.placement, history, submitted_at, now, deadline_at
    )  # fmt: skip


def items_of(head: TaskHead) -> int:
    """How many calls the task makes: a map chunk's items, else one."""
    return getattr(head.run, "count", 1)


def what_of(head: TaskHead) -> tuple[str, str]:
    """The task's kind and its function's name; a command's is its program."""
    run = head.run
    kind = str(run.__struct_config__.tag)
    argv = getattr(run, "argv", None)
    return (kind, argv[0][:128]) if argv is not None else (kind, getattr(run, "name", ""))
