"""Are the streams and buckets there, and as `schemas.streams` wants them? Does a stream of somebody else take our subjects?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from client.doctor.facts import Facts, Stream
from client.doctor.finding import Finding, few, ok, problem, warning
from client.show import size, span
from schemas import limits, streams, subjects
from schemas.errors import STORES_NOTHING

NEARLY, FULL = 0.8, 0.95  # shares of a limit
NS = streams.NS
QUEUES = (streams.TASKS, streams.WORK, streams.OUTCOMES)
# Settled when the stream is made, or the operator's to set (`jetstream.ensure_streams` leaves them); judged by `_harmful`.
LEFT = {"persist_mode", "max_bytes", "max_msgs", "max_age", "storage", "num_replicas"}
MAKE = "stop the coordinator and start it again (`fog up`, or `fog coordinator`): it makes what is missing"
RESET = "stop the coordinator and start it again (`fog up`, or `fog coordinator`): it sets this right"
# On these a reply is waited for. A stream that stores the request answers first, with its own ack.
REQUESTS = [subjects.register("*"), subjects.command("*", "*"), subjects.api("*", "*")]


def judge(facts: Facts) -> Iterator[Finding]:
    """Checks ``streams.*``."""
    if facts.streams is None:
        return
    wanted = {config["name"]: config for config in streams.configurations()}
    there = {name: facts.streams[name] for name in wanted if name in facts.streams}
    yield from _present(list(wanted), there)
    yield from _settings(wanted, there)
    yield from _copies(there)
    yield from _room(there)
    yield from _writable(facts)
    yield from _foreign(facts.streams, wanted)


def _present(wanted: list[str], there: dict[str, Stream]) -> Iterator[Finding]:
    missing = [name for name in wanted if name not in there]
    for name in missing:
        lost = "" if len(missing) == len(wanted) else "; what it held is lost, unless you have a backup"
        yield problem("streams.present", f"{name} is missing", MAKE + lost, name)
    if not missing:
        yield ok("streams.present", f"all {len(wanted)} streams and buckets are there")


def _settings(wanted: dict[str, dict[str, Any]], there: dict[str, Stream]) -> Iterator[Finding]:
    good = True
    for name, stream in there.items():
        for field, ours in wanted[name].items():
            theirs = stream.config.get(field)
            if field not in LEFT and not _same(theirs, ours):
                good = False
                seen = f"{name} has {field} {theirs!r}, not {ours!r}"
                yield problem("streams.settings", seen, RESET, f"{name}.{field}")
        for field, seen, advice in _harmful(name, stream.config):
            good = False
            yield problem("streams.settings", seen, advice, f"{name}.{field}")
    if good and there:
        yield ok("streams.settings", "they are set as they should be")


def _same(theirs: Any, ours: Any) -> bool:
    """Whether the broker's value is ours; it may leave out what is not set, and add fields of its own."""
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and all(_same(theirs.get(key), value) for key, value in ours.items())
    if isinstance(ours, list):
        return isinstance(theirs, list) and sorted(theirs) == sorted(ours)
    return bool(theirs == ours) or (not theirs and not ours)


def _harmful(name: str, config: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Settings that are the operator's, where they break a promise: the field, what is seen, what to do."""
    age_s = int(config.get("max_age") or 0) / NS
    if name in QUEUES and age_s:
        yield "max_age", f"{name} forgets tasks after {span(age_s)}", f"nats stream edit {name} --max-age=0"
    if name == f"KV_{streams.NODES}" and age_s and age_s < limits.EVENT_AGE_S:
        yield "max_age", f"{name} forgets nodes after {span(age_s)}", f"nats stream edit {name} --max-age=0"
    if name == streams.RESULTS and age_s and age_s <= limits.RESULT_BY_S:
        least = int(limits.RESULT_AGE_S / 86_400)
        seen = f"{name} forgets results after {span(age_s)}; a later one of the same task would count again"
        yield "max_age", seen, f"nats stream edit {name} --max-age={least}d"
    if config.get("storage") == "memory":
        seen = f"{name} lies in memory: a restart of the broker loses it"
        yield (
            "storage",
            seen,
            f"stop the fleet, `nats stream rm {name}`, and start the coordinator: it makes it anew on disk",
        )
    if config.get("no_ack"):
        yield "no_ack", f"{name} confirms nothing: nobody can rely on it", f"nats stream edit {name} --ack"
    if config.get("sealed"):
        yield (
            "sealed",
            f"{name} is sealed: nothing can be stored",
            f"`nats stream rm {name}`, then start the coordinator",
        )
    most = int(config.get("max_msg_size") or -1)
    if 0 < most < limits.TASK_MAX and not name.startswith("KV_"):
        yield (
            "max_msg_size",
            f"{name} takes messages of up to {size(most)}",
            f"nats stream edit {name} --max-msg-size=-1",
        )


def _copies(there: dict[str, Stream]) -> Iterator[Finding]:
    counts = {name: int(stream.config.get("num_replicas") or 1) for name, stream in there.items()}
    if len(set(counts.values())) > 1:
        most = max(counts.values())
        fewer = [name for name, count in counts.items() if count < most]
        seen = f"{few(fewer)} has fewer than {most} copies, as others have"
        advice = f"start the coordinator with --replicas {most}: it raises them"
        yield warning("streams.copies", seen, advice, fewer[0])


def _room(there: dict[str, Stream]) -> Iterator[Finding]:
    good = True
    for name, stream in there.items():
        if stream.config.get("discard") == "old":  # the oldest go: full is how it is meant to be
            continue
        for field, used, shown in (("max_bytes", stream.size, size), ("max_msgs", stream.messages, str)):
            most = int(stream.config.get(field) or -1)
            if most <= 0 or used < NEARLY * most:
                continue
            good = False
            seen = f"{name} is nearly full: {shown(used)} of {shown(most)}; {_when_full(name)}"
            advice = f"raise its limit: nats stream edit {name} --{field.replace('_', '-')}={2 * most}" + _or_wait(name)
            yield (problem if used >= FULL * most else warning)("streams.room", seen, advice, f"{name}.{field}")
    if good and there:
        yield ok("streams.room", "none of them is nearly full")


def _writable(facts: Facts) -> Iterator[Finding]:
    if facts.unwritable:
        seen = f"the broker answers, and stores nothing: {facts.unwritable}"
        yield problem("streams.write", seen, f"see its log; {STORES_NOTHING}")


def _when_full(name: str) -> str:
    if name == streams.RESULTS:
        return "once full, results wait at the nodes and no more tasks are taken in"
    return "once full, no more tasks can be submitted" if name == streams.TASKS else "once full, it takes nothing more"


def _or_wait(name: str) -> str:
    return f" (results age out after {span(limits.RESULT_AGE_S)})" if name == streams.RESULTS else ""


def _foreign(there: dict[str, Stream], wanted: dict[str, Any]) -> Iterator[Finding]:
    good = True
    ours = [subject for config in wanted.values() for subject in config["subjects"]]
    for stream in there.values():
        if stream.name in wanted:
            continue
        taken = [subject for subject in stream.config.get("subjects") or [] if _any_overlap(subject, REQUESTS)]
        if taken and not stream.config.get("no_ack"):
            good = False
            seen = f"the stream {stream.name} takes {few(taken)}, and answers our requests there before we do"
            advice = f"nats stream rm {stream.name}, or make it with --no-ack"
            yield problem("streams.foreign", seen, advice, stream.name)
        clash = [subject for subject in stream.config.get("subjects") or [] if _any_overlap(subject, ours)]
        if clash:
            good = False
            seen = f"the stream {stream.name} takes {few(clash)}: ours cannot be made beside it"
            yield problem("streams.foreign", seen, f"nats stream rm {stream.name}, or edit its subjects", stream.name)
    if good:
        yield ok("streams.foreign", "no other stream takes our subjects")


def _any_overlap(subject: str, others: list[str]) -> bool:
    return any(overlap(subject.split("."), other.split(".")) for other in others)


def overlap(one: list[str], other: list[str]) -> bool:
    """Whether a subject can match both of these patterns, given as tokens."""
    for a, b in zip(one, other, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(one) == len(other)
