"""An attempt as the node holds it, and what it is told about one that arrives."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from schemas.task import FunctionRun, MapRun, Task, Work


class Place(Enum):
    """Where an attempt is on its way through the node."""

    FETCHING = "fetching"  # its inputs are on their way from the object store
    QUEUED = "queued"
    UNLEASED = "unleased"  # exclusive: it waits for the lease under which it may run
    LINED = "lined"  # handed to a runner: running at the head of its line, else about to
    CLOSING = "closing"  # over; its result or outcome waits for the store's answer
    GONE = "gone"


# By themselves: CPython 3.11 looks `Place.QUEUED` up by a function in Python (0.3 µs), and every attempt asks for ten of them.
FETCHING, QUEUED, UNLEASED = Place.FETCHING, Place.QUEUED, Place.UNLEASED
LINED, CLOSING, GONE = Place.LINED, Place.CLOSING, Place.GONE


class Attempt(Struct, eq=False):
    """One placement of a task that this node holds.

    `reply` acks its WORK message. `rank` orders the queue: higher priority first, then the older task, then the earlier
    message. `pace` names what its duration is learned by; `items` is how many calls it is. `key` names its latest handing
    over to a runner; `inputs` are the fetched bytes of the blobs that it refers to, in order (`fetched`: some of them from
    the object store). `alone`: nothing else is to be on its runner. `final`: it is over with a result, so that the task is
    not to be started again, whatever its number. `leased_until`: an exclusive one may run until then, by the node's ticks.
    """

    task: Task
    work: Work
    seq: int
    reply: str
    rank: tuple[int, float, int]
    pace: str
    items: int = 1
    place: Place = QUEUED
    estimate_s: float = 0.0
    key: int = 0
    started_at: float = 0.0
    inputs: tuple[bytes, ...] = ()
    fetched: bool = False
    alone: bool = False
    final: bool = False
    leased_until: float = 0.0
    stop_why: str = ""
    stop_placement: int = 0

    @property
    def placement(self) -> int:
        """The number of this move of the task."""
        return self.work.history.placement

    @property
    def renewed(self) -> bool:
        """Whether it came again under a newer number since it was to be stopped: the stop was not said of that."""
        return bool(self.stop_why) and self.placement != self.stop_placement


def attempt_of(task: Task, work: Work, seq: int, reply: str) -> Attempt:
    """The attempt that a decoded WORK message asks for."""
    run, items = task.run, 1
    if isinstance(run, FunctionRun):
        pace = run.name
    elif isinstance(run, MapRun):
        pace, items = f"map:{run.name}", run.count
    else:
        pace = "command"
    return Attempt(task, work, seq, reply, (-task.priority, work.history.submitted_at, seq), pace, items)


class Taken(Enum):
    """What became of a message that arrived."""

    NEW = "new"  # queue or fetch it
    ADOPTED = "adopted"  # a redelivery of what is here: its reply counts from now on, nothing is started
    REBASED = "rebased"  # a newer placement of what waits or runs here: it goes on under the new number
    SETTLED = "settled"  # over or outdated: ack it again, start nothing
    USED_UP = "used up"  # new, but under a number that is over here: hand it back, so that it gets another


NEW, ADOPTED, REBASED, SETTLED, USED_UP = Taken
