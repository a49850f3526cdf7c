"""What `fog doctor` says of what it was told: one row of facts for each thing that can be wrong, and nothing else is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from client.doctor.examine import examine, lasting
from client.doctor.facts import (
    Broker,
    Consumer,
    Facts,
    Folder,
    LeaseEntry,
    NoConnection,
    Refusal,
    Replica,
    Server,
    Stream,
)  # fmt: skip
from client.doctor.finding import Level, problem
from client.doctor.streams import overlap
from coordinator.core import tune
from coordinator.core.events import Beat, Tick
from coordinator.core.trouble import Look
from coordinator.core.views import node_row
from schemas import limits, streams
from schemas.api import NodeRow, PartUnknown, RefusedMessage, StatusReply, StuckTask, TroubleReply, WaitingGroup
from schemas.membership import Heartbeat, Holder, NodeState
from schemas.task import TaskPriority
from tests.core.world import World

TERM = 7
DAY_S = 86_400.0


def stream(config: dict[str, Any]) -> Stream:
    return Stream(config["name"], dict(config), leader="s1")


def healthy() -> Facts:
    """A fleet of one coordinator and one node in which nothing is wrong."""
    intake = [(streams.TASKS, f"p{p:d}") for p in TaskPriority] + [(streams.OUTCOMES, "outcomes")]
    return Facts(
        version="1",
        folder=Folder("/home/fog", pid=10, alive=True, url="nats://h:4222", lock_pid=10, creds_url="nats://h:4222",
                      port=4222, port_taken=True, disk_free=1 << 40, disk_total=1 << 41),
        broker=Broker("nats://h:4222", "2.15.1", 1 << 20, 1.0, servers=(Server("s1", "2.15.1", 0.0),),
                      connections=("fog-coordinator-c1", "fog-node-n1")),
        streams={config["name"]: stream(config) for config in streams.configurations()},
        consumers=(*(Consumer(s, f"FOG_coordinator_{TERM}_{what}") for s, what in intake),
                   Consumer(streams.WORK, "FOG_node_n1", asking=1)),
        queued_at={},
        lease=LeaseEntry(Holder("c1", TERM), 99, 0.3, 2.0),
        lease_read=True,
        status=StatusReply(coordinator="c1", term=TERM, version="1", slots=2),
        coordinator_ahead_s=0.0,
        nodes=(NodeRow("n1", NodeState.ONLINE, version="1", slots=2, clock_ahead_s=-0.01),),
        trouble=TroubleReply(),
    )  # fmt: skip


def said(facts: Facts) -> str:
    """The checks that are not in order: ``!`` a problem, ``~`` a warning."""
    marks = {Level.PROBLEM: "!", Level.WARNING: "~"}
    return " ".join(found.check + marks[found.level] for found in examine(facts) if found.level is not Level.OK)


def test_of_a_healthy_fleet_nothing_is_said_but_what_is_in_order() -> None:
    assert said(healthy()) == ""
    assert len(examine(healthy())) > 20


@dataclass
class Row:
    """How to spoil healthy facts, what is said then (``!`` a problem, ``~`` a warning), a word that the advice must hold."""

    spoil: Callable[[Facts], object]
    says: str
    advice: str


def folder(**more: Any) -> Callable[[Facts], object]:
    return lambda f: setattr(f, "folder", replace(f.folder, **more))


def broker(**more: Any) -> Callable[[Facts], object]:
    return lambda f: setattr(f, "broker", replace(f.broker, **more))


def status(**more: Any) -> Callable[[Facts], object]:
    return lambda f: setattr(f, "status", replace(f.status, **more))


def node(**more: Any) -> Callable[[Facts], object]:
    return lambda f: setattr(f, "nodes", (replace(f.nodes[0], **more),))  # type: ignore[index]


def lease(**more: Any) -> Callable[[Facts], object]:
    return lambda f: setattr(f, "lease", replace(f.lease, **more))


def trouble(**more: Any) -> Callable[[Facts], object]:
    return lambda f: setattr(f, "trouble", TroubleReply(**more))


def put(name: str, **more: Any) -> Callable[[Facts], object]:
    """Change a setting of a stream."""

    def spoil(facts: Facts) -> None:
        assert facts.streams is not None
        old = facts.streams[name]
        facts.streams[name] = replace(old, config={**old.config, **more})

    return spoil


def use(name: str, **more: Any) -> Callable[[Facts], object]:
    def spoil(facts: Facts) -> None:
        assert facts.streams is not None
        facts.streams[name] = replace(facts.streams[name], **more)

    return spoil


def beside(*subjects: str, **more: Any) -> Callable[[Facts], object]:
    """A stream of somebody else."""
    return lambda f: f.streams.update(other=stream({"name": "other", "subjects": list(subjects), **more}))  # type: ignore[union-attr]


def consumer(stream: str, name: str, **more: Any) -> Callable[[Facts], object]:
    return lambda f: setattr(f, "consumers", (*(f.consumers or ()), Consumer(stream, name, **more)))


def without(name: str) -> Callable[[Facts], object]:
    return lambda f: setattr(f, "consumers", tuple(c for c in f.consumers or () if c.name != name))


def clustered(**more: Any) -> Callable[[Facts], object]:
    def spoil(facts: Facts) -> None:
        assert facts.streams is not None
        broker(clustered=True)(facts)
        facts.streams[streams.WORK] = replace(facts.streams[streams.WORK], **more)

    return spoil


def stuck(kind: str) -> Callable[[Facts], object]:
    return trouble(stuck=(StuckTask(kind, "t1", 99.0, "n1", "placing"),), counts={kind: 1})


ROWS = {
    "no broker": Row(lambda f: setattr(f, "no_connection", NoConnection("none", "start it")), "broker.reach!", "start it"),
    "a slow link": Row(broker(round_trip_ms=900.0), "broker.reach~", "slow"),
    "no answer": Row(lambda f: f.unread.update(x="no answer on y"), "doctor.unread!", "credentials"),
    "full disk": Row(folder(disk_free=1 << 20), "broker.disk!", "make room"),
    "little disk": Row(folder(disk_free=2 << 30), "broker.disk~", "make room"),
    "small payload": Row(broker(payload_max=65_536), "broker.payload!", "max_payload"),
    "account full": Row(broker(storage=99, storage_max=100), "broker.storage!", "limit"),
    "slow reader": Row(broker(servers=(Server("s1", "2.15.1", 0.0, slow=1, slow_names=("page",)),)),
        "broker.slow-readers~", "too slow"),
    "server offline": Row(clustered(replicas=(Replica("s2", offline=True),)), "broker.cluster!", "start it"),
    "server behind": Row(clustered(replicas=(Replica("s2", lag=5000),)), "broker.cluster~", "wait"),
    "no leader": Row(clustered(leader=""), "broker.cluster!", "majority"),
    "no stream": Row(lambda f: f.streams.pop(streams.EVENTS),
        "streams.present!", "makes what is missing"),  # type: ignore[union-attr]
    "forgets": Row(put(streams.RESULTS, discard="old"), "streams.settings!", "coordinator"),
    "tells nobody": Row(put(streams.RESULTS, republish=None), "streams.settings!", "coordinator"),
    "other subjects": Row(put(streams.TASKS, subjects=["a"]), "streams.settings!", "coordinator"),
    "queue that ages": Row(put(streams.TASKS, max_age=60 * streams.NS), "streams.settings!", "--max-age=0"),
    "results age early": Row(put(streams.RESULTS, max_age=int(DAY_S) * streams.NS), "streams.settings!", "--max-age=7d"),
    "in memory": Row(put(streams.WORK, storage="memory"), "streams.settings!", "nats stream rm"),
    "other copies": Row(put(streams.WORK, num_replicas=3), "streams.copies~", "--replicas 3"),
    "results full": Row(use(streams.RESULTS, size=limits.RESULTS_BYTES), "streams.room!", "--max-bytes="),
    "results filling": Row(use(streams.RESULTS, size=int(0.85 * limits.RESULTS_BYTES)), "streams.room~", "age out"),
    "steals requests": Row(beside("fog.v1.register.>"), "streams.foreign!", "nats stream rm other"),
    "takes results": Row(beside("fog.v1.result.x.*"), "streams.foreign!", "nats stream rm other"),
    "nobody acts": Row(lambda f: (setattr(f, "lease", None), setattr(f, "status", None), broker(connections=())(f)),
                       "coordinator.lease!", "fog coordinator"),
    "lease for ever": Row(lease(ttl_s=0.0), "coordinator.lease!", "nats kv del"),
    "lease not renewed": Row(lease(age_s=60.0), "coordinator.lease!", "nats kv del"),
    "deposed": Row(lease(holder=Holder("c1", 8)), "coordinator.answers!", "stop c1"),
    "silent": Row(lambda f: setattr(f, "status", None), "coordinator.answers!", "taking over"),
    "same name twice": Row(broker(connections=("fog-coordinator-c1",) * 2), "coordinator.others!", "--name"),
    "intake gone": Row(without(f"FOG_coordinator_{TERM}_p3"), "consumers.intake!", "coordinator"),
    "older term": Row(consumer(streams.TASKS, "FOG_coordinator_6_p3", unacked=3), "consumers.old!", "nats consumer rm"),
    "stranger": Row(consumer(streams.WORK, "spy"), "consumers.foreign!", "nats consumer rm FOG_WORK spy"),
    "node cannot read": Row(without("FOG_node_n1"), "consumers.nodes!", "start it again"),
    "orphaned work": Row(lambda f: f.queued_at.update(ghost=2), "consumers.nodes!", "start ghost"),  # type: ignore[union-attr]
    "node ahead": Row(node(clock_ahead_s=60.0), "clocks.nodes~", "NTP"),
    "node far behind": Row(node(clock_ahead_s=-DAY_S), "clocks.nodes!", "NTP"),
    "we are off": Row(broker(servers=(Server("s1", "2.15.1", 99.0),)), "clocks.here~", "NTP"),
    "servers apart": Row(broker(servers=(Server("a", "2.15.1", 0.0), Server("b", "2.15.1", 9.0))), "clocks.servers!", "NTP"),
    "broker's clock set": Row(lambda f: setattr(f, "coordinator_ahead_s", 99.0), "clocks.coordinator!", "start it again"),
    "older node": Row(node(version="0"), "versions.nodes~", "upgrade"),
    "other coordinator": Row(lambda f: setattr(f, "version", "2"), "versions.coordinator~", "same version"),
    "mixed servers": Row(broker(servers=(Server("a", "2.11.0"), Server("b", "2.15.1"))), "versions.broker~", "upgrade"),
    "no node": Row(lambda f: setattr(f, "nodes", ()), "nodes.present~", "fog node"),
    "node lost": Row(node(state=NodeState.LOST), "nodes.lost~ nodes.present!", "fog node"),
    "node late": Row(node(state=NodeState.LATE), "nodes.late~ nodes.present!", "silent"),
    "outbox": Row(node(outbox=3), "nodes.outbox~", "by themselves"),
    "outbox of large ones": Row(node(outbox=3, closed_for="its outbox is full: …"), "nodes.outbox!", "FOG_RESULTS"),
    "full outbox": Row(node(outbox=limits.OUTBOX_LETTERS), "nodes.outbox!", "FOG_RESULTS"),
    "pretends": Row(node(pretending=True), "nodes.pretending~", "unset"),
    "refused": Row(lambda f: setattr(f, "refusals", (Refusal("n1", "another key", 60.0),)), "nodes.refused~", "--name"),
    "not taken in": Row(status(tasks={"stored": 9}), "tasks.intake!", "consumers"),
    "waits": Row(trouble(waiting=(WaitingGroup("no node fits: n1: it does not offer f", 3, "t1"),)),
        "tasks.waiting~", "--import"),
    "queued": Row(stuck("queued"), "tasks.queued!", "again"),
    "overdue": Row(stuck("overdue"), "tasks.overdue!", "fog cancel t1"),
    "unreported": Row(stuck("unreported"), "tasks.unreported!", "stop n1"),
    "unconfirmed": Row(stuck("unconfirmed"), "tasks.unconfirmed!", "broker"),
    "part lost": Row(lambda f: setattr(f, "parts_lost", ("j-0-5-x",)), "tasks.parts!", "--job"),
    "given up": Row(status(dead_letters=1), "dead.letters~", "fog dead"),
    "large letters": Row(lambda f: (status(dead_letters=9)(f), use(streams.DEAD, size=limits.DEAD_BYTES)(f)),
        "dead.letters~", "--retry"),
    "refused messages": Row(status(bad={"submit": 2}), "messages.refused~", "fog schema"),
    "killed": Row(folder(alive=False, lock_pid=0, port_taken=False), "home.instance!", "fog up"),
    "locked": Row(folder(alive=False, pid=0, lock_pid=33), "home.lock!", "kill 33"),
    "survivors": Row(folder(alive=False, lock_pid=0, strays={"broker": 44}), "home.instance! home.strays!", "kill 44"),
    "broken record": Row(folder(alive=False, lock_pid=0, broken="bad", port_taken=False), "home.instance!", "remove"),
    "foreign port": Row(folder(alive=False, pid=0, lock_pid=0), "home.instance! home.port!", "--port -1"),
    "bad port file": Row(folder(port=0, port_error="it holds 'x'"), "home.port!", "remove"),
    "key for all": Row(folder(creds_open=True), "home.creds~", "chmod 600"),
    "stale creds": Row(folder(creds_url="nats://h:1"), "home.creds!", "anew"),
    "log": Row(folder(errors=("[ERR] x",)), "home.log~", "server.log"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_is_wrong_is_said_and_nothing_else(name: str) -> None:
    """With an advice for each."""
    facts, row = healthy(), ROWS[name]
    row.spoil(facts)
    assert said(facts) == row.says
    advice = [found.advice for found in examine(facts) if found.level is not Level.OK]
    assert all(advice) and any(row.advice in text for text in advice), advice


def test_what_refusals_said_long_ago_full_event_streams_and_results_held_for_a_batch_are_no_trouble() -> None:
    facts = healthy()
    facts.refusals = (Refusal("n1", "another key", 2 * DAY_S),)
    use(streams.EVENTS, size=limits.EVENTS_BYTES)(facts)
    node(outbox=3, outbox_held=3)(facts)  # a phone that sends them with its next heartbeat
    beside("fog.v1.done.>", "somebody.>")(facts)  # an archive of results: it takes no subject of our streams
    assert said(facts) == ""


def test_tasks_that_were_given_up_are_counted_with_the_room_that_their_letters_take() -> None:
    facts = healthy()
    assert [found.seen for found in examine(facts) if found.check == "dead.letters"] == ["no task was given up"]
    status(dead_letters=2)(facts)
    use(streams.DEAD, messages=3, size=5_000)(facts)
    assert said(facts) == "dead.letters~"
    [told] = [found.seen for found in examine(facts) if found.check == "dead.letters"]
    assert told == "2 tasks were given up; their letters take 5 kB, 0% of the room in FOG_DEAD"
    use(streams.DEAD, messages=limits.DEAD_LETTERS)(facts)
    [told] = [found.seen for found in examine(facts) if found.check == "dead.letters"]
    assert told.endswith("100% of the room in FOG_DEAD, and the oldest go as new ones come")


def test_what_waits_for_its_time_only_is_no_trouble() -> None:
    facts = healthy()
    groups = (
        WaitingGroup("boom", 1, "t1", until=9e9),
        WaitingGroup("it is exclusive, and node n1 may run it for 9 s more", 1, "t2"),
    )
    trouble(waiting=groups)(facts)
    assert said(facts) == ""


def test_a_look_that_finds_nothing_readable_still_says_why() -> None:
    assert said(Facts("1", no_connection=NoConnection("none"))) == "broker.reach!"


def test_only_what_two_looks_agree_on_counts() -> None:
    first, second = problem("a", "x", "y", "n1"), problem("a", "x again", "y", "n1")
    assert lasting([first], [second, problem("a", "x", "y", "n2"), problem("b", "x", "y")]) == [second]


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("a.b", "a.b", True), ("a.*", "*.b", True), ("a.>", "a.b.c", True), (">", "a", True),
        ("a.b", "a.b.c", False), ("a.*", "b.>", False), ("a.>", "a", False),
    ],
)  # fmt: skip
def test_two_patterns_overlap_when_a_subject_can_match_both(one: str, other: str, both: bool) -> None:
    assert overlap(one.split("."), other.split(".")) is overlap(other.split("."), one.split(".")) is both


# What the coordinator tells of its tasks.


def look(world: World) -> TroubleReply:
    told = Look(world.state, world.now)
    told.at(list(world.state.tasks.values()))
    return told.told(())


def test_waiting_tasks_are_grouped_by_their_reason_with_the_oldest() -> None:
    w = World()
    w.join("n1")
    for number in range(3):
        w.submit(f"t{number}", "unknown")
        w.wait(1.0, beating=None)
    w.wait(tune.UNFIT_PARK_S, beating=None)
    (group,) = look(w).waiting
    assert (group.count, group.oldest) == (3, "t0")
    assert "does not offer unknown" in group.reason


def test_a_task_that_runs_past_its_timeout_is_told_and_one_within_is_not() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", timeout_s=10.0)
    w.beat("n1")
    w.wait(10.0 + tune.STUCK_OVERDUE_S - 5, beating=None)
    assert look(w).counts == {}
    w.wait(10.0, beating=None)
    (found,) = look(w).stuck
    assert (found.kind, found.task, found.node) == ("overdue", "t1", "n1")


def test_a_step_that_the_broker_does_not_confirm_is_told() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.submit("t1")
    w.wait(tune.STUCK_CONFIRM_S - 1, beating=None)
    assert look(w).counts == {}
    w.wait(2.0, beating=None)
    assert look(w).counts == {"unconfirmed": 1}
    w.release()
    assert look(w).counts == {}


def test_what_waits_behind_others_for_a_busy_fleet_is_not_stuck() -> None:
    w = World()
    w.join("n1", cores=1, slots=1)
    for number in range(30):
        w.submit(f"t{number}", "sleep")
    w.wait(2 * tune.STUCK_QUEUED_S, beating=None)
    w.feed(Tick())
    assert look(w).counts == {}


def test_parts_that_nobody_knows_of_are_told_and_ended_ones_are_not() -> None:
    w = World()
    w.join("n1")
    w.submit("p1")
    w.submit("p2")
    w.done("p1")
    w.state.parts["whole"] = ("p1", "p2", "p3")
    assert look(w).parts == (PartUnknown("whole", "p3"),)


def test_a_beat_tells_how_far_a_nodes_clock_is_off_and_what_its_outbox_holds() -> None:
    w = World()
    w.join("n1")
    w.feed(Beat(Heartbeat("n1", 1, 0, sent_at=w.now + 77.0, full=True, outbox=3, outbox_since=9.0)))
    row = node_row(w.state.nodes["n1"], w.now)
    assert (row.clock_ahead_s, row.outbox, row.outbox_since) == (77.0, 3, 9.0)


def test_refused_messages_are_told_as_they_are() -> None:
    refused = RefusedMessage("submit", "s", "bad", 1.0)
    assert Look(World().state, 0.0).told((refused,)).refused == (refused,)
