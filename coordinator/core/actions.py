"""What the coordinator wants done. The shell does it, in order, and answers with events where one is named.

No action waits: whatever depends on an answer is decided when the answering event comes in.
"""

from __future__ import annotations

from msgspec import Struct

from coordinator.core.events import Source
from schemas.chunks import Span
from schemas.event import EventData
from schemas.membership import NodeRecord, Registered, Renewed
from schemas.task import AttemptError, History, ResultState


class Place(Struct, frozen=True, gc=False):
    """Store the task as WORK of `node` (or ``_waiting``) → `Placed` or `PlaceFailed`. Message id ``<task>.<placement>``.

    The task's body is taken from where it lies (`source`), which is removed later by a `Remove` of its own.
    """

    task: str
    node: str
    history: History
    source: Source
    deadline_at: float | None
    result_by: float
    not_before: float = 0.0
    reason: str = ""


class Split(Struct, frozen=True):
    """Store these parts of a map chunk as tasks of their own, the last first → `SplitEnded`.

    The chunk lies at `source`. `deadline_s` is what is left of its deadline, for the parts."""

    task: str
    submitter: str
    parts: tuple[Span, ...]
    source: Source
    deadline_s: float | None = None


class Remove(Struct, frozen=True, gc=False):
    """Remove a message, by its reply or its sequence: what it said is stored elsewhere now."""

    source: Source


class Conclude(Struct, frozen=True):
    """Record a result of our own (failed, cancelled, expired; succeeded by its `parts`) → `Concluded`.

    `exit_code`, `stdout`, `stderr`, `started_at` and `duration_ms` are the last attempt's. With `letter`, the message that
    holds the task, a dead letter of it is stored before; `at` is when it was given up."""

    task: str
    submitter: str
    state: ResultState
    reason: str
    node: str = ""
    placement: int = 0
    attempts: int = 0
    errors: tuple[AttemptError, ...] = ()
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    parts: tuple[str, ...] = ()
    started_at: float = 0.0
    duration_ms: float = 0.0
    letter: Source | None = None
    at: float = 0.0


class AskResults(Struct, frozen=True):
    """Look up the stored results of ``(submitter, task)`` pairs, in one batch → `ResultsAsked`. `asked_at`: now."""

    tasks: tuple[tuple[str, str], ...]
    asked_at: float = 0.0


class AskLetters(Struct, frozen=True):
    """Look up the stored results of these ``(submitter, task)`` pairs, of which there are dead letters → `LettersAsked`."""

    tasks: tuple[tuple[str, str], ...]


class DropLetter(Struct, frozen=True):
    """Remove the dead letter of a task whose result says that there is none."""

    submitter: str
    task: str


class Forget(Struct, frozen=True, gc=False):
    """The task is over here: its body need not be kept."""

    task: str


class Emit(Struct, frozen=True, gc=False):
    """Say an event to outside tools. `key` makes its id: the same key is the same event. `at`: when it was, if not now."""

    kind: str
    about: str
    key: str
    data: EventData
    at: float = 0.0


class Probe(Struct, frozen=True):
    """Ask a node whether it lives → `ProbeEnded`."""

    node: str


class Command(Struct, frozen=True):
    """Tell a node to do something (cancel, drain, resume, report, sleep, wake) → `CommandEnded`. A cancel names a `task`, or
    `tasks` up to these `placements`."""

    node: str
    verb: str
    task: str = ""
    tasks: tuple[str, ...] = ()
    deadline_s: float = 0.0
    reason: str = ""
    for_s: float = 0.0
    placements: tuple[int, ...] = ()


class StoreNode(Struct, frozen=True):
    """Write a node's record if its revision is still `revision` → `NodeStored`, or `NodeRegistering` again on a conflict.

    Without `reply` nobody waits for it (a drained flag, last_seen), and a conflict is told by `NodeConflicted`."""

    record: NodeRecord
    revision: int
    reply: str = ""


class DropNode(Struct, frozen=True):
    """Delete the record of a node that was not seen for very long, if its revision is still `revision`. No answer."""

    node: str
    revision: int


class Answer(Struct, frozen=True):
    """Answer a registration."""

    reply: str
    registered: Registered


class Renew(Struct, frozen=True):
    """Answer a heartbeat that asks for the leases of exclusive work."""

    reply: str
    renewed: Renewed


class Log(Struct, frozen=True):
    """A line for the operator's log; `fields` are its structured part."""

    level: str
    text: str
    fields: dict[str, object] = {}


class WakeAt(Struct, frozen=True):
    """Send a `Tick` at this time at the latest."""

    at: float


Action = (
    Place | Split | Remove | Conclude | AskResults | AskLetters | DropLetter | Forget | Emit | Probe | Command | StoreNode
    | DropNode | Answer | Renew | Log | WakeAt
)  # fmt: skip
