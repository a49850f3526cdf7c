"""Which of the sampled nodes is the best for a task: the score of SPEC 2.4."""

from __future__ import annotations

from coordinator.core import tune
from coordinator.core.nodeview import NodeView
from coordinator.core.record import TaskRecord
from schemas import api

# node, score, free share, power, thermal, bandwidth, failed: as they were when it was looked at
Candidate = tuple[str, float, float, float, float, float, float]


def rank(node: NodeView, task: TaskRecord, large: bool) -> Candidate:
    """Free compute share × power × thermal, × bandwidth for large inputs, less what failed here before.

    The free share is that of the cores that the node offers, 0..1, or what others leave idle of it, if that is less. With no
    core free it is small, and smaller the longer the node's queue.
    """
    free = node.cores_free
    if free > 0 and node.count < node.slots:
        share = free / node.cores
        if share > node.idle:
            share = node.idle
    else:
        share = 0.01 / (1.0 + node.backlog_ms / node.queue_ms)
    score = share * node.power * node.thermal
    bandwidth = 1.0
    if large:
        bandwidth = node.bandwidth
        score *= bandwidth
    failed = 0.0
    if task.history.failed_on:
        failed = tune.FAILED_PENALTY if node.id in task.history.failed_on else 0.0
        score -= failed
    return (node.id, score, share, node.power, node.thermal, bandwidth, failed)


def shown(candidate: Candidate, chosen: bool) -> api.Candidate:
    """A candidate as the API tells it."""
    node, score, share, power, thermal, bandwidth, failed = candidate
    factors = {"free_share": round(share, 4), "power": power, "thermal": thermal, "bandwidth": bandwidth}
    if failed:
        factors["failed"] = -failed
    return api.Candidate(node, round(score, 4), factors, chosen)
