"""Were messages refused since they could not be understood?"""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Facts
from client.doctor.finding import Finding, few, ok, warning

TOLD = 3  # of the last ones
ADVICE = {
    "submit": "whoever submits there is no `fog` of this version: check what it sends against `fog schema DIR`",
    "api": "whoever asks there is no `fog` of this version: check what it sends against `fog schema DIR`",
    "at nodes": "`fog node-info ID` shows the node; its log says what it refused",
    "event": "that is a fault of ours: please report it, with the coordinator's log",
}
OTHER = "something else publishes on our subjects, or another version runs: the coordinator's log names each"


def judge(facts: Facts) -> Iterator[Finding]:
    """Check ``messages.refused``, by kind."""
    if facts.status is None:
        return
    last = facts.trouble.refused if facts.trouble is not None else ()
    for kind, count in facts.status.bad.items():
        if kind == "at nodes":
            told = [f"{row.node} ({row.bad_messages})" for row in facts.nodes or () if row.bad_messages]
        else:
            told = [f"{bad.subject}: {bad.problem}" for bad in last if bad.kind == kind][-TOLD:]
        seen = f"{count} messages of the kind {kind!r} were refused" + (f": {few(told)}" if told else "")
        yield warning("messages.refused", seen, ADVICE.get(kind, OTHER), kind)
    if not facts.status.bad:
        yield ok("messages.refused", "every message could be understood")
