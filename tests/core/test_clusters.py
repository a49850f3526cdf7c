"""How clusters form and heal: the rule's promises held over random histories, then what happens, told one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.clusters import leading, machine, operating
from coordinator.core.clusters.grouping import MOVED_MAX, SIZE_MAX, SIZE_MIN
from coordinator.core.clusters.restoring import restore
from coordinator.core.clusters.state import Action, Belongs, Clusters, Elect, Say, Tell, Write
from coordinator.core.clusters.traits import Facts, facts_of
from coordinator.core.nodeview import NodeView
from schemas.cluster import (
    ClusterKind,
    ClusterRecord,
    ClusterRequest,
    CreateCluster,
    GrowCluster,
    Leadership,
    PinCluster,
    Traits,
)
from schemas.device import DeviceCapabilities, DeviceState, NetworkQuality
from schemas.errors import BadInput
from schemas.membership import NodeRecord, Offer
from tests.core.world import World as Core

LAPTOP = Traits("gw1", "", "laptop", 3, "good", "always")


class World:
    """The machine, with a broker that writes at once; leaders are written by compare-and-set, as the real one does."""

    def __init__(self, term: int = 1) -> None:
        self.state = Clusters(term)
        self.now = 1000.0
        self.records: dict[str, tuple[ClusterRecord, int]] = {}
        self.leaders: dict[str, tuple[Leadership, int]] = {}
        self.seq = 0
        self.events: list[tuple[str, str, Any]] = []
        self.belongs: dict[str, frozenset[str]] = {}
        self.told: list[str] = []
        self.hold = False
        self.held: list[Elect] = []

    def node(self, name: str, traits: Traits = LAPTOP, score: float = 0.5, **more: Any) -> None:
        machine.seen(self.state, Facts(name, traits, score, more.pop("has", {}), **more), self.now)
        self.settle()

    def again(self, name: str, **changes: Any) -> None:
        machine.seen(self.state, replace(self.state.nodes[name], **changes), self.now)
        self.settle()

    def lose(self, name: str) -> None:
        self.again(name, here=False, gone=True, may_lead=False)

    def settle(self) -> None:
        self.do(machine.settle(self.state, self.now))

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            self.seq += 1
            match action:
                case Write(name, None):
                    self.records.pop(name, None)
                    self.leaders.pop(name, None)
                case Write(name, record) if record is not None:
                    self.records[name] = record, self.seq
                case Elect():
                    self.held.append(action)
                case Say():
                    self.events.append((action.kind, action.about, action.data))
                case Tell(node):
                    self.told.append(node)
                case Belongs(node, clusters):
                    self.belongs[node] = clusters
        if not self.hold:
            self.let_go()

    def let_go(self) -> None:
        held, self.held = self.held, []
        for elect in held:
            if self.leaders.get(elect.cluster, (None, 0))[1] != elect.revision:
                continue
            self.seq += 1
            self.leaders[elect.cluster] = elect.leadership, self.seq
            out: list[Action] = []
            leading.elected(self.state, elect.cluster, elect.leadership, self.seq, self.now, out)
            self.do(out)

    def homes(self) -> dict[str, str]:
        return {node: cluster.id for node, cluster in self.state.home.items()}

    def shape(self) -> dict[str, list[str]]:
        return {name: cluster.members for name, cluster in sorted(self.state.clusters.items())}


def check(world: World) -> None:
    """What must hold after every turn."""
    state = world.state
    seats = [node for c in state.clusters.values() if c.kind is not ClusterKind.SELECTOR for node in c.members]
    assert len(seats) == len(set(seats)), "a node has two homes"
    online = {facts.node for facts in state.nodes.values() if facts.here}
    assert online <= set(seats), "a node that is online has no home"
    for cluster in state.clusters.values():
        assert all(state.home[node] is cluster for node in cluster.members) or cluster.kind is ClusterKind.SELECTOR
        if cluster.by_rule:
            sites = {seat.traits.site for seat in cluster.seats}
            alone = [c for c in state.clusters.values() if c.by_rule and c.site == cluster.site] == [cluster]
            assert len(sites) == 1 and len(cluster.seats) <= SIZE_MAX
            assert alone or len(cluster.seats) >= SIZE_MIN
        assert set(world.records[cluster.id][0].seats) == set(cluster.seats), "what is kept is what is"
    assert set(world.records) == set(state.clusters)
    assert {node: {c.id for c in state.clusters.values() if node in c.members} for node in online} == {
        node: set(world.belongs[node]) for node in online
    }


NAMES = [f"n{i:02d}" for i in range(30)]
traits = st.builds(
    Traits,
    st.sampled_from(["", "gw1"]),
    st.sampled_from(["", "alone", "p1"]),
    st.sampled_from(["laptop", "smartphone"]),
    st.integers(1, 4),
    st.sampled_from(["", "good"]),
)
changes = st.one_of(
    st.tuples(st.just("node"), st.sampled_from(NAMES), traits, st.sampled_from([0.1, 0.5, 0.9])),
    st.tuples(st.just("lose"), st.sampled_from(NAMES)),
    st.tuples(st.just("forget"), st.sampled_from(NAMES)),
)


def play(world: World, change: tuple[Any, ...]) -> None:
    what, name, *more = change
    if what == "node":
        world.node(name, *more)
    elif name not in world.state.nodes:
        return
    elif what == "lose":
        world.lose(name)
    else:
        machine.gone(world.state, name)
        world.settle()


@given(st.lists(changes, max_size=120))
def test_every_online_node_has_one_home_within_bounds_and_a_change_moves_few(history: list[tuple[Any, ...]]) -> None:
    world, twin = World(), World()
    for change in history:
        before = world.homes()
        play(world, change)
        play(twin, change)
        after = world.homes()
        moved = [node for node in before if node != change[1] and before[node] != after[node]]
        reseated = change[0] == "node" and change[1] in before  # leaves one place and joins another
        assert len(moved) <= (MOVED_MAX + 2 if reseated else MOVED_MAX)
        check(world)
    assert world.shape() == twin.shape(), "the same input gives the same clusters"
    assert [e[:2] for e in world.events] == [e[:2] for e in twin.events]


@given(st.lists(changes, max_size=80))
def test_a_successor_has_the_same_clusters_and_the_same_leaders(history: list[tuple[Any, ...]]) -> None:
    world = World()
    for change in history:
        play(world, change)
    heir = World(term=2)
    heir.records, heir.leaders, heir.seq = dict(world.records), dict(world.leaders), world.seq
    restore(heir.state, world.records, world.leaders, heir.now)
    for facts in world.state.nodes.values():
        machine.seen(heir.state, facts, heir.now)
    heir.settle()
    check(heir)
    assert heir.shape() == world.shape()
    assert not [event for event in heir.events if event[0] != "cluster.leader-elected"]
    assert {n: c.leader for n, c in heir.state.clusters.items()} == {
        n: c.leader for n, c in world.state.clusters.items()
    }


@given(st.lists(changes, min_size=20, max_size=80), st.data())
def test_a_coordinator_that_died_between_two_writes_leaves_nothing_that_the_next_cannot_mend(
    history: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    world, older = World(), dict[str, tuple[ClusterRecord, int]]()
    for change in history:
        older = dict(world.records)
        play(world, change)
    kept = dict(older)
    for name in data.draw(st.sets(st.sampled_from(sorted({*world.records, *older, "none"})))):  # these writes were made
        kept.pop(name, None)
        if name in world.records:
            kept[name] = world.records[name]
    heir = World(term=2)
    heir.records, heir.leaders, heir.seq = dict(kept), dict(world.leaders), world.seq
    restore(heir.state, kept, world.leaders, heir.now)
    for node in set(heir.state.home) - set(world.state.nodes):
        machine.gone(heir.state, node)
    for facts in world.state.nodes.values():
        machine.seen(heir.state, facts, heir.now)
    heir.settle()
    check(heir)


def test_eleven_laptops_behind_one_gateway_are_clusters_of_about_five() -> None:
    world = World()
    for name in NAMES[:11]:
        world.node(name)
    assert sorted(len(c.seats) for c in world.state.clusters.values()) == [5, 6]
    assert world.state.home["n00"].why == "laptops, tier high, behind gateway gw1, good link, mostly there always"


def test_a_cluster_that_grows_too_large_is_cut_where_its_members_differ_most() -> None:
    world = World()
    for name in NAMES[:4]:
        world.node(name, replace_type("smartphone"))
    for name in NAMES[4:9]:
        world.node(name)
    assert {frozenset(members) for members in world.shape().values()} == {frozenset(NAMES[:4]), frozenset(NAMES[4:9])}


def replace_type(kind: str) -> Traits:
    return Traits("gw1", "", kind, 2, "good", "always")


def test_nodes_behind_another_gateway_are_never_in_the_same_cluster() -> None:
    world = World()
    for number, name in enumerate(NAMES[:9]):
        world.node(name, Traits(f"gw{number % 3}", "", "laptop", 3))
    assert all(len({seat.traits.site for seat in c.seats}) == 1 for c in world.state.clusters.values())


def test_a_beat_that_is_late_moves_nobody_and_a_lost_node_leaves() -> None:
    world = World()
    for name in NAMES[:4]:
        world.node(name)
    world.again("n01", here=False, may_lead=False)
    assert world.shape() == {"c1": NAMES[:4]}
    world.lose("n01")
    assert world.shape() == {"c1": ["n00", "n02", "n03"]}
    assert world.events[-1][0] == "cluster.changed" and world.events[-1][2].left == ("n01",)
    world.node("n01")
    assert world.shape() == {"c1": NAMES[:4]}


def test_a_better_link_alone_moves_a_node_only_after_hours() -> None:
    world = World()
    for name in NAMES[:9]:
        world.node(name)
    before = world.shape()
    world.node("n00", Traits("gw1", "", "laptop", 3, "poor", "always"))
    assert world.shape() == before
    world.now += machine.SOFT_AGAIN_S
    world.node("n00", Traits("gw1", "", "laptop", 3, "poor", "always"))
    assert machine.seat_of(world.state.home["n00"], "n00").traits.latency == "poor"


# Leaders.


def test_the_highest_score_leads_and_of_equals_the_first_by_id() -> None:
    world = World()
    world.hold = True
    for name, score in (("b", 0.7), ("c", 0.7), ("a", 0.6)):
        world.node(name, score=score)
    world.let_go()
    assert world.state.clusters["c1"].leader == "b"
    assert len([e for e in world.events if e[0] == "cluster.leader-elected"]) == 1


def test_a_lost_leader_is_replaced_in_the_same_turn_under_a_higher_term() -> None:
    world = World()
    for name, score in (("a", 0.9), ("b", 0.7), ("c", 0.8)):
        world.node(name, score=score)
    cluster = world.state.clusters["c1"]
    assert cluster.leader == "a"
    term = cluster.term
    world.lose("a")
    assert cluster.leader == "c" and cluster.term > term
    kind, _, data = world.events[-1]
    assert kind == "cluster.leader-elected" and data.before == "a" and data.reason == "a was lost"


def test_a_slightly_better_member_does_not_lead_and_a_clearly_better_one_only_after_a_while() -> None:
    world = World()
    world.node("a", score=0.6)
    world.node("b", score=0.65)
    cluster = world.state.clusters["c1"]
    assert cluster.leader == "a"
    world.again("b", score=0.75)
    world.now += leading.HOLD_S / 2
    world.again("b", score=0.6)  # it was for a moment
    world.again("b", score=0.75)
    world.now += leading.HOLD_S / 2
    world.do(machine.look_again(world.state, world.now))
    assert cluster.leader == "a"
    world.now += leading.HOLD_S / 2
    world.do(machine.look_again(world.state, world.now))
    assert cluster.leader == "b"


def test_a_leader_that_drains_is_replaced_and_one_whose_beat_is_late_is_not() -> None:
    world = World()
    world.node("a", score=0.9)
    world.node("b", score=0.5)
    world.again("a", here=False, may_lead=False)
    assert world.state.clusters["c1"].leader == "a"
    world.again("a", here=True, may_lead=False)
    assert world.state.clusters["c1"].leader == "b"


def test_a_leader_that_is_lost_while_it_is_written_is_replaced_once_it_is() -> None:
    world = World()
    world.hold = True
    world.node("a", score=0.9)
    world.node("b", score=0.5)
    world.lose("a")
    world.hold = False
    world.let_go()
    assert world.state.clusters["c1"].leader == "b"
    assert [e[2].leader for e in world.events if e[0] == "cluster.leader-elected"] == ["a", "b"]


def test_of_two_coordinators_only_one_can_write_a_leader() -> None:
    world = World()
    world.hold = True
    world.node("a", score=0.9)
    world.seq += 1
    world.leaders["c1"] = Leadership("z"), world.seq  # another one was faster
    world.let_go()
    assert world.leaders["c1"][0].leader == "z" and world.state.clusters["c1"].leader == ""


# Operators.


def test_nodes_of_a_made_cluster_leave_their_homes_and_stay_whatever_happens() -> None:
    world = World()
    for name in NAMES[:8]:
        world.node(name)
    operating.create(world.state, CreateCluster("edge", ("n01", "n05")), world.now)
    world.settle()
    check(world)
    assert world.shape()["edge"] == ["n01", "n05"]
    world.lose("n01")
    assert world.shape()["edge"] == ["n01", "n05"] and world.state.clusters["edge"].leader == "n05"
    world.node("n01")
    assert world.homes()["n01"] == "edge"
    operating.dissolve(world.state, ClusterRequest("edge"), world.now)
    world.settle()
    check(world)
    assert "edge" not in world.shape() and world.homes()["n01"] == "c1"
    assert [e[0] for e in world.events if e[1] == "edge"][-1] == "cluster.dissolved"


def test_a_pinned_cluster_takes_nobody_and_gives_nobody_until_it_is_released() -> None:
    world = World()
    for name in NAMES[:4]:
        world.node(name)
    operating.pin(world.state, PinCluster("c1"), world.now)
    world.settle()
    for name in NAMES[4:8]:
        world.node(name)
    assert world.shape()["c1"] == NAMES[:4]
    check(world)
    operating.pin(world.state, PinCluster("c1", release=True), world.now)
    world.settle()
    check(world)
    assert "c1" not in world.shape() and sum(map(len, world.shape().values())) == 8


def test_a_cluster_grows_by_the_most_similar_nodes() -> None:
    world = World()
    for name in NAMES[:5]:
        world.node(name)
    for name in NAMES[5:8]:
        world.node(name, replace_type("smartphone"))
    operating.create(world.state, CreateCluster("mine", ("n00",)), world.now)
    operating.grow(world.state, GrowCluster("mine", by=2), world.now)
    world.settle()
    assert world.shape()["mine"] == ["n00", "n01", "n02"]
    check(world)
    for name in NAMES[8:14]:
        world.node(name, replace_type("tablet"))
    others = world.state.home["n13"]
    before = set(others.members)
    operating.grow(world.state, GrowCluster(others.id, by=1), world.now)
    world.settle()
    assert before < set(others.members) and len(others.members) == len(before) + 1, (
        "it does not grow by its own members"
    )
    check(world)


def test_a_selector_cluster_keeps_up_to_date_and_leaves_homes_alone() -> None:
    world = World()
    world.node("a", has={"gpu": "true"})
    world.node("b", has={"gpu": "false", "site": "home"})
    operating.create(world.state, CreateCluster("gpus", selector={"gpu": "true"}), world.now)
    world.settle()
    assert world.shape()["gpus"] == ["a"] and world.belongs["a"] == {"c1", "gpus"}
    world.again("b", has={"gpu": "true"})
    world.node("d", has={"gpu": "true"})
    world.again("a", has={})
    assert world.shape() == {"c1": ["a", "b", "d"], "gpus": ["b", "d"]}
    world.lose("d")
    check(world)
    assert world.shape()["gpus"] == ["b"]
    operating.dissolve(world.state, ClusterRequest("gpus"), world.now)
    world.settle()
    assert world.shape() == {"c1": ["a", "b"]} and world.belongs["b"] == {"c1"}


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda s: operating.create(s, CreateCluster("c1", ("a",)), 0), "cluster"),
        (lambda s: operating.create(s, CreateCluster("x", ("nobody",)), 0), "nodes"),
        (lambda s: operating.create(s, CreateCluster("x"), 0), "nodes"),
        (lambda s: operating.pin(s, PinCluster("x"), 0), "cluster"),
        (lambda s: operating.grow(s, GrowCluster("c1"), 0), "nodes"),
        (lambda s: operating.grow(s, GrowCluster("c1", by=2), 0), "by"),
        (lambda s: operating.dissolve(s, ClusterRequest("x"), 0), "cluster"),
    ],
)
def test_what_an_operator_cannot_do_is_refused_by_the_name_of_the_field(ask: Any, field: str) -> None:
    world = World()
    world.node("a")
    with pytest.raises(BadInput) as refused:
        ask(world.state)
    assert refused.value.field == field
    assert world.shape() == {"c1": ["a"]}


# What a node is grouped by.


def view(**device: Any) -> NodeView:
    record = NodeRecord("n1", "", "s", 1, DeviceCapabilities(cpu_cores=8, ram_total_mb=8192), Offer(), 0.0, 0.0)
    made = NodeView(record, 0, 5.0)
    made.merge(DeviceState(**device))
    return made


def test_what_a_new_coordinator_has_not_heard_of_a_node_yet_is_as_it_was_seated_by() -> None:
    was = Traits("gw1", "", "", 4, "good", "always")
    assert facts_of(view(), "always", "", was).traits == was
    heard = facts_of(view(network_gateway=None, network_quality=NetworkQuality.FAIR), "always", "", was).traits
    assert (heard.site, heard.latency) == ("", "fair"), "that it does not know its gateway any more is news"


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"cpu_utilization": 0.9}, False),
        ({"ram_available_mb": 1100}, False),  # within the step of 256 MiB
        ({"ram_available_mb": 900}, True),
        ({"battery_percent": 51.0}, False),
        ({"battery_percent": 30.0}, True),
        ({"mains": True}, True),
        ({"network_quality": NetworkQuality.POOR}, True),
        ({"network_gateway": "gw2"}, True),
        ({"network_peers": {"n2": 50}}, True),
        ({"network_peers": {"n2": 1}}, False),
    ],
)
def test_a_beat_has_a_node_looked_at_only_when_its_standing_changed(change: dict[str, Any], counts: bool) -> None:
    node = view(
        cpu_utilization=0.1, ram_available_mb=1050, battery_percent=52.0, mains=False, network_gateway="gw1",
        network_quality=NetworkQuality.GOOD, network_peers={"n2": 1},
    )  # fmt: skip
    node.restood = False
    node.merge(DeviceState(**change))
    assert node.restood is counts


def test_a_node_whose_standing_changed_is_among_those_that_the_areas_are_told_of() -> None:
    core = Core()
    core.join("n1")
    core.state.changed.clear()
    core.beat("n1", state=DeviceState(ram_available_mb=300))
    assert core.state.changed == {"n1"}
    core.state.changed.clear()
    core.beat("n1", state=DeviceState(ram_available_mb=310))
    assert core.state.changed == set()
