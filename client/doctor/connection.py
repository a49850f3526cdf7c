"""Is there a broker, and does it let us in?"""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Facts
from client.doctor.finding import Finding, ok, problem, warning

SLOW_MS = 500.0  # a round trip


def judge(facts: Facts) -> Iterator[Finding]:
    """``broker.reach``, and what could not be looked at."""
    if facts.no_connection is not None:
        advice = facts.no_connection.hint or "start the broker, or name another with --nats"
        yield problem("broker.reach", facts.no_connection.message, advice)
    broker = facts.broker
    if broker is not None:
        seen = f"nats-server {broker.version} at {broker.url}, {broker.round_trip_ms:.3g} ms there and back"
        if broker.round_trip_ms > SLOW_MS:
            yield warning(
                "broker.reach", seen, "the network or the broker is slow: heartbeats and leases need less than 1 s"
            )
        else:
            yield ok("broker.reach", seen)
    for what, why in facts.unread.items():
        yield problem("doctor.unread", f"{what} could not be read: {why}", _why_unread(why), what)


def _why_unread(why: str) -> str:
    if "no answer" in why:
        return "do these credentials allow it? Is a majority of the broker's servers up?"
    return "look into the broker's log"
