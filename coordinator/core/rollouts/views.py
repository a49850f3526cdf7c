"""What the API tells of the rollouts. Nothing here changes anything."""

from __future__ import annotations

from statistics import fmean

from coordinator.core.rollouts import batches
from coordinator.core.rollouts.fit import is_target, judge
from coordinator.core.rollouts.state import Device, Rollout, Rollouts
from schemas import rollout_api as api
from schemas.limits import PAGE
from schemas.rollout_state import ENDED, RolloutPhase, Stage


def find(state: Rollouts, name: str) -> Rollout | None:
    """A rollout by its id, or the latest of the app of that name."""
    return state.rollouts.get(name) or state.current.get(name)


def row(state: Rollouts, rollout: Rollout) -> api.RolloutRow:
    """One line."""
    record, spec = rollout.record, rollout.record.spec
    stages = {stage.value: len(found) for stage, found in rollout.by_stage.items() if found}
    return api.RolloutRow(
        spec.id, rollout.app, spec.version.version, record.phase, spec.strategy.kind.value, record.batch, spec.created_at,
        record.since, stages, record.reason, spec.by,
        record.phase is RolloutPhase.SUCCEEDED and state.stable(rollout.app) is spec.version,
    )  # fmt: skip


def rows(state: Rollouts, ask: api.RolloutsRequest) -> api.RolloutsReply:
    """A page, the latest first."""
    found = [r for r in state.rollouts.values() if not ask.app or r.app == ask.app]
    found.sort(key=lambda r: (-r.record.spec.created_at, r.id))
    begin = ask.page * PAGE
    some = found[begin : begin + PAGE]
    return api.RolloutsReply(tuple(row(state, r) for r in some), begin + PAGE < len(found))


def info(state: Rollouts, rollout: Rollout, page: int) -> api.RolloutInfo:
    """One rollout with a page of its devices."""
    names = sorted(rollout.devices)
    begin = page * PAGE
    devices = tuple(_device(state, rollout, rollout.devices[name]) for name in names[begin : begin + PAGE])
    healthy, attempted = _tried(rollout)
    share = healthy / attempted if attempted else None
    return api.RolloutInfo(
        row(state, rollout), rollout.record, devices, attempted, share, None if share is None else share >= api.SUCCESS_AIM,
        api.RolloutFigures() if page else figures(state, rollout), begin + PAGE < len(names),
    )  # fmt: skip


def _tried(rollout: Rollout) -> tuple[int, int]:
    """``(healthy, attempted)``, of one that went back as it was before that."""
    if rollout.record.attempted:
        return rollout.record.healthy, rollout.record.attempted
    return rollout.count(Stage.HEALTHY), rollout.count(Stage.HEALTHY, Stage.FAILED)


def figures(state: Rollouts, rollout: Rollout) -> api.RolloutFigures:
    """What those that run its version measured."""
    version = rollout.record.spec.version.version
    said = [state.reports.get((node, rollout.app)) for node in rollout.devices]
    found = [report.figures for report in said if report is not None and report.running == version]
    if not found:
        return api.RolloutFigures()
    checks, failed = sum(f.checks for f in found), sum(f.checks_failed for f in found)
    return api.RolloutFigures(
        len(found), round(fmean(f.uptime_s for f in found), 1), sum(f.restarts for f in found), checks, failed,
        failed / checks if checks else None, round(fmean(f.latency_ms for f in found), 2),
        max(f.latency_ms for f in found), round(fmean(f.cpu_percent for f in found), 1),
        round(fmean(f.memory_mb for f in found), 1),
    )  # fmt: skip


def _device(state: Rollouts, rollout: Rollout, device: Device) -> api.DeviceRow:
    said = state.reports.get((device.node, rollout.app))
    if said is None:
        return api.DeviceRow(device.node, device.stage, device.batch, device.reason)
    return api.DeviceRow(
        device.node, device.stage, device.batch, device.reason or said.reason, said.phase.value, said.running, said.good,
        said.got_bytes, said.reused_bytes, said.figures, said.peer_bytes,
    )  # fmt: skip


def plan(state: Rollouts, ask: api.PlanRequest) -> api.PlanReply:
    """Every target with what stands against it, as it is now."""
    counts = {"yes": 0, "deferred": 0, "rejected": 0}
    found = []
    for name in sorted(state.nodes):
        facts = state.nodes[name]
        if not is_target(ask.targets, facts):
            continue
        fit = judge(ask.version, facts)
        verdict = "rejected" if fit.rejected else "deferred" if fit.deferred else "yes"
        counts[verdict] += 1
        running = state.reports.get((name, ask.version.app))
        reasons = fit.rejected + fit.deferred
        found.append(api.PlanRow(name, verdict, reasons, running.running if running else ""))
    left = counts["yes"] + counts["deferred"]
    old = state.current.get(ask.version.app)
    begin = ask.page * PAGE
    return api.PlanReply(
        tuple(found[begin : begin + PAGE]),
        counts,
        min(batches.quota(ask.strategy, 0, left), counts["yes"]) if left else 0,
        old.id if old is not None and old.phase not in ENDED else "",
        begin + PAGE < len(found),
    )
