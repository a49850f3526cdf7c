"""What clients ask about rollouts on ``api.rollout.<verb>``, and what is answered. Lists come in pages.

| subject | request | reply |
|---|---|---|
| ``api.rollout.plan`` | `PlanRequest` | `PlanReply`; nothing changes |
| ``api.rollout.create`` | `CreateRequest` | `RolloutRow`; the same `id` again is the same rollout |
| ``api.rollout.list`` | `RolloutsRequest` | `RolloutsReply`, the latest first |
| ``api.rollout.info`` | `RolloutRequest` | `RolloutInfo` |
| ``api.rollout.do`` | `DoRequest` | `RolloutRow` |
| ``api.rollout.gc`` | `GcRequest` | `GcReply` |
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.names import Id
from schemas.rollout import AppFigures, AppVersion, Strategy, Targets
from schemas.rollout_state import RolloutPhase, RolloutRecord, Stage

SUCCESS_AIM = 0.95  # of the devices attempted

PageNumber = Annotated[int, Meta(ge=0)]


class PlanRequest(Struct, frozen=True, omit_defaults=True):
    """Who would get this version, and who not."""

    version: AppVersion
    targets: Targets = Targets()
    strategy: Strategy = Strategy()
    page: PageNumber = 0


class PlanRow(Struct, frozen=True, omit_defaults=True):
    """One device: ``yes``, ``deferred`` (it will come by itself) or ``rejected``, with every reason. `running`: the version
    that it has now."""

    node: str
    verdict: str
    reasons: tuple[str, ...] = ()
    running: str = ""


class PlanReply(Struct, frozen=True, omit_defaults=True):
    """A page of the targets by id, the counts of all of them, and how large the first batch would be."""

    rows: tuple[PlanRow, ...]
    counts: dict[str, int] = {}
    first_batch: int = 0
    replaces: str = ""  # the rollout under way that this one would end
    more: bool = False


class CreateRequest(Struct, frozen=True, omit_defaults=True):
    """Begin a rollout. The version's artifact is in FOG_CHUNKS already; Refused (``incomplete``) when it is not whole there."""

    id: Id
    version: AppVersion
    targets: Targets = Targets()
    strategy: Strategy = Strategy()
    by: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,63}$")] = ""


class RolloutsRequest(Struct, frozen=True, omit_defaults=True):
    """Rollouts of one app, or of all."""

    app: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,63}$")] = ""
    page: PageNumber = 0


class RolloutRequest(Struct, frozen=True, omit_defaults=True):
    """Which rollout (or the latest of an app), and which page of its devices."""

    rollout: Id
    page: PageNumber = 0


class Do(StrEnum):
    """What an operator can have done with a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ABORT = "abort"
    ROLLBACK = "rollback"
    RETRY_FAILED = "retry-failed"


class DoRequest(Struct, frozen=True, omit_defaults=True):
    """Do it to a rollout (or the latest of an app)."""

    rollout: Id
    do: Do
    reason: Annotated[str, Meta(max_length=limits.REASON_MAX)] = ""


class RolloutRow(Struct, frozen=True, omit_defaults=True):
    """One rollout. `stages` counts its devices; `stable`: its version is the app's stable one."""

    id: str
    app: str
    version: str
    phase: RolloutPhase
    strategy: str
    batch: int
    created_at: float
    since: float
    stages: dict[str, int]
    reason: str = ""
    by: str = ""
    stable: bool = False


class RolloutsReply(Struct, frozen=True, omit_defaults=True):
    """A page of rollouts."""

    rows: tuple[RolloutRow, ...]
    more: bool = False


class DeviceRow(Struct, frozen=True, omit_defaults=True):
    """One device of a rollout, and what it last said of the app."""

    node: str
    stage: Stage
    batch: int = -1
    reason: str = ""
    phase: str = ""
    running: str = ""
    good: str = ""
    got_bytes: int = 0
    reused_bytes: int = 0
    figures: AppFigures = AppFigures()
    peer_bytes: int = 0


class RolloutFigures(Struct, frozen=True, omit_defaults=True):
    """What the devices that run the version measured, over `devices` of them: means, and the sums of what is counted.

    `error_share`: of all checks, those that failed; None while none was made. Latency is that of the checks.
    """

    devices: int = 0
    uptime_s: float = 0.0
    restarts: int = 0
    checks: int = 0
    checks_failed: int = 0
    error_share: float | None = None
    latency_ms: float = 0.0
    latency_max_ms: float = 0.0
    cpu_percent: float = 0.0
    memory_mb: float = 0.0


class RolloutInfo(Struct, frozen=True, omit_defaults=True):
    """A rollout with a page of its devices by id. `success_share`: of the devices attempted, how many are (or were, before it
    went back) healthy; `enough`: whether that is at least `SUCCESS_AIM`. `figures` come with the first page."""

    row: RolloutRow
    record: RolloutRecord
    devices: tuple[DeviceRow, ...]
    attempted: int = 0
    success_share: float | None = None  # unknown while none was attempted
    enough: bool | None = None
    figures: RolloutFigures = RolloutFigures()
    more: bool = False


class GcRequest(Struct, frozen=True, omit_defaults=True):
    """Remove now what the coordinator removes by itself an hour after nothing needs it."""


class GcReply(Struct, frozen=True, omit_defaults=True):
    """What was removed: `versions` as ``<app> <version>``, chunks and their bytes. `more`: ask again for the rest."""

    versions: tuple[str, ...] = ()
    chunks: int = 0
    bytes: int = 0
    more: bool = False
