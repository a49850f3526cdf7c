"""Is the broker fit: storage, disk, payload, clocks apart, readers that it dropped, servers that are gone?"""

from __future__ import annotations

from collections.abc import Iterator

from client.doctor.facts import Broker, Facts, Stream
from client.doctor.finding import Finding, few, ok, problem, warning
from client.show import size
from schemas import limits

NEARLY, FULL = 0.8, 0.95  # shares of a limit
DISK_MIN = 1 << 30
DISK_LOW = 5 << 30
LAG_MAX = 1000  # messages that a copy may be behind


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``broker.*``."""
    folder = facts.folder
    if folder is not None and folder.disk_free is not None and folder.alive:
        yield _disk(folder.disk_free, folder.disk_total)
    broker = facts.broker
    if broker is None:
        return
    yield from _storage(broker)
    yield _payload(broker)
    yield _slow(broker)
    if broker.clustered and facts.streams is not None:
        yield from _copies(facts.streams)


def _disk(free: int, total: int) -> Finding:
    seen = f"{size(free)} of {size(total)} are free on the broker's disk"
    advice = "make room on that disk: with none left the broker stores nothing, and nothing can be submitted"
    if free < DISK_MIN:
        return problem("broker.disk", seen, advice)
    return warning("broker.disk", seen, advice) if free < DISK_LOW else ok("broker.disk", seen)


def _storage(broker: Broker) -> Iterator[Finding]:
    for what, used, most in (
        ("file", broker.storage, broker.storage_max),
        ("memory", broker.memory, broker.memory_max),
    ):
        if most <= 0:
            if what == "file":
                yield ok("broker.storage", f"{size(used)} stored; this account has no limit of its own")
            continue
        seen = f"{size(used)} of the {size(most)} that this account may keep in {what} storage are used"
        advice = "raise the account's limit, or make room: `nats stream ls` shows what takes it"
        yield _against("broker.storage", seen, advice, used / most)


def _against(check: str, seen: str, advice: str, share: float) -> Finding:
    if share >= FULL:
        return problem(check, seen, advice)
    return warning(check, seen, advice) if share >= NEARLY else ok(check, seen)


def _payload(broker: Broker) -> Finding:
    needed = limits.TASK_MAX + (limits.TASK_MAX // 3)
    seen = f"messages of up to {size(broker.payload_max)} are taken"
    if broker.payload_max < needed:
        advice = (
            f"set max_payload to 1MB in the broker's configuration: fogfleet's largest messages have {size(needed)}"
        )
        return problem("broker.payload", seen, advice)
    return ok("broker.payload", seen)


def _slow(broker: Broker) -> Finding:
    count = sum(server.slow for server in broker.servers)
    names = sorted({name for server in broker.servers for name in server.slow_names})
    if names:
        seen = f"connections were ended since they did not read what was sent to them: {few(names)}"
        advice = "those programs, or their networks, are too slow for what they subscribe to: narrow their subjects"
        return warning("broker.slow-readers", seen, advice, names[0])
    return ok("broker.slow-readers", "no reader was dropped lately" if count else "no reader was ever dropped")


def _copies(streams: dict[str, Stream]) -> Iterator[Finding]:
    bad = False
    for stream in streams.values():
        if not stream.leader:
            bad = True
            advice = "start the servers that are down: a majority must be up"
            yield problem(
                "broker.cluster", f"{stream.name} has no leader: nothing is stored there", advice, stream.name
            )
    gone = sorted({r.name for s in streams.values() for r in s.replicas if r.offline})
    behind = sorted(
        {r.name for s in streams.values() for r in s.replicas if not r.offline and (not r.current or r.lag > LAG_MAX)}
    )
    for name in gone:
        yield problem("broker.cluster", f"server {name} is offline", "start it: another loss may stop the fleet", name)
    for name in behind:
        yield warning(
            "broker.cluster", f"server {name} is behind with copies", "wait; if that lasts, look at its disk", name
        )
    if not (gone or behind or bad):
        yield ok("broker.cluster", "all copies of all streams are up to date")
