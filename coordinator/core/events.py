"""What can happen to the coordinator. The shell makes these; `machine.step(state, event, now)` answers with actions.

Every event may come twice, late, or out of order. Times are seconds since 1970 on the coordinator's never-stepping clock.
"""

from __future__ import annotations

import math

from msgspec import Struct

from schemas.membership import Heartbeat, NodeAnswer, NodeRecord, Register
from schemas.relay import Aged, Still
from schemas.task import History, Outcome, ResultHead, TaskHead


class Source(Struct, frozen=True, gc=False):
    """Where a task lies in the broker: the message to remove once it lies elsewhere.

    `stream` is tasks, work or outcomes. `reply` acks it; without one it is deleted by `seq`.
    """

    stream: str
    seq: int
    reply: str = ""


class TaskArrived(Struct, frozen=True, gc=False):
    """A TASKS message was pulled. `stored_at` is the broker's timestamp of it, `maybe_done` that RESULTS must be asked first
    (it was stored before this coordinator took over, or delivered before)."""

    head: TaskHead
    source: Source
    stored_at: float
    maybe_done: bool = False


class TaskUnreadable(Struct, frozen=True):
    """A TASKS message that is no task, `problem` says why; its subject names the submitter and the id that it was to have."""

    task: str
    submitter: str
    problem: str
    source: Source


class WorkFound(Struct, frozen=True, gc=False):
    """While taking over: a WORK message lies under `node` (or ``_waiting``) as sequence `source.seq`."""

    head: TaskHead
    history: History
    node: str
    source: Source
    deadline_at: float | None
    not_before: float = 0.0
    reason: str = ""


class OutcomeArrived(Struct, frozen=True):
    """An OUTCOMES message was pulled: an attempt ended without a result. `stored_at` is the broker's timestamp of it."""

    head: TaskHead
    outcome: Outcome
    source: Source
    stored_at: float = math.inf


class Placed(Struct, frozen=True, gc=False):
    """The broker stored the WORK message of this placement, as `seq`. `found`: the ack said *duplicate*; what then lies at
    that sequence was looked up: ``"there"``, ``"elsewhere"`` (it is this task's, under another node than was wanted: one that
    an earlier term chose), or ``"gone"`` (placed before, and finished or moved since)."""

    task: str
    placement: int
    seq: int
    found: str = ""


class PlaceFailed(Struct, frozen=True):
    """The broker refused the WORK message (too large, stream full) or did not answer in time. `final`: it never will take it.
    `gone`: where the task's body was to be taken from, and is there no more: its end must be under way (or stored)."""

    task: str
    placement: int
    error: str
    final: bool = False
    gone: Source | None = None


class SplitEnded(Struct, frozen=True):
    """The answer to `actions.Split`: the `parts` are stored under these ids, or (without any) why it cannot be split."""

    task: str
    parts: tuple[str, ...] = ()
    error: str = ""


class Concluded(Struct, frozen=True):
    """RESULTS answered a result of our own, that of `placement`: stored, or `refused` since another was there first.
    `dead_letter`: it says that a letter of the task is kept."""

    task: str
    refused: bool = False
    placement: int = 0
    dead_letter: bool = False


class LettersFound(Struct, frozen=True):
    """Dead letters of (submitter, task) lie in FOG_DEAD, and it is not known whether they are to: those that an earlier term
    left, and ours whose result was refused."""

    letters: tuple[tuple[str, str], ...]


class LettersAsked(Struct, frozen=True):
    """The answer to `actions.AskLetters`: the results that are stored of them."""

    results: tuple[ResultHead, ...]


class ResultSeen(Struct, frozen=True, gc=False):
    """A stored result came by on ``done.>`` (of any task, known here or not)."""

    result: ResultHead


class ResultsAsked(Struct, frozen=True):
    """The answer to `actions.AskResults`: for each task asked, its stored result's head or None; `asked_at` as there."""

    results: dict[str, ResultHead | None]
    asked_at: float = 0.0


class NodeRegistering(Struct, frozen=True):
    """A registration whose key and signature were verified, to be judged. `record` is what the KV bucket holds, if anything;
    `revision` its revision (0: none), for the compare-and-set."""

    request: Register
    record: NodeRecord | None
    revision: int
    reply: str


class NodeStored(Struct, frozen=True):
    """The compare-and-set of a node's record is done, and `revision` is its new one. (On a conflict the shell reads again and
    sends `NodeRegistering`; for one without a `reply`, `NodeConflicted`.)"""

    record: NodeRecord
    reply: str
    revision: int = 0


class NodeConflicted(Struct, frozen=True):
    """A `StoreNode` without a `reply` was not written, since the bucket has another revision of `node`. `record` is what was
    read from it then (None: nothing), `revision` its revision: the core writes anew what it still wants changed."""

    node: str
    record: NodeRecord | None
    revision: int


class NodeKnown(Struct, frozen=True):
    """While taking over: a node of the KV bucket, and its revision."""

    record: NodeRecord
    revision: int = 0


class Beat(Struct, frozen=True):
    """A heartbeat whose subject matches the node that it names. With a `reply` it asks for leases (`actions.Renew`)."""

    beat: Heartbeat
    reply: str = ""


class Relayed(Struct, frozen=True):
    """Beats that came in the digest of a leader whose word counts."""

    leader: str
    stills: tuple[Still, ...] = ()
    beats: tuple[Aged, ...] = ()


class Disconnected(Struct, frozen=True):
    """The broker says that the connection of this node closed."""

    node: str
    reason: str


class ProbeEnded(Struct, frozen=True):
    """A probe was answered (`answer`), had no responders, or timed out."""

    node: str
    answer: NodeAnswer | None
    no_responders: bool = False


class CommandEnded(Struct, frozen=True):
    """A node's answer to a command; None when it did not come."""

    node: str
    verb: str
    task: str
    answer: NodeAnswer | None


class CancelAsked(Struct, frozen=True):
    """Somebody wants a task cancelled. For a task not known here `submitter` (found by the shell in TASKS) lets a result be
    recorded all the same; `source` is its TASKS message, if found."""

    task: str
    submitter: str = ""
    reason: str = ""
    source: Source | None = None


class DrainAsked(Struct, frozen=True):
    """An operator wants a node drained (or taken back into service: `resume`), handing back by `deadline_s`."""

    node: str
    deadline_s: float
    resume: bool = False


class Clustered(Struct, frozen=True):
    """The clusters' area: from now on the node is in these clusters."""

    node: str
    clusters: frozenset[str]


class SleepAsked(Struct, frozen=True):
    """An operator wants a node to announce a sleep of `for_s` (0: as its owner configured), or to `wake`."""

    node: str
    for_s: float = 0.0
    wake: bool = False


class LinkLost(Struct, frozen=True):
    """Our own broker link went down: nobody is judged until it has been back for a full lease."""


class LinkBack(Struct, frozen=True):
    """Our own broker link is up (again)."""


class TakenOver(Struct, frozen=True):
    """Everything that the streams held has been fed in; from now on the coordinator acts, under `term`."""

    coordinator: str
    term: int


class Tick(Struct, frozen=True):
    """Time passed; sent every half second at least (a longer gap means that our own process stood still, `tune.STALL_S`),
    and at the moment that the last `actions.WakeAt` asked for."""


Event = (
    TaskArrived | TaskUnreadable | WorkFound | OutcomeArrived | Placed | PlaceFailed | SplitEnded | Concluded
    | LettersFound | LettersAsked | ResultSeen | ResultsAsked | NodeRegistering | NodeStored | NodeConflicted | NodeKnown
    | Beat | Relayed | Disconnected | ProbeEnded | CommandEnded | CancelAsked | DrainAsked | SleepAsked | Clustered
    | LinkLost | LinkBack | TakenOver | Tick
)  # fmt: skip
