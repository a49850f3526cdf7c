"""The rollouts' machine: `step` takes an event and answers with actions.

Taking over: `VersionFound`, `RolloutFound`, `OutcomeFound` and `AssignmentFound` for what is stored, then `TakenOver`;
`NodeSeen` and `Reported` correct what was believed. Every event may come twice or late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import structs

from coordinator.core.rollouts import again, devices, events
from coordinator.core.rollouts.actions import Action, Look
from coordinator.core.rollouts.advance import advance, say, trigger
from coordinator.core.rollouts.fit import Facts
from coordinator.core.rollouts.phases import TABLE, Trigger
from coordinator.core.rollouts.state import Device, Out, Rollout, Rollouts
from schemas.rollout import Assignment, Told
from schemas.rollout_state import ENDED, Outcome, RolloutPhase, RolloutRecord, Stage

SETTLED = (Stage.HEALTHY, Stage.FAILED, Stage.BACK)
Handler = Callable[[Rollouts, Any, float, Out], None]


def step(state: Rollouts, event: events.Event, now: float) -> list[Action]:
    """Take one event; `now` is seconds since 1970 and never goes back."""
    out: Out = []
    HANDLERS[type(event)](state, event, now, out)
    return out


# What is stored.


def _rollout_found(state: Rollouts, event: events.RolloutFound, _now: float, _out: Out) -> None:
    rollout = Rollout(event.record, event.revision)
    state.rollouts[rollout.id] = rollout


def _outcome_found(state: Rollouts, event: events.OutcomeFound, _now: float, _out: Out) -> None:
    state.outcomes.setdefault(event.rollout, {})[event.outcome.node] = event.outcome


def _version_found(state: Rollouts, event: events.VersionFound, _now: float, _out: Out) -> None:
    state.versions[event.version.app, event.version.version] = event.version


def _version_dropped(state: Rollouts, event: events.VersionDropped, _now: float, _out: Out) -> None:
    state.versions.pop((event.app, event.version), None)


def _rollout_dropped(state: Rollouts, event: events.RolloutDropped, _now: float, _out: Out) -> None:
    state.rollouts.pop(event.rollout, None)


def _assignment_found(state: Rollouts, event: events.AssignmentFound, now: float, out: Out) -> None:
    """What a device is told, as it is stored. After a conflict: what we believed to have told it, we did not."""
    told, stored = state.told_of(event.node, event.app), event.assignment
    known = told.order
    told.assignment, told.revision, told.writing = stored, event.revision, False
    if not state.term or event.app not in state.current:
        return
    by_it = [r for r in state.working(event.app) if stored is not None and r.id == stored.rollout]
    rollout = by_it[0] if by_it else state.current[event.app]
    device = rollout.devices.get(event.node)
    if stored is not None and by_it and stored.order > known and (device is None or device.order < stored.order):
        _adopt(rollout, event.node, stored, now)  # a write of the coordinator before, that was still on its way
        if (said := state.reports.get((event.node, event.app))) is not None:  # perhaps that is how it is known of
            devices.heard(rollout, rollout.devices[event.node], said, now, out)
    elif device is not None and device.order != told.order:
        if device.stage is Stage.TOLD:
            device.order = 0
            rollout.move(device, Stage.WAITING, now, device.reason)
        elif device.stage is Stage.RETURNING:
            rollout.to_return[device.node] = None
    advance(state, rollout, now, out)


def _adopt(rollout: Rollout, node: str, stored: Assignment, now: float) -> None:
    """Believe what is stored."""
    device = rollout.devices.get(node)
    if device is not None:
        rollout.drop(device)
    rollout.to_return.pop(node, None)
    device = _restore(rollout, node, stored)
    if rollout.phase is RolloutPhase.GOING_BACK and not stored.back:
        rollout.move(device, Stage.RETURNING, now)
        rollout.to_return[node] = None


def _taken_over(state: Rollouts, event: events.TakenOver, now: float, _out: Out) -> None:
    state.term = event.term
    for rollout in sorted(state.rollouts.values(), key=Rollout.age):
        state.current[rollout.app] = rollout
    for (node, _), told in state.told.items():
        if told.assignment is not None and (found := state.rollouts.get(told.assignment.rollout)) is not None:
            _restore(found, node, told.assignment)
    for rollout in state.rollouts.values():
        for outcome in state.outcomes.get(rollout.id, {}).values():
            _restore_outcome(rollout, outcome)
        again.restore(rollout)
        if rollout.phase is RolloutPhase.GOING_BACK:
            _restore_return(state, rollout, now)
    state.outcomes.clear()


def _restore(rollout: Rollout, node: str, stored: Assignment) -> Device:
    device = Device(node, Stage.RETURNING if stored.back else Stage.TOLD, stored.at)
    device.order, device.batch, device.before = stored.order, stored.batch, stored.before
    if stored.told is Told.WARM:
        rollout.warm[node] = None
    return rollout.add(device)


def _restore_outcome(rollout: Rollout, outcome: Outcome) -> None:
    """How a device ended, unless it was told something since."""
    device = rollout.devices.get(outcome.node)
    if device is None:  # another rollout has told it something since: kept for the record
        device = Device(outcome.node, outcome.stage, outcome.at)
        device.order, device.batch, device.reason = outcome.order, outcome.batch, outcome.reason
        device.failed = outcome.failed
        rollout.add(device)
    elif outcome.order == device.order or (not device.heard and _is_switched(device, outcome)):
        rollout.move(device, outcome.stage, outcome.at, outcome.reason)
        device.failed = outcome.failed
    elif device.stage is Stage.RETURNING and outcome.order == device.order - 1:
        device.failed = outcome.failed  # that is why it was told to return


def _is_switched(device: Device, outcome: Outcome) -> bool:
    """Whether the device was only told, since that outcome, that the version before may end."""
    return device.stage is Stage.TOLD and outcome.stage is Stage.HEALTHY and outcome.order == device.order - 1


def _restore_return(state: Rollouts, rollout: Rollout, now: float) -> None:
    """Those that were not told to go back yet, when the term before ended."""
    for device in list(rollout.devices.values()):
        stored = state.told_of(device.node, rollout.app).assignment
        if stored is not None and stored.rollout == rollout.id and not stored.back:
            rollout.move(device, Stage.RETURNING, now, device.reason)
            rollout.to_return[device.node] = None


# What operators want.


def _created(state: Rollouts, event: events.Created, now: float, out: Out) -> None:
    spec = event.spec
    old, working = state.current.get(spec.version.app), state.working(spec.version.app)
    if spec.id in state.rollouts or (old is not None and old.phase is RolloutPhase.GOING_BACK):
        return
    state.versions[spec.version.app, spec.version.version] = spec.version
    rollout = Rollout(RolloutRecord(structs.replace(spec, created_at=now), since=now, progress_at=now), 0)
    state.rollouts[rollout.id] = state.current[rollout.app] = rollout
    rollout.save(out, rollout.record)
    say(rollout, "created", out)
    for earlier in working:
        _replace(earlier, spec.version.version, now, out)
    for facts in state.nodes.values():
        devices.consider(rollout, facts, now)


def _replace(old: Rollout, version: str, now: float, out: Out) -> None:
    """A newer rollout takes over what was not told yet, and every device as its turn comes."""
    for device in [d for d in old.devices.values() if not d.order]:
        old.drop(device)
    trigger(old, Trigger.NEWER, f"{version} replaced it", now, out)  # or once the write under way is confirmed


def _asked(state: Rollouts, event: events.Asked, now: float, out: Out) -> None:
    rollout = state.rollouts.get(event.rollout)
    if rollout is None or state.current.get(rollout.app) is not rollout:
        return
    if rollout.storing:
        rollout.asks.append((event.trigger, event.reason))
        return
    if event.trigger is Trigger.RETRY:
        if Trigger.RETRY not in TABLE[rollout.phase] or not again.failed(rollout):
            return
        again.begin(rollout, state.nodes.values(), now)
    trigger(rollout, event.trigger, event.reason, now, out)


def _promoted(state: Rollouts, event: events.Promoted, now: float, out: Out) -> None:
    rollout = state.rollouts.get(event.rollout)
    if rollout is None or rollout.storing or rollout.phase is not RolloutPhase.GATED:
        return
    if event.yes:
        rollout.save(out, structs.replace(rollout.record, agreed=True, progress_at=now))
    else:
        back = rollout.record.spec.strategy.rollback_on_failure
        trigger(rollout, Trigger.FAIL_AND_RETURN if back else Trigger.FAIL, event.reason or "not agreed", now, out)


# What devices do.


def _node_seen(state: Rollouts, event: events.NodeSeen, now: float, out: Out) -> None:
    state.nodes[event.facts.node] = event.facts
    for app in state.current:
        _consider(state, app, event.facts, now, out)


def _consider(state: Rollouts, app: str, facts: Facts, now: float, out: Out) -> None:
    """Sort a device into the rollout that is open to it, if one is."""
    current, rollout = state.current[app], state.working(app)[-1]
    if rollout.phase is RolloutPhase.GOING_BACK or _is_over(rollout):
        return
    if rollout is not current and current.holds(facts.node):
        return  # it failed there, or has yet to return: an operator's, or the next report's
    if devices.consider(rollout, facts, now):
        advance(state, rollout, now, out)


def _stand_in(state: Rollouts, app: str, now: float, out: Out) -> None:
    """When the latest rollout has ended without success, the stable one takes late devices again: all that are known."""
    current, *stable = state.working(app)
    for rollout in stable:
        if rollout.stands_in == (since := (current.id, current.record.since)):
            continue
        rollout.stands_in = since
        for device in list(rollout.devices.values()):
            told = state.told_of(device.node, app).assignment
            if device.stage not in SETTLED and (told is None or told.rollout != rollout.id):
                rollout.drop(device)  # it was told something newer since
        for facts in state.nodes.values():
            _consider(state, app, facts, now, out)


def _is_over(rollout: Rollout) -> bool:
    return rollout.phase in ENDED and rollout.phase is not RolloutPhase.SUCCEEDED


def _node_gone(state: Rollouts, event: events.NodeGone, now: float, out: Out) -> None:
    state.nodes.pop(event.node, None)
    for app in state.current:
        state.reports.pop((event.node, app), None)
        for rollout in state.working(app):
            device = rollout.devices.get(event.node)
            if device is not None and not device.order:
                rollout.drop(device)
                advance(state, rollout, now, out)


def _reported(state: Rollouts, event: events.Reported, now: float, out: Out) -> None:
    report = event.report
    state.reports[report.node, report.app] = report
    working = state.working(report.app)
    if not working:
        return
    told = state.told_of(report.node, report.app)
    if report.order > told.order and not told.writing and state.term:
        out.append(Look(report.node, report.app))
    for rollout in working:
        device = rollout.devices.get(report.node)
        if device is None:
            continue
        before = device.stage
        devices.heard(rollout, device, report, now, out)
        if device.stage is before:  # most say what was said before; what is due by time alone is seen at the next tick
            continue
        advance(state, rollout, now, out)
        if device.stage is Stage.BACK and (facts := state.nodes.get(report.node)) is not None:
            _consider(state, report.app, facts, now, out)


# What comes back from the broker.


def _assigned(state: Rollouts, event: events.Assigned, now: float, out: Out) -> None:
    told = state.told_of(event.node, event.app)
    if told.order == event.order:
        told.revision, told.writing = event.revision, False
    for rollout in state.working(event.app):
        device = rollout.devices.get(event.node)
        if device is None or device.stage is not Stage.TOLD:  # nothing waits for one on its way
            advance(state, rollout, now, out)


def _stored(state: Rollouts, event: events.Stored, now: float, out: Out) -> None:
    rollout = state.rollouts.get(event.rollout)
    if rollout is None:
        return
    rollout.revision, rollout.storing = event.revision, False
    latest = state.current.get(rollout.app)
    if latest is not rollout and rollout.active and latest is not None:
        _replace(rollout, latest.record.spec.version.version, now, out)
        return
    asks, rollout.asks = rollout.asks, []
    for what, reason in asks:
        _asked(state, events.Asked(rollout.id, what, reason), now, out)
    advance(state, rollout, now, out)


def _tick(state: Rollouts, _event: events.Tick, now: float, out: Out) -> None:
    state.looked = state.term > 0
    for app in state.current:
        _stand_in(state, app, now, out)
        for rollout in state.working(app):
            if _is_over(rollout) or rollout.storing:
                continue
            devices.overdue(state, rollout, now, out)
            advance(state, rollout, now, out)
            if rollout.dirty and not rollout.storing:
                rollout.save(out, rollout.record)


HANDLERS: dict[type, Handler] = {
    events.RolloutFound: _rollout_found,
    events.OutcomeFound: _outcome_found,
    events.AssignmentFound: _assignment_found,
    events.VersionFound: _version_found,
    events.VersionDropped: _version_dropped,
    events.RolloutDropped: _rollout_dropped,
    events.TakenOver: _taken_over,
    events.Created: _created,
    events.Asked: _asked,
    events.Promoted: _promoted,
    events.NodeSeen: _node_seen,
    events.NodeGone: _node_gone,
    events.Reported: _reported,
    events.Assigned: _assigned,
    events.Stored: _stored,
    events.Tick: _tick,
}
