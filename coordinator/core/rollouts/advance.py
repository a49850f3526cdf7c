"""How a rollout goes on: after anything that happened to it, this works out what follows.

Nothing is decided while the record is being written: what a successor reads is what was acted on.
"""

from __future__ import annotations

from msgspec import structs

from coordinator.core.rollouts import batches, devices, gates
from coordinator.core.rollouts.actions import Ask, Emit
from coordinator.core.rollouts.gates import Gate
from coordinator.core.rollouts.phases import ENDS_AS, TABLE, Trigger
from coordinator.core.rollouts.state import Out, Rollout, Rollouts
from schemas import limits
from schemas.event import RolloutEvent
from schemas.rollout_state import RolloutPhase as P
from schemas.rollout_state import Stage

AT_ONCE = 1_000  # assignments that one rollout has written at a time


def advance(state: Rollouts, rollout: Rollout, now: float, out: Out) -> None:
    """Take every step that is due."""
    if not state.looked or rollout.storing:
        return
    if rollout.phase in (P.ROLLING, P.GATED, P.CATCHING_UP, P.PAUSED) and gates.too_many_failed(rollout):
        fail(rollout, _too_many(rollout), now, out)
        return
    if step := _STEPS.get(rollout.phase):
        step(state, rollout, now, out)


def trigger(rollout: Rollout, what: Trigger, reason: str, now: float, out: Out) -> bool:
    """Move the rollout by the table; False when that changes nothing."""
    record = rollout.record
    moves = TABLE[record.phase]
    if what not in moves or rollout.storing:
        return False
    to = moves[what] or (record.paused if record.phase is P.PAUSED else record.ends_as) or P.FAILED
    if to is P.ROLLING and what is Trigger.OPEN:
        record = structs.replace(record, batch=record.batch + 1, quota=0, progress_at=now)
    if to is P.GOING_BACK:
        attempted, healthy = rollout.count(Stage.HEALTHY, Stage.FAILED), rollout.count(Stage.HEALTHY)
        record = structs.replace(record, ends_as=ENDS_AS[what], attempted=attempted, healthy=healthy)
        _all_return(rollout, now)
    if what is Trigger.RETRY:
        record = structs.replace(record, attempted=0, healthy=0, retried_at=now)
    if what in (Trigger.RESUME, Trigger.RETRY):
        record = structs.replace(record, progress_at=now)
    paused = record.phase if to is P.PAUSED else None
    reason = reason[: limits.REASON_MAX] or (record.reason if what is Trigger.ALL_BACK else "")
    rollout.save(out, structs.replace(record, phase=to, since=now, paused=paused, reason=reason))
    say(rollout, to.value, out)
    return True


def fail(rollout: Rollout, reason: str, now: float, out: Out) -> None:
    """Stop it, and bring everybody back where that was asked for."""
    back = rollout.record.spec.strategy.rollback_on_failure
    trigger(rollout, Trigger.FAIL_AND_RETURN if back else Trigger.FAIL, reason, now, out)


def say(rollout: Rollout, what: str, out: Out) -> None:
    """Tell outside tools where the rollout is."""
    record, version = rollout.record, rollout.record.spec.version
    data = RolloutEvent(
        rollout.id, version.app, version.version, record.phase.value, record.batch,
        rollout.count(Stage.HEALTHY), rollout.count(Stage.FAILED), rollout.count(Stage.DEFERRED), record.reason,
    )  # fmt: skip
    key = f"{rollout.id}.{what}.{record.batch}.{round(record.since * 1000)}"
    out.append(Emit(f"rollout.{what}", rollout.id, key, data))


def _rolling(state: Rollouts, rollout: Rollout, now: float, out: Out) -> None:
    """Bring the batch out; when all of it have ended, on to the gate."""
    record = rollout.record
    strategy = record.spec.strategy
    if record.batch and now - record.since < batches.pause_s(strategy):
        return
    if not record.quota:
        left = rollout.count(Stage.WAITING, Stage.DEFERRED)
        if rollout.count(Stage.WAITING):  # decided when the batch can begin, and kept: a successor holds to it
            rollout.save(out, structs.replace(record, quota=batches.quota(strategy, record.batch, left)))
            return
    else:
        _tell(state, rollout, record.quota - _begun(rollout), now, out)
    if rollout.count(Stage.TOLD):
        _look_at_clock(rollout, now, out)
    elif rollout.of_batch(record.batch, Stage.HEALTHY, Stage.FAILED) and (
        _begun(rollout) >= record.quota or not rollout.count(Stage.WAITING)
    ):
        trigger(rollout, Trigger.BATCH_DONE, "", now, out)
    elif rollout.count(Stage.WAITING):
        _look_at_clock(rollout, now, out)
    elif record.batch:
        trigger(rollout, Trigger.BATCH_DONE, "", now, out)  # who waited is deferred now
    elif now >= _expires_at(rollout):
        fail(rollout, "no device could take it in time", now, out)


def _begun(rollout: Rollout) -> int:
    """How many of the quota are spent, those too that were told and defer by themselves: they go on when they can."""
    return rollout.of_batch(rollout.record.batch, Stage.TOLD, Stage.HEALTHY, Stage.FAILED, Stage.DEFERRED)


def _tell(state: Rollouts, rollout: Rollout, room: int, now: float, out: Out) -> None:
    again = []
    for _ in range(min(room, AT_ONCE)):
        device = rollout.next_waiting()
        if device is None:
            break
        if not devices.tell(state, rollout, device, rollout.record.batch, now, out):
            again.append(device)
    for device in again:
        rollout.move(device, Stage.WAITING, now, device.reason)


def _look_at_clock(rollout: Rollout, now: float, out: Out) -> None:
    """Without a device that becomes healthy for `progress_deadline_s` it has failed: from its creation, not from when the
    first was told. When those that were told only defer by themselves, nothing failed: others are told in their place."""
    record = rollout.record
    deadline_s = record.spec.version.health.progress_deadline_s
    if now - record.progress_at <= deadline_s:
        return
    deferred = rollout.of_batch(record.batch, Stage.DEFERRED)
    if deferred and record.quota and rollout.phase is P.ROLLING and not rollout.count(Stage.TOLD):
        rollout.save(out, structs.replace(record, quota=record.quota + deferred, progress_at=now))
    else:
        fail(rollout, f"no device became healthy for {deadline_s:.0f} s", now, out)


def _gated(state: Rollouts, rollout: Rollout, now: float, out: Out) -> None:
    """Judge the batch. A device that stopped being healthy is on its way again, and is waited for."""
    if rollout.of_batch(rollout.record.batch, Stage.TOLD):
        _look_at_clock(rollout, now, out)
        return
    verdict = gates.judge(rollout)
    if verdict is Gate.ASK and now >= _expires_at(rollout):
        fail(rollout, "nobody agreed in time", now, out)
    elif verdict is Gate.REFUSED:
        fail(rollout, _too_many(rollout), now, out)
    elif verdict is Gate.ASK:
        _ask(rollout, out)
    elif verdict is Gate.CLOSED and rollout.record.batch and not rollout.count(Stage.WAITING):
        trigger(rollout, Trigger.ALL_TOLD, "", now, out)  # the last batch found nobody left
    elif verdict is Gate.CLOSED:
        trigger(rollout, Trigger.NOT_TRIED, "", now, out)
    else:
        _switch(state, rollout, now, out)
        trigger(rollout, Trigger.OPEN if rollout.count(Stage.WAITING) else Trigger.ALL_TOLD, "", now, out)


def _ask(rollout: Rollout, out: Out) -> None:
    cluster, version = rollout.record.spec.strategy.decision_of, rollout.record.spec.version
    if cluster and not rollout.asked:
        rollout.asked = True
        failed, healthy = rollout.count(Stage.FAILED), rollout.count(Stage.HEALTHY)
        text = f"roll out {version.app} {version.version}: {healthy} devices are healthy with it, {failed} failed"
        out.append(Ask(rollout.id, cluster, text))


def _switch(state: Rollouts, rollout: Rollout, now: float, out: Out) -> None:
    for node in list(rollout.warm):
        device = rollout.by_stage[Stage.HEALTHY].get(node)
        if device is not None:
            devices.switch(state, rollout, device, now, out)


def _catching_up(state: Rollouts, rollout: Rollout, now: float, out: Out) -> None:
    """Whoever was late is told as it comes."""
    if now >= _expires_at(rollout):
        _expire(rollout, now)
    else:
        _tell(state, rollout, AT_ONCE, now, out)
    if not rollout.count(Stage.TOLD, Stage.WAITING, Stage.DEFERRED):
        _switch(state, rollout, now, out)
        trigger(rollout, Trigger.ALL_CAUGHT_UP, "", now, out)


def _succeeded(state: Rollouts, rollout: Rollout, now: float, out: Out) -> None:
    """Devices that join later still get the version, for as long as late ones may catch up."""
    if rollout not in state.working(rollout.app):
        return
    if now >= _expires_at(rollout):
        _expire(rollout, now)
    elif not gates.too_many_failed(rollout):
        _tell(state, rollout, AT_ONCE, now, out)
    _switch(state, rollout, now, out)


def _expire(rollout: Rollout, now: float) -> None:
    for stage in (Stage.WAITING, Stage.DEFERRED):
        for device in list(rollout.by_stage[stage].values()):
            rollout.move(device, Stage.EXPIRED, now, device.reason or "it did not come in time")


def _going_back(state: Rollouts, rollout: Rollout, now: float, out: Out) -> None:
    """Tell everybody at once; who is offline finds it when it comes back, and is not waited for."""
    for node in list(rollout.to_return):
        device = rollout.devices[node]
        if device.stage is not Stage.RETURNING or devices.send_back(state, rollout, device, now, out):
            del rollout.to_return[node]
    deadline_s = rollout.record.spec.version.health.healthy_deadline_s + devices.SLACK_S
    if not rollout.to_return and (now - rollout.record.since > deadline_s or not _waits_for_some(state, rollout)):
        trigger(rollout, Trigger.ALL_BACK, "", now, out)


def _waits_for_some(state: Rollouts, rollout: Rollout) -> bool:
    """Whether a device that is there has yet to return."""
    return any(
        (facts := state.nodes.get(node)) is not None and facts.online for node in rollout.by_stage[Stage.RETURNING]
    )


def _all_return(rollout: Rollout, now: float) -> None:
    """Everybody who was told anything; whoever was not is let go."""
    for device in list(rollout.devices.values()):
        if device.order and device.stage is not Stage.BACK:
            rollout.move(device, Stage.RETURNING, now, device.reason)
            rollout.to_return[device.node] = None
        elif not device.order:
            rollout.drop(device)


def _expires_at(rollout: Rollout) -> float:
    spec = rollout.record.spec
    return spec.created_at + spec.strategy.catch_up_s


def _too_many(rollout: Rollout) -> str:
    failed = list(rollout.by_stage[Stage.FAILED].values())
    attempted = rollout.count(Stage.HEALTHY, Stage.FAILED)
    last = max(failed, key=lambda device: device.since)
    return f"{len(failed)} of {attempted} attempted devices failed; the last, {last.node}: {last.reason}"


_STEPS = {
    P.ROLLING: _rolling,
    P.GATED: _gated,
    P.CATCHING_UP: _catching_up,
    P.SUCCEEDED: _succeeded,
    P.GOING_BACK: _going_back,
}
