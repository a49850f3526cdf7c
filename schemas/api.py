"""What clients ask the acting coordinator on ``api.<noun>.<verb>``, and what it answers. Lists come in pages.

| subject | request | reply |
|---|---|---|
| ``api.fleet.status`` | `Empty` | `StatusReply` |
| ``api.fleet.functions`` | `Empty` | `FunctionsReply` |
| ``api.fleet.trouble`` | `Empty` | `TroubleReply` |
| ``api.node.list`` | `ListRequest` | `NodesReply` |
| ``api.node.info`` | `NodeRequest` | `NodeInfo` |
| ``api.node.drain`` | `DrainRequest` | `Done` |
| ``api.node.sleep`` | `SleepRequest` | `Done` |
| ``api.node.advise`` | `NodeRequest` | `AdviceReply` |
| ``api.policy.set`` | `PolicyRequest` | `PolicyReply` |
| ``api.policy.show`` | `NodeRequest` | `PolicyReply` |
| ``api.task.list`` | `ListRequest` | `TasksReply` |
| ``api.task.info`` | `TaskRequest` | `TaskInfo` |
| ``api.task.cancel`` | `CancelRequest` | `Done` |
| ``api.ledger.accounts`` | `LedgerRequest` | `LedgerReply` |
| ``api.ledger.correct`` | `CorrectRequest` | `Done` |
| ``api.harvest.list`` | `HarvestListRequest` | `HarvestReply` |
| ``api.harvest.node`` | `HarvestRequest` | `HarvestInfo` |

Those of ``api.cluster`` are in `schemas.cluster`. A refusal is an `ApiError` with the header ``Nats-Service-Error-Code``.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.advice import Limits
from schemas.device import DeviceCapabilities, DeviceState, FunctionOffer
from schemas.enforced import Enforced
from schemas.membership import NodeState
from schemas.names import Id
from schemas.task import AttemptError, Needs


class Empty(Struct, frozen=True):
    """A request that needs no fields."""


class Done(Struct, frozen=True, omit_defaults=True):
    """It was done, or was already so; `note` says which when that matters."""

    note: str = ""


class ApiError(Struct, frozen=True, omit_defaults=True):
    """A refusal. `code` is a stable word for scripts (``bad-request``, ``unknown-task``, ``unknown-node``, ``not-ready``)."""

    code: str
    message: str
    hint: str = ""
    field: str = ""


class ListRequest(Struct, frozen=True, omit_defaults=True):
    """A page of a list. `page` counts from 0. Empty filters leave all in; `state` and `priority` by their names.

    For nodes only `state` and `label` (``key=value``) count; for tasks `state`, `priority`, `submitter`, `node`, `job`.
    """

    page: Annotated[int, Meta(ge=0)] = 0
    size: Annotated[int, Meta(ge=1, le=limits.PAGE)] = limits.PAGE
    state: Annotated[str, Meta(max_length=32)] = ""
    priority: Annotated[str, Meta(max_length=32)] = ""
    submitter: Annotated[str, Meta(max_length=63)] = ""
    node: Annotated[str, Meta(max_length=63)] = ""
    job: Annotated[str, Meta(max_length=63)] = ""
    label: Annotated[str, Meta(max_length=200)] = ""


class NodeRequest(Struct, frozen=True):
    """Which node."""

    node: Id


class TaskRequest(Struct, frozen=True):
    """Which task."""

    task: Id


class CancelRequest(Struct, frozen=True, omit_defaults=True):
    """Cancel a task. With `submitter`, one that the coordinator does not hold yet is found in FOG_TASKS, too."""

    task: Id
    submitter: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,63}$")] = ""
    reason: Annotated[str, Meta(max_length=limits.REASON_MAX)] = ""


class DrainRequest(Struct, frozen=True, omit_defaults=True):
    """Let a node finish or hand back by `deadline_s` from now, and give it nothing new; or `resume`: take it back."""

    node: Id
    deadline_s: Annotated[float, Meta(ge=0, le=limits.TIMEOUT_MAX_S)] = 60.0
    resume: bool = False


class SleepRequest(Struct, frozen=True, omit_defaults=True):
    """Let a node sleep for so long (0: as its owner configured): it takes nothing new and may be silent; or `wake` it."""

    node: Id
    for_s: Annotated[float, Meta(ge=0, le=limits.SLEEP_MAX_S)] = 0.0
    wake: bool = False


class StatusReply(Struct, frozen=True, omit_defaults=True):
    """The fleet at a glance. `nodes` by node state, `tasks` by task state, `pending` by priority name.

    `balance` is min/max tasks of the nodes that take work: 1 is even, None that none is held. `bad` counts messages that were
    refused, by what was wrong with them; `counts` what happened since this coordinator acts (``succeeded``, ``failed``,
    ``moved``, …). `dead_letters` is how many FOG_DEAD holds. Cores and slots are those of nodes that take work now. `at` is
    the time by which it judges (the broker's, carried on), in seconds since 1970.
    """

    coordinator: str = ""
    term: int = 0
    version: str = ""
    at: float = 0.0
    up_s: float = 0.0
    broker: str = ""
    nodes: dict[str, int] = {}
    tasks: dict[str, int] = {}
    pending: dict[str, int] = {}
    slots: int = 0
    slots_used: int = 0
    cores: float = 0.0
    cores_used: float = 0.0
    balance: float | None = None
    bad: dict[str, int] = {}
    counts: dict[str, int] = {}
    dead_letters: int = 0
    notes: tuple[str, ...] = ()


class WaitingGroup(Struct, frozen=True, omit_defaults=True):
    """Tasks that wait for the same reason: how many, and the oldest. `until`: the earliest retry (0: not a matter of time)."""

    reason: str
    count: int
    oldest: str
    oldest_s: float = 0.0
    until: float = 0.0


class StuckTask(Struct, frozen=True, omit_defaults=True):
    """A task that is not where it should be, and for how long. `kind`:

    ``queued`` first in its queue, with a node ready for it; ``unconfirmed`` the broker has not confirmed a step of it;
    ``overdue`` running past its timeout; ``unreported`` placed on a node that beats, and does not tell of it.
    """

    kind: str
    task: str
    for_s: float
    node: str = ""
    reason: str = ""


class PartUnknown(Struct, frozen=True):
    """A part of a split map chunk that the coordinator knows nothing of: FOG_TASKS or FOG_RESULTS should hold it."""

    whole: str
    part: str


class RefusedMessage(Struct, frozen=True):
    """A message that could not be understood. `kind` is that of its subject, `at` seconds since 1970."""

    kind: str
    subject: str
    problem: str
    at: float


class TroubleReply(Struct, frozen=True, omit_defaults=True):
    """What `fog doctor` wants to know of the coordinator. `counts` are all of `stuck` by kind, `stuck` the first ones;
    `refused` the last ones, the newest last."""

    waiting: tuple[WaitingGroup, ...] = ()
    stuck: tuple[StuckTask, ...] = ()
    counts: dict[str, int] = {}
    parts: tuple[PartUnknown, ...] = ()
    refused: tuple[RefusedMessage, ...] = ()


class FunctionRow(Struct, frozen=True, omit_defaults=True):
    """A function that is offered now, with how many nodes and slots it can run on at a time."""

    offer: FunctionOffer
    nodes: int
    slots: int
    mean_ms: float | None = None  # of one call or one item of a map; None before the first result


class FunctionsReply(Struct, frozen=True):
    """Everything offered over the fleet, by name."""

    functions: tuple[FunctionRow, ...]


class NodeRow(Struct, frozen=True, omit_defaults=True):
    """One line about a node. `score` is SPEC 1.5's, 0..1; `last_beat_s` and `due_s` are seconds ago and from now."""

    node: str
    state: NodeState
    boot: int = 0
    device_type: str = ""
    cores: float = 0.0
    cores_used: float = 0.0
    memory_mb: int = 0
    memory_used_mb: int = 0
    slots: int = 0
    held: int = 0
    score: float = 0.0
    battery_percent: float | None = None
    charging: bool | None = None
    mains: bool | None = None  # it has no battery
    thermal: str = ""
    network: str = ""
    last_beat_s: float | None = None
    due_s: float | None = None
    labels: dict[str, str] = {}
    pretending: bool = False
    version: str = ""
    clock_ahead_s: float | None = None  # its clock against the coordinator's; a beat's way makes it less
    bad_messages: int = 0  # that it refused
    outbox: int = 0  # results and outcomes that it keeps, since the broker has not taken them
    outbox_held: int = 0  # of them, those that it holds for a batch
    closed_for: str = ""  # why it takes no more work because of them
    outbox_since: float = 0.0  # by the node's clock, seconds since 1970
    harvest_state: str = ""  # of one that works only while nobody needs it (`harvest.HarvestState`)


class NodesReply(Struct, frozen=True):
    """A page of nodes, by id. `total` counts all pages."""

    nodes: tuple[NodeRow, ...]
    total: int
    page: int


class ScorePart(Struct, frozen=True, omit_defaults=True):
    """One part of a score: its value (0..1), its weight (they sum to 1), and why it is so."""

    name: str
    value: float
    weight: float
    reasons: tuple[str, ...] = ()


class HeldTask(Struct, frozen=True, omit_defaults=True):
    """An attempt at a node. `running` is what its last beat said, None before it said anything."""

    task: str
    placement: int
    priority: str = ""
    what: str = ""
    running: bool | None = None


class NodeInfo(Struct, frozen=True, omit_defaults=True):
    """Everything known of a node. `capabilities` and `state` carry the source of each value and the reason of each unknown.

    `fit_reasons`: why it takes no (or only some) work now, in words; empty when nothing stands against it.
    """

    row: NodeRow
    score: float
    parts: tuple[ScorePart, ...]
    capabilities: DeviceCapabilities
    state: DeviceState
    functions: tuple[FunctionOffer, ...] = ()
    kinds: tuple[str, ...] = ()
    held: tuple[HeldTask, ...] = ()
    fit_reasons: tuple[str, ...] = ()
    speed: float = 1.0  # how long the same work takes here against the fleet's mean: 2 is twice as long
    done: int = 0
    failed: int = 0
    first_seen: float = 0.0
    version: str = ""
    power_mode: str = ""
    limits: Limits | None = None  # what it holds its work to now
    harvest_state: str = ""
    enforced: Enforced = Enforced()
    reserved_for: str = ""


class TaskRow(Struct, frozen=True, omit_defaults=True):
    """One line about a task that has no result yet. `since` is when it came into its state."""

    task: str
    submitter: str
    state: str
    priority: str
    kind: str
    what: str
    node: str = ""
    placement: int = 0
    attempts: int = 0
    submitted_at: float = 0.0
    since: float = 0.0
    job: str = ""
    reason: str = ""


class TasksReply(Struct, frozen=True):
    """A page of tasks: highest priority first, then oldest. `total` counts all pages."""

    tasks: tuple[TaskRow, ...]
    total: int
    page: int


class Candidate(Struct, frozen=True, omit_defaults=True):
    """A node that was looked at for a placement, its score and the factors that made it (their product less `failed`)."""

    node: str
    score: float
    factors: dict[str, float] = {}
    chosen: bool = False


class Against(Struct, frozen=True):
    """What stands against a node for a task, in words; every filter that it fails."""

    node: str
    reasons: tuple[str, ...]


class Why(Struct, frozen=True, omit_defaults=True):
    """Why this node (`candidates`, as they were at `placed_at`), or why none (`failing`: by filter, how many of `nodes`
    fail it; `against`: the first few nodes with their reasons). `text` says it in one line."""

    text: str = ""
    placed_at: float = 0.0
    candidates: tuple[Candidate, ...] = ()
    nodes: int = 0
    failing: dict[str, int] = {}
    against: tuple[Against, ...] = ()


class TaskInfo(Struct, frozen=True, omit_defaults=True):
    """A task in full. For one that is done the state is its result's; its result itself is in FOG_RESULTS.

    `told_by`: on a node that spares its link or battery a task may have ended without that being known here; if it has, that
    is known then, with the node's next heartbeat (seconds since 1970). 0 where results come at once.
    """

    row: TaskRow
    needs: Needs = Needs()
    why: Why = Why()
    errors: tuple[AttemptError, ...] = ()
    retries_used: int = 0
    retry_limit: int = 0
    lost: int = 0
    deadline_at: float | None = None
    not_before: float = 0.0
    running: bool | None = None
    told_by: float = 0.0
