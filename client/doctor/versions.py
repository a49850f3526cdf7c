"""Does everything have the same version?"""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Facts
from client.doctor.finding import Finding, few, ok, warning


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``versions.*``."""
    if facts.status is not None:
        theirs, ours = facts.status.version, facts.version
        if theirs != ours:
            advice = "bring both to the same version: newer requests may be refused, newer fields are ignored"
            yield warning(
                "versions.coordinator", f"the coordinator has {theirs or 'none'}, this fog has {ours}", advice
            )
        else:
            yield ok("versions.coordinator", f"coordinator and client have {ours}")
        others = [f"{row.node} ({row.version or 'none'})" for row in facts.nodes or () if row.version != theirs]
        if others:
            advice = "upgrade those nodes, one at a time: `fog drain ID`, upgrade, start"
            yield warning("versions.nodes", f"nodes have another version than the coordinator's: {few(others)}", advice)
        elif facts.nodes:
            yield ok("versions.nodes", f"all nodes have {theirs}")
    servers = {server.version for server in facts.broker.servers} if facts.broker is not None else set()
    if len(servers) > 1:
        advice = "upgrade the older ones, one at a time"
        yield warning("versions.broker", f"the broker's servers have {few(sorted(servers))}", advice)
