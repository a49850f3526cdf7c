"""One device of a rollout: whether it may take the version, what it is told, what its reports mean.

A report counts only for the assignment that it is about (`order`). A device that its owner's policy, heat or battery holds
back is *deferred*, told or not, and never counts as failed for it.
"""

from __future__ import annotations

from coordinator.core.rollouts import batches
from coordinator.core.rollouts.actions import Assign, Emit, StoreOutcome
from coordinator.core.rollouts.fit import OFFLINE, Facts, is_target, judge
from coordinator.core.rollouts.state import Device, Out, Rollout, Rollouts
from schemas import limits
from schemas.event import AppEvent
from schemas.rollout import AppReport, AppVersion, Assignment, Phase, Told
from schemas.rollout_state import Outcome, Stage

SLACK_S = 15.0  # a device that is slower to say so than its deadline, by this much, is not called failed

UNTOLD = (Stage.WAITING, Stage.DEFERRED, Stage.REJECTED, Stage.EXPIRED)
ON_ITS_WAY = (Phase.DOWNLOADING, Phase.INSTALLING, Phase.STARTING, Phase.UNHEALTHY)


def consider(rollout: Rollout, facts: Facts, now: float) -> bool:
    """Sort a device in by how it is now, unless it was told already. Whether that changed anything."""
    spec = rollout.record.spec
    device = rollout.devices.get(facts.node)
    if device is not None and (device.order or device.stage not in UNTOLD):
        return False
    if not is_target(spec.targets, facts):
        if device is not None:
            rollout.drop(device)
        return device is not None
    fit = judge(spec.version, facts)
    stage = Stage.REJECTED if fit.rejected else Stage.DEFERRED if fit.deferred else Stage.WAITING
    reason = "; ".join(fit.rejected or fit.deferred)[: limits.REASON_MAX]
    if device is None:
        device = Device(facts.node, stage, now)
        device.reason = reason
        rollout.add(device)
    elif device.stage is not stage or device.reason != reason:
        rollout.move(device, stage, now, reason)
    else:
        return False
    return True


def tell(state: Rollouts, rollout: Rollout, device: Device, batch: int, now: float, out: Out) -> bool:
    """Have a waiting device told to take the version. False while something else is being written for it."""
    told = state.told_of(device.node, rollout.app)
    if told.writing:
        return False
    version = rollout.record.spec.version
    before = state.good_on(device.node, rollout.app)
    device.before, device.heard, device.failed = "" if before == version.version else before, False, False
    rollout.move(device, Stage.TOLD, now, batch=batch)
    _assign(state, rollout, device, batches.told(rollout.record.spec.strategy), version, now, out)
    return True


def switch(state: Rollouts, rollout: Rollout, device: Device, now: float, out: Out) -> None:
    """The version before, kept warm until now, may end."""
    told = state.told_of(device.node, rollout.app)
    if told.writing:
        return
    del rollout.warm[device.node]
    if told.assignment is not None and told.assignment.told is Told.WARM:
        _assign(state, rollout, device, Told.SWITCH, rollout.record.spec.version, now, out)


def send_back(state: Rollouts, rollout: Rollout, device: Device, now: float, out: Out) -> bool:
    """Have a device told to return to what was good on it; it removes the app where nothing was. False: not yet."""
    told = state.told_of(device.node, rollout.app)
    if told.writing:
        return False
    version = state.versions.get((rollout.app, device.before)) if device.before else None
    device.heard = False
    _assign(state, rollout, device, Told.RUN if version else Told.REMOVE, version, now, out, back=True)
    return True


def _assign(
    state: Rollouts, rollout: Rollout, device: Device, what: Told, version: AppVersion | None, now: float, out: Out,
    *, back: bool = False,
) -> None:  # fmt: skip
    told = state.told_of(device.node, rollout.app)
    device.order = told.order + 1
    assignment = Assignment(
        rollout.app, device.order, what, rollout.id, state.term, version, device.batch, now, device.before, back
    )
    told.assignment, told.writing = assignment, True
    if what is Told.WARM:
        rollout.warm[device.node] = None
    out.append(Assign(device.node, assignment, told.revision))
    if what is not Told.SWITCH:
        say(rollout, device, "told", "to return" if back else "", out)


def heard(rollout: Rollout, device: Device, report: AppReport, now: float, out: Out) -> None:
    """What a device's report on its assignment means."""
    if not device.order or report.order != device.order:
        return
    device.heard = True
    phase, stage = report.phase, device.stage
    if stage is Stage.RETURNING:
        _heard_returning(rollout, device, report, now, out)
    elif stage in (Stage.BACK, Stage.EXPIRED):
        return
    elif phase is Phase.HEALTHY and stage is not Stage.HEALTHY:
        end(rollout, device, Stage.HEALTHY, "", now, out)
        rollout.progress(now)
    elif phase is Phase.FAILED and stage is not Stage.FAILED:
        end(rollout, device, Stage.FAILED, report.reason or "it says so", now, out)
    elif phase is Phase.DEFERRED and stage in (Stage.TOLD, Stage.DEFERRED):
        rollout.move(device, Stage.DEFERRED, now, report.reason)
    elif phase in ON_ITS_WAY and stage in (Stage.DEFERRED, Stage.HEALTHY):
        rollout.move(device, Stage.TOLD, now, report.reason)  # its time begins anew: a break resets what was healthy


def _heard_returning(rollout: Rollout, device: Device, report: AppReport, now: float, out: Out) -> None:
    if report.phase is Phase.REMOVED or (report.phase is Phase.HEALTHY and report.running == device.before):
        end(rollout, device, Stage.BACK, device.reason, now, out)  # why it had to return
    elif report.phase is Phase.FAILED:
        end(rollout, device, Stage.FAILED, f"could not return: {report.reason}", now, out)


def end(rollout: Rollout, device: Device, stage: Stage, reason: str, now: float, out: Out) -> None:
    """A device is healthy, failed or back: said, and kept."""
    reason = reason[: limits.REASON_MAX]
    device.failed = stage is Stage.FAILED or (device.failed and stage is Stage.BACK)
    rollout.move(device, stage, now, reason)
    outcome = Outcome(device.node, stage, device.order, device.batch, now, reason, device.failed)
    out.append(StoreOutcome(rollout.id, outcome))
    word = {Stage.HEALTHY: "healthy", Stage.FAILED: "failed", Stage.BACK: "returned"}[stage]
    say(rollout, device, word, reason, out)


def overdue(state: Rollouts, rollout: Rollout, now: float, out: Out) -> None:
    """Devices that should have said how it went. One that took the assignment and fell silent failed; one that never heard
    of it is offline, and comes later."""
    deadline_s = rollout.record.spec.version.health.healthy_deadline_s + SLACK_S
    for device in [d for d in rollout.by_stage[Stage.TOLD].values() if now - d.since > deadline_s]:
        facts = state.nodes.get(device.node)
        online = facts is not None and facts.online
        if device.heard or online:
            why = "not healthy in time" if online else "silent since it took the version"
            end(rollout, device, Stage.FAILED, f"{why}: {deadline_s:.0f} s", now, out)
        else:
            rollout.move(device, Stage.DEFERRED, now, OFFLINE)


def say(rollout: Rollout, device: Device, what: str, reason: str, out: Out) -> None:
    """Tell outside tools."""
    version = rollout.record.spec.version
    data = AppEvent(device.node, rollout.app, version.version, rollout.id, device.order, reason)
    out.append(Emit(f"app.{what}", device.node, f"{rollout.id}.{device.node}.{device.order}.{what}", data))
