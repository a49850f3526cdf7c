"""What the rollouts want done. The shell does it in order; a compare-and-set that loses comes back as an event."""

from __future__ import annotations

from msgspec import Struct

from schemas.event import EventData
from schemas.rollout import Assignment
from schemas.rollout_state import Outcome, RolloutRecord


class Assign(Struct, frozen=True):
    """Write what a device is told if that is still at `revision` → `Assigned`, and then tell the device; on a conflict
    → `AssignmentFound`."""

    node: str
    assignment: Assignment
    revision: int


class Store(Struct, frozen=True):
    """Write a rollout's record if it is still at `revision` → `Stored`. A conflict ends the term: another one acts."""

    record: RolloutRecord
    revision: int


class StoreOutcome(Struct, frozen=True):
    """Write how a device ended. No answer."""

    rollout: str
    outcome: Outcome


class Look(Struct, frozen=True):
    """Read what a device is told: it knows of a later assignment than we do → `AssignmentFound`."""

    node: str
    app: str


class Ask(Struct, frozen=True):
    """Propose to a cluster that the rollout goes on → `Promoted`."""

    rollout: str
    cluster: str
    text: str


class Emit(Struct, frozen=True):
    """Say an event to outside tools; the same `key` is the same event."""

    kind: str
    about: str
    key: str
    data: EventData


Action = Assign | Store | StoreOutcome | Look | Ask | Emit
