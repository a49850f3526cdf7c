"""Do the clocks agree? Everything that is decided goes by the broker's clock; this says what else breaks, and when."""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Facts
from client.doctor.finding import Finding, ok, problem, warning
from client.show import span

OFF_S = 5.0  # times that people see are wrong by more than they would think
FAR_S = 3600.0  # what is old and what is young is taken for the other: certificates, what may be uploaded again
SET = "set that machine's clock (NTP: `timedatectl set-ntp true`)"


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``clocks.*``."""
    broker = facts.broker
    if broker is not None:
        for server in broker.servers:
            if server.ahead_s is not None:
                slack = server.within_s
                ahead = server.ahead_s - max(-slack, min(slack, server.ahead_s))  # what cannot be told is no difference
                yield _one(
                    "clocks.here", "this machine's clock", -ahead, "the broker's", "ages shown here", "this machine"
                )
                break
        yield from _servers(facts)
    if facts.coordinator_ahead_s is not None:
        yield _coordinator(facts.coordinator_ahead_s)
    if facts.nodes is not None:
        off = [row for row in facts.nodes if row.clock_ahead_s is not None and abs(row.clock_ahead_s) > OFF_S]
        for row in off:
            ahead = row.clock_ahead_s or 0.0
            yield _one(
                "clocks.nodes",
                f"{row.node}'s clock",
                ahead,
                "the broker's",
                "times in its results and events",
                row.node,
            )
        if not off:
            yield ok("clocks.nodes", f"no node's clock is off by more than {OFF_S:g} s")


def _one(check: str, whose: str, ahead_s: float, than: str, what: str, about: str) -> Finding:
    seen = f"{whose} is {span(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} {than}"
    if abs(ahead_s) > FAR_S:
        return problem(check, f"{seen}: {what} are wrong, and certificates may be refused", SET, about)
    if abs(ahead_s) > OFF_S:
        return warning(check, f"{seen}: {what} are wrong by as much", SET, about)
    return ok(check, f"{whose} and {than} agree", about)


def _servers(facts: Facts) -> Iterator[Finding]:
    assert facts.broker is not None
    told = [s for s in facts.broker.servers if s.ahead_s is not None]
    if len(told) < 2:
        return
    spread = max(s.ahead_s or 0.0 for s in told) - min(s.ahead_s or 0.0 for s in told)
    if spread > max(1.0, 2 * max(s.within_s for s in told)):
        seen = f"the broker's servers differ by {span(spread)}: deadlines jump when another one leads"
        yield problem("clocks.servers", seen, "let all servers keep their clocks by NTP")
    else:
        yield ok("clocks.servers", "the clocks of the broker's servers agree")


def _coordinator(ahead_s: float) -> Finding:
    if abs(ahead_s) > OFF_S:
        seen = f"the coordinator judges by a time {span(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} the broker's"
        advice = (
            "the broker's clock was set meanwhile: stop the coordinator and start it again, and deadlines hold again"
        )
        return problem("clocks.coordinator", seen, advice)
    return ok("clocks.coordinator", "the coordinator goes by the broker's clock")
