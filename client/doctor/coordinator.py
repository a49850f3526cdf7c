"""Who acts? Does the lease's holder live, answer and renew, and is there another to take over?"""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Facts, LeaseEntry
from client.doctor.finding import Finding, few, ok, problem
from client.show import span
from schemas import limits, streams
from schemas.names import COORDINATOR_CONNECTION

START = "start one: `fog up`, or `fog coordinator` for a broker elsewhere; nothing that was submitted is lost"
DELETE = f"nats kv del {streams.LEASES} {streams.LEASE_KEY}"


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``coordinator.*``."""
    if not facts.lease_read:
        return
    running = None
    if facts.broker is not None and facts.broker.connections is not None:
        names = facts.broker.connections
        running = sorted(n.removeprefix(COORDINATOR_CONNECTION) for n in names if n.startswith(COORDINATOR_CONNECTION))
    yield from _lease(facts.lease, running)
    yield from _answer(facts)
    if running:
        yield _others(facts.lease, running)


def _lease(lease: LeaseEntry | None, running: list[str] | None) -> Iterator[Finding]:
    if lease is None:
        if running:
            seen = f"nobody holds the lease, though {few(running)} is connected"
            yield problem("coordinator.lease", seen, "it cannot take the lease: its log says why")
        else:
            yield problem("coordinator.lease", "no coordinator acts", START)
        return
    who = f"{lease.holder.coordinator} holds the lease, term {lease.holder.term or lease.revision}"
    if not lease.ttl_s:
        seen = f"{who}, and it never expires: when that coordinator dies, no other can take over"
        advice = f"something else wrote that key: {DELETE}; the coordinators then settle it by themselves"
        yield problem("coordinator.lease", seen, advice, lease.holder.coordinator)
    elif lease.age_s > limits.LEASE_S:
        seen = f"{who}, and has not renewed it for {span(lease.age_s)}"
        yield problem("coordinator.lease", seen, f"is that process stopped? If it does not end by itself: {DELETE}")
    elif running is not None and lease.holder.coordinator not in running:
        seen = f"{who}, and is not connected"
        yield problem("coordinator.lease", seen, f"it is free again within {limits.LEASE_S:g} s; {START}")
    else:
        yield ok("coordinator.lease", who, lease.holder.coordinator)


def _answer(facts: Facts) -> Iterator[Finding]:
    status = facts.status
    if status is None:
        if facts.lease is not None:
            advice = "is it taking over just now, or stopped, or busy? Its log says; kill it, and another can take over"
            yield problem("coordinator.answers", f"the coordinator does not answer: {facts.status_error}", advice)
        return
    lease = facts.lease
    if lease is not None and lease.holder.term not in (0, status.term):
        seen = f"{status.coordinator} answers for term {status.term}, the lease is of term {lease.holder.term}"
        yield problem("coordinator.answers", seen, f"stop {status.coordinator}: it was deposed", status.coordinator)
    else:
        up = span(status.up_s)
        yield ok(
            "coordinator.answers", f"{status.coordinator} acts since {up}, in term {status.term}", status.coordinator
        )


def _others(lease: LeaseEntry | None, running: list[str]) -> Finding:
    holder = lease.holder.coordinator if lease is not None else ""
    others = [name for name in running if name != holder]
    if len(set(running)) < len(running):
        twice = next(name for name in running if running.count(name) > 1)
        seen = f"two coordinators are called {twice}"
        return problem("coordinator.others", seen, "start each with a --name of its own: they share one lease", twice)
    if others:
        return ok("coordinator.others", f"{few(others)} would take over")
    return ok("coordinator.others", "no other would take over: this fleet has one coordinator")
