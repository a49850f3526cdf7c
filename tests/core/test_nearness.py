"""Who is near whom: the rule for places as a table, then what noise and time do; and whom a device measures, how often."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from coordinator.core.clusters.nearness import ALONE, KEPT_S, Nearness
from coordinator.core.clusters.sampling import sample
from node.core.nearness import AGAIN_S, PINGS, PINGS_AN_HOUR, SILENT_S, Measuring, named, rounded, why_not
from schemas.advice import PowerMode
from schemas.cluster import Membership, Near
from schemas.device import PEERS_MAX, DeviceState, NetworkType
from tests.core.test_clusters import World

Ways = dict[tuple[str, str], int]


def measured(names: str, ways: Ways, usual: int = 1) -> dict[str, dict[str, int]]:
    """What each of these devices says, where all ways that are not named take as long as usual."""
    tables: dict[str, dict[str, int]] = {name: {} for name in names}
    for one, other in combinations(names, 2):
        ms = ways.get((one, other), usual)
        tables[one][other] = tables[other][one] = ms
    return tables


def between(some: str, others: str, ms: int) -> Ways:
    return dict.fromkeys(((min(a, b), max(a, b)) for a in some for b in others), ms)


class Fleet:
    """Places, and time. `moves` counts how often a device took another place."""

    def __init__(self) -> None:
        self.near, self.now, self.moves = Nearness(), 0.0, 0

    def says(self, tables: dict[str, dict[str, int]], site: str = "gw1") -> dict[str, str]:
        for name in tables:
            self.near.heard(name, site, None)  # they are there, and have measured nothing yet
        for name, table in tables.items():
            self.near.heard(name, site, table)
            self.settle()
        return {name: place for name in sorted(tables) if (place := self.near.place.get(name, ""))}

    def settle(self) -> None:
        while moved := self.near.settle(self.now):
            self.moves += len(moved)


@pytest.mark.parametrize(
    ("names", "ways", "usual", "places"),
    [
        ("abcd", {}, 1, {}),
        ("abcd", {}, 20, {}),
        ("abcd", {}, 500, {}),  # a broker far away: nobody is near to anybody, which tells nobody apart
        ("abcd", between("d", "abc", 100), 1, {"d": ALONE}),
        ("abcd", between("d", "abc", 30), 1, {"d": ALONE}),
        ("abcdef", between("ef", "abcd", 50) | {("e", "f"): 100}, 1, {"e": ALONE, "f": ALONE}),
        ("abcdef", between("ef", "abcd", 50), 1, {"e": "p1", "f": "p1"}),
        ("abcdef", between("abc", "def", 50), 1, {"d": "p1", "e": "p1", "f": "p1"}),
        ("abcdef", between("abc", "def", 30), 1, {}),  # neither near nor far
        ("abcdefghi", between("abc", "defghi", 50) | between("def", "ghi", 50), 1,
         {"d": "p1", "e": "p1", "f": "p1", "g": "p2", "h": "p2", "i": "p2"}),
        ("ab", {("a", "b"): 500}, 1, {}),  # one way tells nothing
    ],
)  # fmt: skip
def test_places_by_what_was_measured(names: str, ways: Ways, usual: int, places: dict[str, str]) -> None:
    assert Fleet().says(measured(names, ways, usual)) == places


def test_what_one_side_reaches_quickly_is_near_whatever_the_other_measured() -> None:
    tables = measured("abcd", between("d", "abc", 100))
    tables["d"] |= {"a": 2, "b": 2}
    assert Fleet().says(tables) == {}


def test_devices_of_another_site_count_for_nothing() -> None:
    fleet = Fleet()
    tables = measured("abcd", between("d", "abc", 100))
    d = {"d": tables.pop("d")}
    fleet.says(tables)
    assert fleet.says(d, site="gw2") == {}


def test_who_comes_near_again_returns_and_nobody_moves_twice_in_a_short_time() -> None:
    fleet = Fleet()
    away, back = measured("abcdef", between("ef", "abcd", 100)), measured("abcdef", {})
    assert fleet.says(away) == {"e": "p1", "f": "p1"}
    assert fleet.says(back) == {"e": "p1", "f": "p1"}, "it is kept for a while"
    fleet.now += KEPT_S
    fleet.settle()
    assert set(fleet.near.place.values()) == {""}
    before = fleet.moves
    for _ in range(10):
        fleet.says(away)
        fleet.says(back)
    assert fleet.moves == before


tables = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([1, 20, 30, 50, 500]), max_size=PEERS_MAX)
sayings = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", "gw1"]), tables), max_size=40)


@settings(max_examples=40)
@given(sayings)
def test_places_come_to_rest_and_the_same_sayings_give_the_same_places(
    said: list[tuple[str, str, dict[str, int]]],
) -> None:
    fleets = Fleet(), Fleet()
    for node, site, table in said:
        for fleet in fleets:
            fleet.now += 60.0
            fleet.near.heard(node, site, table)
            fleet.settle()
    assert fleets[0].near.place == fleets[1].near.place
    assert fleets[0].moves <= 8 * (1 + fleets[0].now // KEPT_S) + len(said), (
        "once in that time, and where its site changed"
    )


def test_a_device_that_is_far_from_its_neighbours_is_seated_apart_from_them() -> None:
    """Two of nine laptops are behind a slow bridge: the cluster that grows too large is cut there, or at its middle."""
    world, near = World(), Nearness()
    names = "abcdefgh"
    for name in names:
        world.node(name)
    for name, table in measured(names, between("aeh", "bcdfg", 100)).items():
        near.heard(name, "gw1", table)
    while moved := near.settle(world.now):
        for name in moved:
            world.again(name, traits=structs.replace(world.state.nodes[name].traits, place=near.place[name]))
    world.node("i")
    assert world.state.home["i"].members == ["b", "c", "d", "f", "g", "i"]
    assert world.state.home["a"].members == ["a", "e", "h"]
    assert "near each other and apart from the rest" in world.state.home["a"].why


def test_a_node_measures_its_cluster_and_some_of_others_and_never_too_many() -> None:
    world = World()
    for number in range(100):
        world.node(f"n{number:02d}")
        world.state.near.heard(f"n{number:02d}", "gw1", None)
    assert (
        sum(len(sample(world.state, home, name)) > len(home.seats) - 1 for name, home in world.state.home.items()) > 75
    )
    for name, home in world.state.home.items():
        named = sample(world.state, home, name)
        assert {near.node for near in named if near.cluster == home.id} == set(home.members) - {name}
        others = [near for near in named if near.cluster != home.id]
        assert len(others) <= 4 and all(world.state.home[o.node].id == o.cluster for o in others)
        assert len(named) <= PEERS_MAX and named == sample(world.state, home, name)


def test_a_site_of_three_corners_is_found_out_by_few_measurements_and_comes_to_rest() -> None:
    """Each measures its own cluster and four others at most, again and again; of the others it learns from who is near."""
    world = World()
    near, names = world.state.near, [f"n{number:02d}" for number in range(45)]
    for name in names:
        near.heard(name, "gw1", None)
        world.node(name)

    def corner(name: str) -> int:
        return int(name[1:]) % 3

    def one_round() -> int:
        """All measure once more; returns how many took another place."""
        moves = 0
        for name in names:
            named = sample(world.state, world.state.home[name], name)
            near.heard(name, "gw1", {n.node: 1 if corner(n.node) == corner(name) else 100 for n in named})
            while moved := near.settle(world.now):
                moves += len(moved)
                for other in moved:
                    place = near.place[other]
                    world.again(other, traits=structs.replace(world.state.nodes[other].traits, place=place))
        world.now += AGAIN_S
        return moves

    rounds = 0
    while one_round():
        rounds += 1
        assert rounds < 10
    places = {(corner(name), near.place.get(name, "")) for name in names}
    assert len(places) == 3 == len({place for _, place in places}), "each corner is one place"
    mixed = [c for c in world.state.clusters.values() if len({corner(name) for name in c.members}) > 1]
    assert len(mixed) <= 2, "but where one place ends and the next begins"
    assert not one_round()


# The device's side.


@pytest.mark.parametrize(
    ("ms", "told", "said"),
    [(0.2, None, 1), (1.3, None, 1), (1.6, None, 2), (14.0, None, 10), (33.0, None, 50), (9e9, None, 5000),
     (31.0, 20, 20), (33.0, 20, 50), (13.0, 20, 20), (12.0, 20, 10), (0.0, None, 1)],
)  # fmt: skip
def test_round_trips_are_rounded_and_stick(ms: float, told: int | None, said: int) -> None:
    assert rounded(ms, told) == said


PEERS = [f"n{number}" for number in range(PEERS_MAX)]


def test_each_device_is_measured_once_then_told_of_and_measured_anew_hours_later() -> None:
    mine, now = Measuring(), 0.0
    asked = []
    while node := mine.next(PEERS, now):
        assert mine.table is None
        asked.append(node)
        mine.measured(node, None if node == "n3" else 3.0, PEERS, now)
        now += 5.0
    assert asked == PEERS and mine.table == {name: 2 for name in sorted(PEERS) if name != "n3"}
    assert mine.next(PEERS, SILENT_S + 15.0) == "n3", "one that did not answer is tried again before"
    mine.measured("n3", 3.0, PEERS, SILENT_S + 15.0)
    assert not mine.next(PEERS, SILENT_S + 20.0) and mine.next(PEERS, AGAIN_S) == "n0"


def test_one_slow_answer_changes_nothing_and_two_in_a_row_do() -> None:
    mine = Measuring()
    for ms, told in ((3.0, 2), (80.0, 2), (3.0, 2), (80.0, 2), (80.0, 100), (None, 100), (None, None)):
        now = mine._due.get("a", 0.0)
        assert mine.next(["a"], now) == "a"
        before = mine.table
        mine.measured("a", ms, ["a"], now)
        assert mine.table == ({} if told is None else {"a": told})
        assert (mine.table is before) == (mine.table == before), "nothing is told anew that is as it was"


@given(st.lists(st.tuples(st.floats(0, 600), st.sampled_from([None, 1.0, 90.0])), max_size=300))
def test_in_no_hour_more_pings_go_out_than_are_allowed(steps: list[tuple[float, float | None]]) -> None:
    mine, now = Measuring(), 0.0
    sent: list[float] = []
    for wait_s, ms in steps:
        now += wait_s
        node = mine.next(PEERS, now)
        if node:
            sent.extend([now] * PINGS)
            mine.measured(node, ms, PEERS, now)
        assert sum(at > now - 3600.0 for at in sent) <= PINGS_AN_HOUR


@pytest.mark.parametrize(
    ("mode", "state", "refuses", "why"),
    [
        (PowerMode.PERFORMANCE, DeviceState(), "", ""),
        (PowerMode.BALANCED, DeviceState(network_type=NetworkType.WIFI, network_metered=False), "", ""),
        (PowerMode.POWER_SAVE, DeviceState(), "", "its power mode is power_save"),
        (PowerMode.CRITICAL, DeviceState(), "", "its power mode is critical"),
        (PowerMode.BALANCED, DeviceState(network_metered=True), "", "its network is metered"),
        (PowerMode.BALANCED, DeviceState(network_type=NetworkType.CELLULAR), "", "its network is metered"),
        (PowerMode.PERFORMANCE, DeviceState(), "it is drained", "it is drained"),
    ],
)
def test_the_owners_battery_comes_first(mode: PowerMode, state: DeviceState, refuses: str, why: str) -> None:
    assert why_not(mode, state, refuses) == why


def test_who_never_heard_that_it_left_a_cluster_measures_no_more_than_its_heartbeat_may_tell() -> None:
    left = Membership(1, "left", near=tuple(Near(f"l{n}", "left") for n in range(PEERS_MAX)))
    home = Membership(2, "home", near=tuple(Near(f"h{n}", "home") for n in range(PEERS_MAX - 2)))
    peers = named([left, home])
    assert len(peers) == PEERS_MAX
    assert peers.keys() > {near.node for near in home.near}
