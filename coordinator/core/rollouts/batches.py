"""How many devices a batch takes: all that tells the strategies apart, besides what a device of blue-green is told."""

from __future__ import annotations

import hashlib
import math

from schemas.rollout import Strategy, StrategyKind, Told


def quota(strategy: Strategy, batch: int, left: int) -> int:
    """How many of the `left` devices (waiting or deferred) batch number `batch` takes; at least one.

    *canary*: ``ceil(canary_share · left)``, then all. *blue-green*: ``ceil(left / 2)``, then all. *rolling*: `max_concurrent`.
    """
    if strategy.kind is StrategyKind.ROLLING:
        return strategy.max_concurrent
    share = strategy.canary_share if strategy.kind is StrategyKind.CANARY else 0.5
    return max(1, math.ceil(share * left) if batch == 0 else left)


def pause_s(strategy: Strategy) -> float:
    """Between two batches."""
    return strategy.between_s if strategy.kind is StrategyKind.ROLLING else 0.0


def told(strategy: Strategy) -> Told:
    """What a device is told first: with blue-green the old version stays warm until the gate is open."""
    return Told.WARM if strategy.kind is StrategyKind.BLUE_GREEN else Told.RUN


def rank(rollout: str, node: str) -> bytes:
    """The order in which waiting devices are taken: the same for the same rollout, another for each, so that it is not always
    the same devices that try what is new."""
    return hashlib.blake2b(f"{rollout}:{node}".encode(), digest_size=8).digest()
