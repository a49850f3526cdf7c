"""When a batch was good enough. A gate that knows nothing stays closed.

Shares are of the *attempted* devices (healthy or failed): those that are deferred, offline or on their way never thin out a
failure.
"""

from __future__ import annotations

from enum import Enum

from coordinator.core.rollouts.state import Rollout
from schemas.rollout_state import Stage


class Gate(Enum):
    """What a gate says."""

    OPEN = "open"
    ASK = "ask"  # good, and a cluster or an operator must agree
    CLOSED = "closed"  # nothing was attempted: nothing is known
    REFUSED = "refused"


def too_many_failed(rollout: Rollout) -> bool:
    """Whether it must stop at once: more than `max_failed_share` of at least `min_sample` attempted devices failed."""
    attempted = rollout.count(Stage.HEALTHY, Stage.FAILED)
    return attempted >= rollout.record.spec.strategy.min_sample and _share_failed(rollout) > _most(rollout)


def judge(rollout: Rollout) -> Gate:
    """What the gate after the batch says, once all of the batch that were told have ended. However few were attempted, the
    share counts: one bad canary of one refuses."""
    if not rollout.of_batch(rollout.record.batch, Stage.HEALTHY, Stage.FAILED):
        return Gate.CLOSED
    if _share_failed(rollout) > _most(rollout):
        return Gate.REFUSED
    strategy = rollout.record.spec.strategy
    needs_somebody = rollout.record.batch == 0 and (not strategy.promote or strategy.decision_of)
    return Gate.ASK if needs_somebody and not rollout.record.agreed else Gate.OPEN


def _share_failed(rollout: Rollout) -> float:
    attempted = rollout.count(Stage.HEALTHY, Stage.FAILED)
    return rollout.count(Stage.FAILED) / attempted if attempted else 0.0


def _most(rollout: Rollout) -> float:
    return rollout.record.spec.strategy.max_failed_share
