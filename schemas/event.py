"""What outside tools see: CloudEvents 1.0 in JSON, on ``fog.v1.event.<area>.<what>.<id>``, kept for replay.

`EVENTS` is the whole list: a type of event that is not in it cannot be made. The JSON Schemas and the AsyncAPI document
are generated from it. Ids are made from what happened (``<task>.<placement>.started``), so that saying an event again
(a successor, a retry) does not double it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from schemas.device import DeviceCapabilities
from schemas.task import AttemptError


class NodeEvent(Struct, frozen=True, gc=False, omit_defaults=True):
    """A node changed its state."""

    node: str
    boot: int = 0
    reason: str = ""


class NodeRegistered(Struct, frozen=True, omit_defaults=True):
    """A node came, or came back with other capabilities."""

    node: str
    boot: int
    capabilities: DeviceCapabilities
    labels: dict[str, str] = {}
    functions: tuple[str, ...] = ()


class NodePower(Struct, frozen=True, omit_defaults=True):
    """A node went from one power mode to another."""

    node: str
    boot: int
    power_mode: str
    was: str = ""
    thermal_state: str = ""


class NodePolicy(Struct, frozen=True, omit_defaults=True):
    """An operator's policy for a node: all of it."""

    node: str
    policy: dict[str, str] = {}


class TaskEvent(Struct, frozen=True, gc=False, omit_defaults=True):
    """A task changed its place or state. `moved_from`: the node that it was taken from."""

    task: str
    submitter: str
    node: str = ""
    placement: int = 0
    attempt: int = 0
    reason: str = ""
    moved_from: str = ""
    not_before: float = 0.0


class TaskEnded(Struct, frozen=True, gc=False, omit_defaults=True):
    """A task has its one result."""

    task: str
    submitter: str
    node: str = ""
    attempts: int = 0
    duration_ms: float = 0.0
    reason: str = ""
    exit_code: int | None = None
    items: int = 0
    input_bytes: int = 0
    errors: tuple[AttemptError, ...] = ()


class CoordinatorEvent(Struct, frozen=True, omit_defaults=True):
    """A coordinator took or gave up the lease."""

    coordinator: str
    term: int
    reason: str = ""


class HoldEvent(Struct, frozen=True, omit_defaults=True):
    """Many nodes fell silent at the same moment, so none is called lost, until `until` (seconds since 1970) at the latest;
    or that is over. `silent` of the `nodes` that should beat are silent now."""

    coordinator: str
    term: int
    silent: int = 0
    nodes: int = 0
    until: float = 0.0
    reason: str = ""


class RolloutEvent(Struct, frozen=True, omit_defaults=True):
    """A rollout went on, or ended. The figures count its devices."""

    rollout: str
    app: str
    version: str
    phase: str
    batch: int = 0
    healthy: int = 0
    failed: int = 0
    deferred: int = 0
    reason: str = ""


class AppEvent(Struct, frozen=True, omit_defaults=True):
    """A device took, failed at, or returned from a version."""

    node: str
    app: str
    version: str
    rollout: str
    order: int
    reason: str = ""


class ClusterEvent(Struct, frozen=True, omit_defaults=True):
    """A cluster came, changed or went. `size` counts its members; of many, the first 64 are named."""

    cluster: str
    size: int = 0
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    reason: str = ""


class PeerEvent(Struct, frozen=True, omit_defaults=True):
    """`node` asks `peer` for nothing for a while: under `digest`'s name, of `artifact`, it served something else."""

    cluster: str
    node: str
    peer: str
    artifact: str = ""
    digest: str = ""
    reason: str = ""


class LeaderEvent(Struct, frozen=True, omit_defaults=True):
    """A cluster has another leader, under a term that only grows; "" is nobody, as no member can lead now."""

    cluster: str
    leader: str
    term: int
    before: str = ""
    score: float = 0.0
    reason: str = ""


class DecisionEvent(Struct, frozen=True, omit_defaults=True):
    """A cluster was asked something, or has decided it (`verdict`: accepted, rejected, expired)."""

    cluster: str
    proposal: str
    text: str = ""
    verdict: str = ""
    yes: tuple[str, ...] = ()
    no: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    term: int = 0


class HarvestEvent(Struct, frozen=True, omit_defaults=True):
    """A device's session began or ended, or its work was suspended, resumed or handed back. `useful_s` is what it has worked in
    it until then."""

    node: str
    session: str
    state: str
    reason: str = ""
    useful_s: float = 0.0


EventData = (
    NodeEvent | NodeRegistered | NodePower | NodePolicy | TaskEvent | TaskEnded | CoordinatorEvent | HoldEvent | RolloutEvent
    | AppEvent | ClusterEvent | PeerEvent | LeaderEvent | DecisionEvent | HarvestEvent
)  # fmt: skip

EVENTS: dict[str, tuple[type, str]] = {
    "node.registered": (NodeRegistered, "a node joined, or came back"),
    "node.online": (NodeEvent, "a late or sleeping node is back"),
    "node.late": (NodeEvent, "a heartbeat is overdue"),
    "node.asleep": (NodeEvent, "a node announced a longer gap"),
    "node.draining": (NodeEvent, "a node takes no new work"),
    "node.left": (NodeEvent, "a node went by itself"),
    "node.lost": (NodeEvent, "a node is gone; its tasks move"),
    "node.refused": (NodeEvent, "a registration was refused"),
    "node.power-mode": (NodePower, "a node's power mode changed"),
    "node.outbox-full": (NodeEvent, "what a node keeps for the broker is at its bound: it takes no more work"),
    "node.outbox-room": (NodeEvent, "a node whose outbox was full takes work again"),
    "node.policy-set": (NodePolicy, "an operator set or reset a node's policy"),
    "fleet.held-back": (HoldEvent, "many nodes fell silent at once: none is called lost for now"),
    "fleet.hold-ended": (HoldEvent, "silence counts again"),
    "cluster.formed": (ClusterEvent, "a cluster came to be"),
    "cluster.changed": (ClusterEvent, "members joined or left a cluster"),
    "cluster.dissolved": (ClusterEvent, "a cluster is no more"),
    "cluster.leader-elected": (LeaderEvent, "a cluster has a new leader"),
    "cluster.peer-dropped": (PeerEvent, "a member serves chunks that are not what their name says"),
    "cluster.proposed": (DecisionEvent, "something was put to the vote of a cluster"),
    "cluster.decided": (DecisionEvent, "a proposal has its one outcome"),
    "task.queued": (TaskEvent, "a task waits for a free slot"),
    "task.waiting": (TaskEvent, "a task fits no known node, or backs off"),
    "task.assigned": (TaskEvent, "a task was stored in a node's queue"),
    "task.started": (TaskEvent, "a node started an attempt"),
    "task.attempt-failed": (TaskEvent, "an attempt failed; it may be tried again"),
    "task.returned": (TaskEvent, "a node gave a task back"),
    "task.lost": (TaskEvent, "an attempt went with its node"),
    "task.split": (TaskEvent, "a map chunk goes on in parts, each a task of its own"),
    "task.dead-lettered": (TaskEvent, "a task was given up after its attempts; it is kept, and can be submitted again"),
    "task.succeeded": (TaskEnded, "a task has its result"),
    "task.failed": (TaskEnded, "a task failed for good"),
    "task.cancelled": (TaskEnded, "a task was cancelled"),
    "task.expired": (TaskEnded, "a task missed its deadline"),
    "rollout.created": (RolloutEvent, "a rollout began"),
    "rollout.rolling": (RolloutEvent, "the next batch begins"),
    "rollout.gated": (RolloutEvent, "a batch is done, and judged"),
    "rollout.paused": (RolloutEvent, "an operator paused a rollout"),
    "rollout.catching-up": (RolloutEvent, "every batch is done; late devices still come"),
    "rollout.going-back": (RolloutEvent, "every touched device returns to what was good on it"),
    "rollout.succeeded": (RolloutEvent, "the version is the stable one now"),
    "rollout.failed": (RolloutEvent, "a rollout was stopped by its gates or its clock"),
    "rollout.aborted": (RolloutEvent, "an operator ended a rollout"),
    "rollout.superseded": (RolloutEvent, "a newer version replaced a rollout"),
    "app.told": (AppEvent, "a device was told to take a version"),
    "app.healthy": (AppEvent, "a version is healthy on a device"),
    "app.failed": (AppEvent, "a version failed on a device"),
    "app.returned": (AppEvent, "a device is back at what was good on it"),
    "harvest.session-started": (HarvestEvent, "a device began to lend itself"),
    "harvest.suspended": (HarvestEvent, "its owner, its charger or its heat stopped the work where it stood"),
    "harvest.resumed": (HarvestEvent, "the work goes on where it stood"),
    "harvest.handed-back": (HarvestEvent, "what ran and what waited is for others now"),
    "harvest.session-ended": (HarvestEvent, "the device is its owner's again"),
    "coordinator.elected": (CoordinatorEvent, "a coordinator acts from now on"),
    "coordinator.stopped": (CoordinatorEvent, "a coordinator gave up its lease"),
}


class CloudEvent(Struct, frozen=True, gc=False):
    """The envelope: CloudEvents 1.0, JSON format, structured mode. `subject` is the id that the event is about."""

    id: str
    source: str
    type: str
    time: str
    data: Any  # the Struct that EVENTS names for the type
    specversion: str = "1.0"
    subject: str = ""
    datacontenttype: str = "application/json"
    fogterm: int = 0


def rfc3339(at: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
