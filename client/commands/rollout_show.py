"""How `fog rollout` shows plans, rollouts and their devices to a person."""

from __future__ import annotations

import time

from client import show
from client.artifacts import Progress
from client.rollouts import Plan
from schemas.rollout import Phase
from schemas.rollout_api import SUCCESS_AIM, DeviceRow, RolloutFigures, RolloutInfo, RolloutRow
from schemas.rollout_state import ENDED, RolloutPhase, Stage

ORDER = [stage.value for stage in Stage]
BAD = (Stage.FAILED, Stage.EXPIRED, Stage.BACK, Stage.RETURNING)
WAITS = "waits for somebody to agree: fog rollout promote"


def plan(found: Plan) -> None:
    """Every target with all that stands against it, and the sum."""
    print(
        f"{found.app} {found.version}: {show.size(found.artifact_bytes)}, {show.size(found.send_bytes)} of it are not in "
        f"the store yet"
    )
    rows = [(row.node, row.verdict, row.running, "; ".join(row.reasons)) for row in found.rows]
    show.print_table(("NODE", "VERDICT", "HAS", "WHY"), rows, empty="no node is a target")
    print(f"\n{_counts(found.counts)}; first batch: {found.first_batch}")
    if found.replaces:
        print(f"it would replace {found.replaces}, which is under way")


def applied(row: RolloutRow, sent: Progress) -> None:
    """What was begun."""
    there = f"; {show.size(sent.reused_bytes)} were there already" if sent.reused_bytes else ""
    print(f"{row.id}: {row.app} {row.version} ({row.strategy}), {show.size(sent.sent_bytes)} sent{there}", flush=True)


def rows(found: list[RolloutRow]) -> None:
    """One line each."""
    show.print_table(
        ("ROLLOUT", "APP", "VERSION", "PHASE", "STRATEGY", "BEGAN", "DEVICES", "REASON"),
        [
            (r.id, r.app, r.version + (" (stable)" if r.stable else ""), r.phase.value, r.strategy, show.clock(r.created_at),
             _stages(r), r.reason)
            for r in found
        ],
        empty="there is no rollout",
    )  # fmt: skip


def latest(found: list[RolloutRow]) -> list[RolloutRow]:
    """Those under way, and the latest of each app."""
    apps: set[str] = set()
    kept = []
    for row in found:
        if row.app not in apps or row.phase not in ENDED:
            kept.append(row)
        apps.add(row.app)
    return kept


def info(found: RolloutInfo) -> None:
    """A rollout with its devices."""
    row, record = found.row, found.record
    version = record.spec.version
    show.print_fields([
        ("rollout", row.id), ("app", row.app), ("version", row.version + (" (stable)" if row.stable else "")),
        ("phase", f"{row.phase.value} for {show.ago(row.since)}"), ("waits", _waits(found)), ("reason", row.reason),
        ("strategy", row.strategy), ("batch", row.batch + 1), ("began", show.clock(row.created_at)), ("by", row.by),
        ("artifact", f"{version.artifact} ({show.size(version.artifact_bytes)})"), ("signed by", version.key),
        ("healthy", _share(found)), ("devices", _stages(row)), ("measured", _measured(found.figures)),
    ])  # fmt: skip
    print()
    devices(found.devices)


def _share(found: RolloutInfo) -> str:
    if found.success_share is None:
        return ""
    aim = f"the aim of {SUCCESS_AIM:.0%} is {'reached' if found.enough else 'missed'}"
    return f"{found.success_share:.1%} of {found.attempted} attempted: {aim}"


def _measured(f: RolloutFigures) -> str:
    """The mean of the devices; "" while none measured anything."""
    if not f.checks:
        return ""
    return (
        f"on {f.devices} devices: up {show.span(f.uptime_s)}, {f.restarts} restarts, {f.error_share or 0:.1%} of {f.checks} "
        f"checks failed, latency {show.span(f.latency_ms / 1000)} (at most {show.span(f.latency_max_ms / 1000)}), "
        f"CPU {f.cpu_percent:.0f} %, memory {f.memory_mb:.0f} MiB"
    )


def devices(found: tuple[DeviceRow, ...]) -> None:
    """What each device does and measures."""
    show.print_table(
        ("NODE", "STAGE", "BATCH", "DOES", "HAS", "GOOD", "BYTES", "REUSED", "FROM PEERS", "UP", "RESTARTS",
         "CHECKS", "LATENCY", "CPU", "MEMORY", "WHY"),
        [_device(d) for d in found],
        empty="no device is part of it",
    )  # fmt: skip


def _device(d: DeviceRow) -> tuple[object, ...]:
    f = d.figures
    checks = f"{f.checks - f.checks_failed}/{f.checks}" if f.checks else ""
    measured = (
        show.span(f.uptime_s or None), f.restarts or "", checks, show.span(f.latency_ms / 1000 or None),
        f"{f.cpu_percent:.0f} %" if f.cpu_percent else "", f"{f.memory_mb:.0f} MiB" if f.memory_mb else "",
    )  # fmt: skip
    batch = d.batch + 1 if d.batch >= 0 else ""
    sizes = (show.size(n) if n else "" for n in (d.got_bytes, d.reused_bytes, d.peer_bytes))
    return d.node, d.stage.value, batch, d.phase, d.running, d.good, *sizes, *measured, d.reason


def line(found: RolloutInfo) -> None:
    """Where it is now, in one line."""
    row = found.row
    told = "  ".join(filter(None, (_stages(row), _waits(found), row.reason)))
    print(f"{time.strftime('%H:%M:%S')}  {row.phase.value:<11}  batch {row.batch + 1}  {told}".rstrip(), flush=True)


def ended(found: RolloutInfo) -> None:
    """The end of a watch: how it went, and the devices that have a story."""
    row = found.row
    bad = tuple(d for d in found.devices if d.stage in BAD or d.phase == Phase.FAILED.value)
    if bad:
        show.print_table(
            ("NODE", "STAGE", "HAS", "WHY"), [(d.node, d.stage.value, d.running, d.reason) for d in bad], empty=""
        )
    late = sum(row.stages.get(stage.value, 0) for stage in (Stage.DEFERRED,))
    if row.phase is RolloutPhase.CATCHING_UP and late:
        print(f"{late} devices come later, by themselves: `fog rollout status {row.id}` says why")


def words(row: RolloutRow) -> str:
    """One line about it."""
    return f"{row.id}: {row.app} {row.version}, {row.phase.value}; {_stages(row) or 'no device is part of it yet'}"


def _waits(found: RolloutInfo) -> str:
    strategy, record = found.record.spec.strategy, found.record
    asks = not strategy.promote or strategy.decision_of
    return WAITS if record.phase is RolloutPhase.GATED and record.batch == 0 and asks and not record.agreed else ""


def _stages(row: RolloutRow) -> str:
    return ", ".join(f"{row.stages[name]} {name}" for name in ORDER if row.stages.get(name))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
