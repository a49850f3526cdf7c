"""All checks, in the order in which one would look: what is found first may be the cause of what comes after."""

from __future__ import annotations

from collections.abc import Iterable

from client.doctor import (
    broker,
    clocks,
    connection,
    consumers,
    coordinator,
    dead,
    home,
    messages,
    nodes,
    streams,
    tasks,
    versions,
)
from client.doctor.facts import Facts
from client.doctor.finding import Finding, Level

JUDGES = (home, connection, broker, streams, coordinator, consumers, clocks, versions, nodes, tasks, dead, messages)


def examine(facts: Facts) -> list[Finding]:
    """Everything that can be said of these facts."""
    return [finding for judge in JUDGES for finding in judge.judge(facts)]


def lasting(first: Iterable[Finding], second: Iterable[Finding]) -> list[Finding]:
    """What two looks, some time apart, agree on: a fleet moves, and what was so for a moment is no trouble."""
    before = {(found.check, found.about) for found in first if found.level is not Level.OK}
    return [found for found in second if found.level is Level.OK or (found.check, found.about) in before]
