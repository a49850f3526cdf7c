"""What can happen to the rollouts."""

from __future__ import annotations

from msgspec import Struct

from coordinator.core.rollouts.fit import Facts
from coordinator.core.rollouts.phases import Trigger
from schemas.rollout import AppReport, AppVersion, Assignment
from schemas.rollout_state import Outcome, RolloutRecord, RolloutSpec


class RolloutFound(Struct, frozen=True):
    """While taking over: a rollout of the bucket."""

    record: RolloutRecord
    revision: int


class OutcomeFound(Struct, frozen=True):
    """While taking over: how a device ended."""

    rollout: str
    outcome: Outcome


class AssignmentFound(Struct, frozen=True):
    """While taking over, or after a conflict: what a device is told, and the revision at which that is written (None, 0:
    nothing, ever)."""

    node: str
    app: str
    assignment: Assignment | None
    revision: int


class VersionDropped(Struct, frozen=True):
    """Nothing needs a version any more (see `garbage.py`), and it is no longer kept."""

    app: str
    version: str


class VersionFound(Struct, frozen=True):
    """A version that is stored: while taking over, and when one is added."""

    version: AppVersion


class RolloutDropped(Struct, frozen=True):
    """An old rollout was removed."""

    rollout: str


class TakenOver(Struct, frozen=True):
    """All that was stored is known: from now on this coordinator acts, under this term."""

    term: int


class Created(Struct, frozen=True):
    """An operator begins a rollout; its version is stored."""

    spec: RolloutSpec


class Asked(Struct, frozen=True):
    """An operator wants something of a rollout: PAUSE, RESUME, ABORT, ROLL_BACK, RETRY."""

    rollout: str
    trigger: Trigger
    reason: str = ""


class Promoted(Struct, frozen=True):
    """The gate that waits for somebody may open (an operator's promote, a cluster's majority), or must not."""

    rollout: str
    yes: bool = True
    reason: str = ""


class NodeSeen(Struct, frozen=True):
    """What is known of a device changed, and matters."""

    facts: Facts


class NodeGone(Struct, frozen=True):
    """A device was forgotten: it was away for very long."""

    node: str


class Reported(Struct, frozen=True):
    """A device says how it is with an app."""

    report: AppReport


class Assigned(Struct, frozen=True):
    """An assignment is written, at this revision."""

    node: str
    app: str
    order: int
    revision: int


class Stored(Struct, frozen=True):
    """A rollout's record is written, at this revision."""

    rollout: str
    revision: int


class Tick(Struct, frozen=True):
    """Time passed."""


Event = (
    RolloutFound | OutcomeFound | AssignmentFound | VersionFound | VersionDropped | RolloutDropped | TakenOver
    | Created | Asked | Promoted | NodeSeen | NodeGone | Reported | Assigned | Stored | Tick
)  # fmt: skip
