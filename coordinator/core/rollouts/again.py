"""A retry: the failed devices are told the version again, and of one that went back they come first.

Where everybody was brought back, the first batch is the failed ones and nobody else; when its gate opens the others follow by
the strategy, as after a canary. What a retry takes up was ended before it began (`retried_at`): so does a successor know it.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from coordinator.core.rollouts import devices
from coordinator.core.rollouts.fit import OFFLINE, Facts
from coordinator.core.rollouts.state import Device, Rollout
from schemas.rollout import StrategyKind
from schemas.rollout_state import RolloutPhase, Stage

ENDED_IN = (Stage.FAILED, Stage.BACK, Stage.RETURNING)
AT_WORK = frozenset(
    {
        RolloutPhase.ROLLING,
        RolloutPhase.GATED,
        RolloutPhase.PAUSED,
        RolloutPhase.CATCHING_UP,
        RolloutPhase.SUCCEEDED,
    }
)


def failed(rollout: Rollout) -> int:
    """How many devices failed, also of those that were brought back for it."""
    return sum(device.failed for stage in ENDED_IN for device in rollout.by_stage[stage].values())


def begin(rollout: Rollout, nodes: Iterable[Facts], now: float) -> None:
    """Have every failed device, and every one that was brought back, wait anew. The record is not written yet."""
    went_back = rollout.count(Stage.BACK, Stage.RETURNING) > 0
    for stage in ENDED_IN:
        for device in list(rollout.by_stage[stage].values()):
            _wait_anew(rollout, device, now)
    for facts in nodes:
        devices.consider(rollout, facts, now)
    if went_back:
        rollout.asked = False
        rollout.record = structs.replace(rollout.record, batch=0, quota=_first_batch(rollout), agreed=False)


def _first_batch(rollout: Rollout) -> int:
    """The failed ones that can take it now; 0 when none can: as many as the strategy says, then."""
    ready = sum(device.failed for device in rollout.by_stage[Stage.WAITING].values())
    strategy = rollout.record.spec.strategy
    return min(ready, strategy.max_concurrent) if strategy.kind is StrategyKind.ROLLING else ready


def restore(rollout: Rollout) -> None:
    """After a takeover: whom the retry had taken up, and not told yet."""
    if not rollout.record.retried_at or rollout.phase not in AT_WORK:
        return
    for stage in ENDED_IN:
        for device in list(rollout.by_stage[stage].values()):
            if device.since <= rollout.record.retried_at:
                _wait_anew(rollout, device, device.since)


def _wait_anew(rollout: Rollout, device: Device, now: float) -> None:
    """It is told as a new one is, once it is seen."""
    device.order = 0
    rollout.to_return.pop(device.node, None)
    rollout.move(device, Stage.DEFERRED, now, OFFLINE, batch=-1)
