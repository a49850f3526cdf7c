"""What is kept of a rollout in the bucket ``FOG_rollouts``: the rollout under its id, each device's end under ``<id>.<node>``.

What a device was *told* lies in ``FOG_assigned`` alone (`rollout.Assignment`), so that there is one truth about it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.names import Id
from schemas.rollout import AppVersion, Strategy, Targets

Reason = Annotated[str, Meta(max_length=limits.REASON_MAX)]


class RolloutPhase(StrEnum):
    """Where a rollout is."""

    ROLLING = "rolling"  # the devices of a batch are being brought to the version
    GATED = "gated"  # a batch is done, and the gate after it is not open (yet)
    PAUSED = "paused"  # by an operator: nobody new is told
    CATCHING_UP = "catching-up"  # every batch is done; who was deferred or offline still comes
    GOING_BACK = "going-back"  # every touched device is brought back to what was good on it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"  # a newer version replaced it


ENDED = frozenset({RolloutPhase.SUCCEEDED, RolloutPhase.FAILED, RolloutPhase.ABORTED, RolloutPhase.SUPERSEDED})


class Stage(StrEnum):
    """Where one device of a rollout is."""

    WAITING = "waiting"  # it fits, and its batch has not come
    DEFERRED = "deferred"  # battery, heat, metered, offline: it comes by itself when that passes
    REJECTED = "rejected"  # it does not fit
    TOLD = "told"  # it has its assignment and is on its way
    HEALTHY = "healthy"
    FAILED = "failed"
    RETURNING = "returning"  # it was told to go back
    BACK = "back"  # it has what was good on it before
    EXPIRED = "expired"  # it did not come in time


class RolloutSpec(Struct, frozen=True, omit_defaults=True):
    """What was asked for. `by`: the submitter. `created_at` in seconds since 1970, by the coordinator's clock."""

    id: Id
    version: AppVersion
    targets: Targets = Targets()
    strategy: Strategy = Strategy()
    by: str = ""
    created_at: float = 0.0


class RolloutRecord(Struct, frozen=True, omit_defaults=True):
    """A rollout as it is kept.

    `batch` counts from 0; `quota` is how many devices that batch takes (0: not decided yet). `since`: when the phase began.
    `progress_at`: when a device last became healthy, or the clock was set anew (creation, promote, resume). `paused` is the
    phase to which a resume returns, `ends_as` the one in which going back ends. `agreed`: the gate that needs an operator or
    a cluster's decision is open. `retried_at`: when its failed devices were last taken up again. When it began to go
    back, `healthy` of `attempted` devices were well.
    """

    spec: RolloutSpec
    phase: RolloutPhase = RolloutPhase.ROLLING
    batch: int = 0
    quota: int = 0
    since: float = 0.0
    progress_at: float = 0.0
    agreed: bool = False
    paused: RolloutPhase | None = None
    ends_as: RolloutPhase | None = None
    attempted: int = 0
    healthy: int = 0
    reason: Reason = ""
    retried_at: float = 0.0


class Outcome(Struct, frozen=True, omit_defaults=True):
    """How one device ended in a rollout: HEALTHY, FAILED or BACK, at which `order`, and why. `failed`: what was brought out
    failed on it, though it is BACK since."""

    node: Id
    stage: Stage
    order: int
    batch: int = 0
    at: float = 0.0
    reason: Reason = ""
    failed: bool = False
