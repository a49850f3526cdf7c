"""The streams, buckets and their settings: what the broker keeps, for how long, and what it refuses.

Every figure that two processes rely on is in `schemas.limits`. Sizes in bytes; JetStream wants durations in nanoseconds.
"""

from __future__ import annotations

from typing import Any

from schemas import limits
from schemas.subjects import BOOK_ENTRY, ROOT, chunk, ledger, outcome, submit
from schemas.task import TaskPriority

TASKS = "FOG_TASKS"
WORK = "FOG_WORK"
OUTCOMES = "FOG_OUTCOMES"
RESULTS = "FOG_RESULTS"
DEAD = "FOG_DEAD"
EVENTS = "FOG_EVENTS"
LEDGER = "FOG_LEDGER"  # `ledger.Claim`, as devices made them
BOOK = "FOG_BOOK"  # `ledger.Entry`: what the coordinator makes of them
NODES = "FOG_nodes"
LEASES = "FOG_leases"
POLICIES = "FOG_policies"  # by node: what an operator set
JOBS = "FOG_jobs"
CLUSTERS = "FOG_clusters"
AVAILABILITY = "FOG_availability"
DECISIONS = "FOG_decisions"
ARTIFACTS = "FOG_artifacts"
CHUNKS = "FOG_CHUNKS"
APPS = "FOG_apps"  # `rollout.AppVersion`, under ``<app>.<version>``
ROLLOUTS = "FOG_rollouts"  # a rollout's specification and where it is, under its id
ASSIGNED = "FOG_assigned"  # `rollout.Assignment`, under ``<node>.<app>``

LEASE_KEY = "coordinator"  # in the bucket LEASES: who acts (`membership.Holder`)
COORDINATOR_CONSUMER = "FOG_coordinator_"  # and the term, and what it pulls: ``FOG_coordinator_7_outcomes``
NODE_CONSUMER = "FOG_node_"  # and the node: what it pulls its own work by

NS = 1_000_000_000
LEASE_MARKER_S = 60  # the mark that an expired lease leaves, so that its watchers see a revision

_QUEUE: dict[str, Any] = {
    "retention": "workqueue",
    "storage": "file",
    "discard": "new",  # a full queue refuses, it never forgets
    "allow_direct": True,
    "duplicate_window": int(limits.DUPLICATE_WINDOW_S * NS),
}

_KEPT: dict[str, Any] = {  # for good: nothing in it can be deleted or purged through the API
    "storage": "file",
    "discard": "new",
    "deny_delete": True,
    "deny_purge": True,
    "allow_direct": True,
    "duplicate_window": int(limits.DUPLICATE_WINDOW_S * NS),
}


def configurations(replicas: int = 1) -> list[dict[str, Any]]:
    """Every stream as JetStream's API wants it."""
    streams = [*_of_tasks(), *_of_what_happened(), *_of_artifacts(), *_buckets()]
    if replicas == 1:
        # Events may reach the disk some milliseconds after they are confirmed (nats-server 2.12; older ones ignore it): it
        # takes a tenth off the broker's whole work. A broker that is killed is told the last ones again, see `eventlog`.
        next(stream for stream in streams if stream["name"] == EVENTS)["persist_mode"] = "async"
    return [{"num_replicas": replicas, **stream} for stream in streams]


def _of_tasks() -> list[dict[str, Any]]:
    """Where a task lies, from its submission to its end."""
    return [
        # Exactly what is consumed: a queue would keep anything else for ever.
        {"name": TASKS, "subjects": [submit(p, "*", "*") for p in TaskPriority], "max_msgs": 5_000_000, **_QUEUE},
        # 2.15 caps a stream at 1000 consumers unless it says otherwise; there is one a node.
        {"name": WORK, "subjects": [f"{ROOT}.work.>"], "max_msgs": 2_000_000, "max_consumers": 20_000, **_QUEUE},
        {"name": OUTCOMES, "subjects": [outcome("*", "*")], "max_msgs": 1_000_000, **_QUEUE},
        {
            "name": RESULTS,
            "subjects": [f"{ROOT}.result.>"],
            "storage": "file",
            # The first stored result counts: the broker itself refuses the second on a subject.
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "max_age": int(limits.RESULT_AGE_S * NS),
            "max_bytes": limits.RESULTS_BYTES,
            "allow_direct": True,
            "duplicate_window": int(limits.DUPLICATE_WINDOW_S * NS),
            "republish": {"src": f"{ROOT}.result.>", "dest": f"{ROOT}.done.>"},
        },
        {
            "name": DEAD,
            "subjects": [f"{ROOT}.dead.>"],
            "storage": "file",
            "max_msgs_per_subject": 1,  # written again after a takeover, a letter replaces its earlier copy
            "discard": "old",
            "max_age": int(limits.DEAD_AGE_S * NS),
            "max_msgs": limits.DEAD_LETTERS,
            "max_bytes": limits.DEAD_BYTES,
            "allow_direct": True,
            "duplicate_window": int(limits.DUPLICATE_WINDOW_S * NS),
        },
    ]


def _of_what_happened() -> list[dict[str, Any]]:
    """Events and the ledger."""
    return [
        {
            "name": EVENTS,
            "subjects": [f"{ROOT}.event.>"],
            "storage": "file",
            "discard": "old",
            "max_age": int(limits.EVENT_AGE_S * NS),
            "max_bytes": limits.EVENTS_BYTES,
            "allow_direct": True,
            "duplicate_window": int(limits.DUPLICATE_WINDOW_S * NS),
        },
        {"name": LEDGER, "subjects": [ledger("*")], **_KEPT},
        {"name": BOOK, "subjects": [BOOK_ENTRY], **_KEPT},
    ]


def _of_artifacts() -> list[dict[str, Any]]:
    """Bytes: what rollouts bring, and what is too large for a task's message."""
    return [
        {
            "name": CHUNKS,
            "subjects": [chunk("*")],
            "storage": "file",
            # One message a subject, named by its content: storing it again is refused, and means that it is there.
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "max_bytes": limits.CHUNKS_BYTES,
            "allow_direct": True,
        },
        {
            "name": f"OBJ_{ARTIFACTS}",
            "subjects": [f"$O.{ARTIFACTS}.C.>", f"$O.{ARTIFACTS}.M.>"],
            "storage": "file",
            "discard": "new",
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "max_age": int(limits.OBJECT_AGE_S * NS),
        },
    ]


def _buckets() -> list[dict[str, Any]]:
    return [
        _bucket(NODES),
        _bucket(POLICIES),
        _bucket(APPS),
        _bucket(ROLLOUTS),
        _bucket(ASSIGNED),
        _bucket(CLUSTERS),
        _bucket(AVAILABILITY),
        _bucket(DECISIONS, max_age=int(limits.EVENT_AGE_S * NS)),
        _bucket(JOBS, max_age=int(limits.OBJECT_AGE_S * NS)),
        _bucket(LEASES, allow_msg_ttl=True, subject_delete_marker_ttl=LEASE_MARKER_S * NS),
    ]


def _bucket(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "storage": "file",
        "max_msgs_per_subject": 1,
        "discard": "new",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        **more,
    }
