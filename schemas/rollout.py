"""Rollouts on the wire: what a version of an app is, how it is brought out, what one device is told and what it reports.

An **app** is what runs (or lies) on devices under one name; a **version** is one artifact of it with how to run it; a
**rollout** brings one version to many devices. A device is told one thing at a time: the `Assignment` under its name and the
app's in the bucket ``FOG_assigned``, whose `order` only grows. It answers with `AppReport`s.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from schemas import limits
from schemas.device import DeviceType, NetworkQuality
from schemas.errors import BadInput
from schemas.names import Id

Digest = Annotated[str, Meta(pattern=r"^sha256-[0-9a-f]{64}$")]
# Also part of a bucket's key: no two dots together, none at the end.
VERSION_PATTERN = r"^[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)*(?!\n)$"
Version = Annotated[
    str,
    Meta(
        pattern=VERSION_PATTERN, max_length=63, description="lower-case letters, digits, - and single dots, at most 63"
    ),
]
Port = Annotated[int, Meta(ge=1, le=65535)]
Share = Annotated[float, Meta(gt=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=limits.TIMEOUT_MAX_S)]
Argv = Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.ARGV_MAX)]


class Service(Struct, frozen=True, tag="service", forbid_unknown_fields=True, omit_defaults=True):
    """A process that stays up. It runs in the version's folder; ``{dir}`` in `argv` and `env` is that folder.

    `stop_s`: from SIGTERM to SIGKILL. After an end it is started again, `restart_s` later, doubled up to `restart_max_s`,
    and back to the first after it was up for ten times that. What it and its children use together: `memory_mb` ends it
    (``Memory allocation exceeded``), `cpu_percent` (of the whole device, all its cores) slows it down; 100 is no limit, and
    on Windows nothing is slowed down.
    """

    argv: Argv
    env: dict[str, str] = {}
    ports: tuple[Port, ...] = ()
    stop_s: Seconds = 5.0
    restart_s: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    restart_max_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    memory_mb: Annotated[int, Meta(ge=0)] = 0  # 0: only the device's own limit
    cpu_percent: Annotated[float, Meta(gt=0, le=100)] = 100.0


class DataOnly(Struct, frozen=True, tag="data", forbid_unknown_fields=True):
    """Files that tasks use by the app's name (a model). Healthy once installed and checked."""


class ProcessCheck(Struct, frozen=True, tag="process", forbid_unknown_fields=True):
    """Healthy while the process is up."""


class HttpCheck(Struct, frozen=True, tag="http", forbid_unknown_fields=True):
    """Healthy when ``GET http://127.0.0.1:<port><path>`` is answered with a status below 400."""

    port: Port
    path: Annotated[str, Meta(pattern=r"^/[!-~]{0,500}$")] = "/"


class TcpCheck(Struct, frozen=True, tag="tcp", forbid_unknown_fields=True):
    """Healthy when the port takes a connection."""

    port: Port


class CommandCheck(Struct, frozen=True, tag="command", forbid_unknown_fields=True):
    """Healthy when the command, run in the version's folder, ends with 0."""

    argv: Argv


class Health(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a device counts as healthy. Checked every `interval_s`, each try at most `timeout_s`.

    It must pass without a break (a restart is one) for `min_healthy_s`, within `healthy_deadline_s` of the start of the
    install; the rollout fails when no device became healthy for `progress_deadline_s`, counted from its creation.
    ``min_healthy_s < healthy_deadline_s < progress_deadline_s``.
    """

    check: ProcessCheck | HttpCheck | TcpCheck | CommandCheck = ProcessCheck()
    interval_s: Annotated[float, Meta(ge=0.1, le=3600)] = 2.0
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 5.0
    min_healthy_s: Seconds = 10.0
    healthy_deadline_s: Seconds = 300.0
    progress_deadline_s: Seconds = 600.0


def check_times(health: Health) -> None:
    """Raise BadInput unless ``min_healthy_s < healthy_deadline_s < progress_deadline_s``."""
    if not health.min_healthy_s < health.healthy_deadline_s:
        raise BadInput("health.healthy_deadline_s", f"must be more than min_healthy_s ({health.min_healthy_s:g})")
    if not health.healthy_deadline_s < health.progress_deadline_s:
        raise BadInput(
            "health.progress_deadline_s", f"must be more than healthy_deadline_s ({health.healthy_deadline_s:g})"
        )


class AppNeeds(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a device must have. What it *is* rejects it, how it is *now* defers it (SPEC 7.2).

    Rejecting: `cores` … `gpu`, `arch`, `device_types`, `frameworks`, `attestation`, `trust`, `encrypted_link`. Deferring:
    `battery_percent` (or charging), heat, a metered network (unless `metered`), `network` quality and `latency_ms` unless
    `offline_capable`, being offline.
    """

    cores: Annotated[float, Meta(ge=0, le=4096)] = 0.0
    clock_ghz: Annotated[float, Meta(ge=0, le=100)] = 0.0
    ram_mb: Annotated[int, Meta(ge=0)] = 0
    storage_mb: Annotated[int, Meta(ge=0)] = 0
    gpu: bool = False
    arch: tuple[str, ...] = ()
    device_types: tuple[DeviceType, ...] = ()
    frameworks: tuple[str, ...] = ()
    battery_percent: Annotated[float, Meta(ge=0, le=100)] = 20.0
    metered: bool = False
    network: NetworkQuality = NetworkQuality.POOR
    bandwidth_mbps: Annotated[float, Meta(ge=0)] = 0.0
    latency_ms: Annotated[float, Meta(ge=0)] = 0.0  # 0: any
    offline_capable: bool = False
    attestation: bool = False
    trust: Annotated[float, Meta(ge=0, le=1)] = 0.0
    encrypted_link: bool = False


class AppVersion(Struct, frozen=True, omit_defaults=True):
    """One version: its artifact (the digest of its manifest, see `artifact.py`), signed by `key`, and how it is run.

    `signature` (base64) signs ``<app>:<version>:<artifact>`` with the nkey `key`.
    """

    app: Id
    version: Version
    artifact: Digest
    artifact_bytes: Annotated[int, Meta(ge=0)]
    run: Service | DataOnly
    needs: AppNeeds = AppNeeds()
    health: Health = Health()
    key: Annotated[str, Meta(max_length=64)] = ""
    signature: Annotated[str, Meta(max_length=128)] = ""

    @property
    def starts_processes(self) -> bool:
        """Whether a device starts a process of it, as a service or to check it: only where its owner allows ``app``."""
        return isinstance(self.run, Service) or isinstance(self.health.check, CommandCheck)


class StrategyKind(StrEnum):
    """How a version is brought out (SPEC 7.3)."""

    CANARY = "canary"
    BLUE_GREEN = "blue-green"
    ROLLING = "rolling"


class Strategy(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The batches of a rollout and what stops it.

    *canary*: `canary_share` of the devices (at least one), then all. *blue-green*: half with the old version kept warm, then
    the other half. *rolling*: `max_concurrent` at a time, `between_s` apart. A batch is done when all that were attempted in
    it are healthy or failed; the gate after it is closed while unknown. The rollout stops when more than `max_failed_share`
    of at least `min_sample` *attempted* devices failed (deferred and offline ones are not attempted), or one did while
    fewer were attempted in the first batch of a canary. `promote`: go on after the canary by itself (else wait for an
    operator). Late and offline devices catch up until `catch_up_s` after the rollout's creation.
    """

    kind: StrategyKind = StrategyKind.CANARY
    canary_share: Share = 0.1
    max_concurrent: Annotated[int, Meta(ge=1, le=10_000)] = 5
    between_s: Seconds = 30.0
    max_failed_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    min_sample: Annotated[int, Meta(ge=1)] = 5
    promote: bool = True
    rollback_on_failure: bool = True
    catch_up_s: Seconds = 7 * 86_400.0
    decision_of: str = ""  # a cluster whose members' majority must agree before the version goes beyond the first batch


class Targets(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which devices: all that match every part that is given."""

    labels: Annotated[dict[str, str], Meta(max_length=limits.LABELS_MAX)] = {}
    nodes: tuple[Id, ...] = ()
    clusters: tuple[Id, ...] = ()


class Told(StrEnum):
    """What an `Assignment` asks of the device."""

    RUN = "run"  # install and run (or hold) this version, end the one before
    WARM = "warm"  # as RUN, and keep the version before running until SWITCH (blue-green)
    SWITCH = "switch"  # the version before may end
    REMOVE = "remove"  # end it, keep nothing


class Assignment(Struct, frozen=True, omit_defaults=True):
    """What one device is to have of one app. `order` is the number of the decision: a device ignores a lower one than it saw.

    In ``FOG_assigned`` under ``<node>.<app>``; the same bytes are the request on ``node.<node>.app``. `batch` (from 0) is that
    of the rollout, `at` when it was decided (seconds since 1970). `before` is the version that was last good here when the
    rollout came, to which the device returns by itself when this one fails. `back`: it is told to return to it.
    """

    app: Id
    order: Annotated[int, Meta(ge=1)]
    told: Told
    rollout: Id
    term: int = 0
    version: AppVersion | None = None
    batch: Annotated[int, Meta(ge=0)] = 0
    at: float = 0.0
    before: str = ""
    back: bool = False


class Phase(StrEnum):
    """Where a device is with its assignment."""

    DEFERRED = "deferred"  # its owner's policy, heat, battery, network: it will go on by itself
    DOWNLOADING = "downloading"
    INSTALLING = "installing"
    STARTING = "starting"  # up, and not yet healthy for long enough
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"  # was healthy, and is not now
    FAILED = "failed"  # given up; the version before runs again where there was one
    REMOVED = "removed"


class AppFigures(Struct, frozen=True, omit_defaults=True):
    """What a device measured of a running version since it started."""

    uptime_s: float = 0.0
    restarts: int = 0
    checks: int = 0
    checks_failed: int = 0
    latency_ms: float = 0.0  # of the checks, a moving average
    cpu_percent: float = 0.0  # of the whole device
    memory_mb: float = 0.0


class AppReport(Struct, frozen=True, omit_defaults=True):
    """On ``app.<node>.<app>``: on each change of phase, every `limits.APP_REPORT_S`, and after each registration.

    `order` is that of the assignment it is about, `running` the version that runs (or is held) at this moment, `good` the
    last one that was healthy here. `got_bytes` of `artifact_bytes` are here, of which `reused_bytes` were there before, and
    `peer_bytes` came from members of its clusters; the rest came from the store.
    """

    node: Id
    boot: Annotated[int, Meta(ge=1)]
    app: Id
    order: Annotated[int, Meta(ge=0)]
    phase: Phase
    version: str = ""
    running: str = ""
    good: str = ""
    reason: Annotated[str, Meta(max_length=limits.REASON_MAX)] = ""
    got_bytes: int = 0
    reused_bytes: int = 0
    figures: AppFigures = AppFigures()
    peer_bytes: int = 0
