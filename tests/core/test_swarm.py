"""Where the chunks of an artifact come from: stories of one member, and seeded clusters of many on a virtual clock."""

from __future__ import annotations

import heapq
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.swarm import (
    BANNED_S,
    BROKEN_S,
    GETS,
    JOIN_S,
    STALL_S,
    STORE,
    Ask,
    Drop,
    FromStore,
    Get,
    Out,
    Swarm,
)
from schemas.rendezvous import owners

CHUNKS = [f"chunk-{number:02d}" for number in range(40)]
NOTHING: frozenset[str] = frozenset()
ALL = frozenset(CHUNKS)


def owned_by(node: str, among: list[str]) -> list[str]:
    return [digest for digest in CHUNKS if owners(digest, among, 1) == [node]]


def swarm(me: str = "me", serves: bool = True, out: dict[str, float] | None = None) -> Swarm:
    return Swarm(me, CHUNKS, 0.0, serves=serves, out={} if out is None else out)


def begun(made: Swarm, *heard: tuple[str, bool, frozenset[str]], now: float = 0.0) -> Swarm:
    """The first round of asking is over."""
    assert made.next(now, 4) == [Ask()]
    assert made.next(now, 4) == [], "the store is asked for nothing before it is known who else takes it"
    for node, takes, have in heard:
        made.heard(node, takes, have, now)
    made.asked(now)
    return made


def gets(out: Out) -> dict[str, str]:
    return {action.node: action.digest for action in out if isinstance(action, Get)}


def of_store(out: Out) -> tuple[str, ...]:
    return next((action.digests for action in out if isinstance(action, FromStore)), ())


def test_alone_all_of_it_comes_from_the_store_in_order_and_in_batches() -> None:
    alone = begun(swarm())
    for at in range(0, len(CHUNKS), 4):
        assert of_store(alone.next(0.0, 4)) == tuple(CHUNKS[at : at + 4])
        assert alone.next(0.0, 4) == [], "one batch at a time"
        alone.stored(CHUNKS[at : at + 4])
    assert alone.done


def test_two_that_take_it_at_once_bring_a_part_each_and_wait_for_the_other_s() -> None:
    one = begun(swarm("a"), ("b", True, NOTHING))
    first = one.next(0.0, 100)
    assert of_store(first) == tuple(owned_by("a", ["a", "b"]))
    assert gets(first) == {"b": owned_by("b", ["a", "b"])[0]}
    one.came(owned_by("b", ["a", "b"])[0], "b", 0.1)
    assert gets(one.next(0.1, 100)) == {"b": owned_by("b", ["a", "b"])[1]}


def test_a_peer_that_has_it_whole_spares_the_store_altogether() -> None:
    late = begun(swarm(), ("a", True, ALL), ("b", True, ALL))
    asked: Counter[str] = Counter()
    while not late.done:
        out = late.next(0.0, 4)
        assert not of_store(out) and set(gets(out)) == {"a", "b"}
        for node, digest in gets(out).items():
            late.came(digest, node, 0.0)
            asked[node] += 1
    assert asked == {"a": 20, "b": 20}


def test_the_part_of_one_that_may_begin_yet_waits_for_it_a_moment_and_no_longer() -> None:
    one = begun(swarm("a"), ("b", False, NOTHING))
    mine, theirs = owned_by("a", ["a", "b"]), owned_by("b", ["a", "b"])
    assert of_store(one.next(0.0, 100)) == tuple(mine)
    one.stored(mine)
    assert of_store(one.next(JOIN_S - 0.1, 100)) == ()
    assert of_store(one.next(JOIN_S, 100)) == tuple(theirs)


def test_one_that_joins_brings_its_part_from_then_on() -> None:
    one = begun(swarm("a"), ("b", False, NOTHING))
    one.stored(of_store(one.next(0.0, 100)))
    one.heard("b", True, NOTHING, 1.0)
    assert gets(one.next(1.0, 100)) == {"b": owned_by("b", ["a", "b"])[0]}
    assert of_store(one.next(JOIN_S + 1, 100)) == ()


def test_of_a_peer_that_breaks_off_the_part_goes_to_those_that_are_left_and_it_is_asked_again_later() -> None:
    one = begun(swarm("a"), ("b", True, NOTHING))
    one.stored(of_store(one.next(0.0, 100)))
    one.broken(owned_by("b", ["a", "b"])[0], "b", 1.0)
    some = of_store(one.next(1.0, 3))
    assert some == tuple(owned_by("b", ["a", "b"])[:3])
    one.stored(some)
    one.heard("b", True, ALL, 2.0)
    assert not gets(one.next(2.0, 3)), "it is still left out"
    one.stored(owned_by("b", ["a", "b"])[3:6])
    assert gets(one.next(1.0 + BROKEN_S, 3)) == {"b": owned_by("b", ["a", "b"])[6]}


def test_one_that_serves_something_else_is_told_of_and_left_out_also_for_the_next_artifact() -> None:
    out: dict[str, float] = {}
    one = begun(swarm(out=out), ("b", True, ALL), ("c", True, ALL))
    digest = gets(one.next(0.0, 4))["b"]
    assert one.rubbish(digest, "b", 0.0) == [Drop("b", digest)]
    other = begun(swarm(out=out), ("b", True, ALL), ("c", True, ALL), now=1.0)
    assert set(gets(other.next(1.0, 4))) == {"c"}
    later = begun(swarm(out=out), ("b", True, ALL), ("c", True, ALL), now=BANNED_S)
    assert set(gets(later.next(BANNED_S, 4))) == {"b", "c"}


def test_who_was_left_out_long_ago_is_not_kept_in_mind() -> None:
    out = {"b": 1.0, "c": 2.0}
    Swarm("me", CHUNKS, 1.0, serves=True, out=out)
    assert out == {"c": 2.0}


def test_a_peer_that_has_not_what_it_said_is_left_out_and_one_that_only_lets_wait_is_not() -> None:
    one = begun(swarm("a"), ("b", True, NOTHING), ("c", True, frozenset(CHUNKS[:3])))
    out = gets(one.next(0.0, 1))
    one.lacks(out["c"], "c", 1.0)
    assert one.out == {"c": 1.0 + BROKEN_S}
    one.lacks(out["b"], "b", 2.0)
    assert "b" not in one.out and not gets(one.next(2.0, 1)), "it is heard again before it is waited for again"
    one.heard("b", True, NOTHING, 3.0)
    assert set(gets(one.next(3.0, 1))) == {"b"}


def test_an_owner_that_brings_nothing_for_long_loses_its_part() -> None:
    one = begun(swarm("a"), ("b", True, NOTHING))
    one.stored(of_store(one.next(0.0, 100)))
    one.heard("b", True, frozenset(owned_by("a", ["a", "b"])), 5.0)  # what it got from here is no progress
    assert of_store(one.next(STALL_S - 1, 100)) == ()
    assert of_store(one.next(STALL_S, 100))


def test_one_that_may_not_serve_leaves_the_store_to_the_others_and_takes_from_them() -> None:
    phone = begun(swarm("phone", serves=False), ("b", True, NOTHING))
    out = phone.next(0.0, 100)
    assert of_store(out) == () and set(gets(out)) == {"b"}
    phone.silent("b")
    assert of_store(phone.next(0.0, 100)) == tuple(CHUNKS), "there is nobody else"


class World:
    """Members with one artifact to get, each on its own clock of arrivals. `faults` maps a node to what is wrong with it."""

    def __init__(self, seed: int, nodes: int, faults: dict[str, str], spread_s: float) -> None:
        self.random, self.now, self.faults = Random(seed), 0.0, faults
        self.names = [f"n{number}" for number in range(nodes)]
        self.begins = {node: self.random.uniform(0, spread_s) for node in self.names}
        self.swarms: dict[str, Swarm] = {}
        self.from_store: Counter[str] = Counter()
        self.dropped: list[tuple[str, str]] = []
        self.queue: list[tuple[float, int, object]] = []
        self.number = 0
        for node, at in self.begins.items():
            self.at(at, lambda node=node: self.begin(node))  # type: ignore[misc]

    def at(self, when: float, what: object) -> None:
        self.number += 1
        heapq.heappush(self.queue, (when, self.number, what))

    def run(self, until: float) -> None:
        while self.queue and not self.all_done():
            self.now, _, what = heapq.heappop(self.queue)
            assert self.now < until, f"not done: { {n: len(s.missing) for n, s in self.swarms.items()} } {self.faults}"
            what()  # type: ignore[operator]

    def all_done(self) -> bool:
        alive = [node for node in self.names if self.faults.get(node) != "dies"]
        return all(node in self.swarms and self.swarms[node].done for node in alive)

    def begin(self, node: str) -> None:
        self.swarms[node] = Swarm(node, CHUNKS, self.now, serves=self.faults.get(node) != "no power", out={})
        if self.faults.get(node) == "dies":
            self.at(self.now + self.random.uniform(0.5, 3), lambda: self.swarms.pop(node))
        self.tick(node)

    def tick(self, node: str) -> None:
        self.go(node)
        if node in self.swarms and not self.swarms[node].done:
            self.at(self.now + 0.25, lambda: self.tick(node))

    def go(self, node: str) -> None:
        mine = self.swarms.get(node)
        if mine is None or mine.done:
            return
        for action in mine.next(self.now, 2):
            match action:
                case Ask():
                    self.at(self.now + self.random.uniform(0.01, 0.2), lambda: self.answer(node))
                case FromStore(digests):
                    slow = 30.0 if self.faults.get(node) == "slow link" else 1.0
                    self.from_store.update(digests)
                    self.at(self.now + slow * self.random.uniform(0.05, 0.2), lambda d=digests: self.store(node, d))  # type: ignore[misc]
                case Get(digest, peer):
                    assert peer != node and digest in mine.missing
                    assert self.faults.get(peer) != "no power", "who may not serve is not asked"
                    self.at(
                        self.now + self.random.uniform(0.01, 0.1),
                        lambda d=digest, p=peer: self.served(node, d, p, self.now),  # type: ignore[misc]
                    )

    def answer(self, node: str) -> None:
        mine = self.swarms.get(node)
        if mine is None:
            return
        for peer in self.names:
            if peer == node:
                continue
            fault = self.faults.get(peer)
            if fault in ("no power",) or (fault == "dies" and self.now > self.begins[peer] and peer not in self.swarms):
                mine.silent(peer)
            else:
                theirs = self.swarms.get(peer)
                have = ALL - frozenset(theirs.missing) if theirs else NOTHING
                mine.heard(peer, theirs is not None, ALL if fault == "promises" else have, self.now)
        mine.asked(self.now)
        self.go(node)

    def store(self, node: str, digests: tuple[str, ...]) -> None:
        if node in self.swarms:
            self.swarms[node].stored(digests)
            self.go(node)

    def served(self, node: str, digest: str, peer: str, since: float) -> None:
        mine, theirs, fault = self.swarms.get(node), self.swarms.get(peer), self.faults.get(peer)
        if mine is None:
            return
        if fault == "unreachable" or theirs is None:
            mine.broken(digest, peer, self.now)
        elif fault == "rubbish":
            for action in mine.rubbish(digest, peer, self.now):
                assert isinstance(action, Drop)
                self.dropped.append((node, peer))
        elif fault != "promises" and digest not in theirs.missing:
            mine.came(digest, peer, self.now)
        elif fault != "promises" and self.now - since < 2.0:
            self.at(self.now + 0.1, lambda: self.served(node, digest, peer, since))
            return
        else:
            mine.lacks(digest, peer, self.now)
        self.go(node)


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 0.8))
def test_a_cluster_that_begins_within_a_moment_takes_each_chunk_once_from_the_store(
    seed: int, nodes: int, spread_s: float
) -> None:
    world = World(seed, nodes, {}, spread_s)
    world.run(60.0)
    assert world.from_store == Counter(CHUNKS)


FAULTS = ("dies", "unreachable", "rubbish", "promises", "slow link", "no power")


@given(
    st.integers(0, 10**6),
    st.integers(2, 8),
    st.dictionaries(st.integers(0, 7), st.sampled_from(FAULTS), max_size=5),
    st.floats(0, 10),
)
def test_whatever_some_members_do_the_others_get_all_of_it(
    seed: int, nodes: int, faults: dict[int, str], spread_s: float
) -> None:
    world = World(seed, nodes, {f"n{number}": fault for number, fault in faults.items() if number < nodes}, spread_s)
    world.run(600.0)
    assert all(world.faults[peer] == "rubbish" for _, peer in world.dropped)
    assert max(Counter(world.dropped).values(), default=0) <= 1, "each drops it once"
    assert all(count <= nodes for count in world.from_store.values())


@pytest.mark.parametrize("seed", range(5))
def test_when_one_of_five_dies_in_the_middle_only_its_own_part_may_come_twice(seed: int) -> None:
    world = World(seed, 5, {"n2": "dies"}, 0.2)
    world.run(60.0)
    twice = [digest for digest, count in world.from_store.items() if count > 1]
    assert max(world.from_store.values()) <= 2
    assert set(twice) <= set(owned_by("n2", world.names)), "only what it had brought, or was bringing"


def test_of_many_peers_some_are_asked_at_a_time_each_for_one_chunk() -> None:
    names = [f"p{number:02d}" for number in range(12)]
    one = begun(swarm(), *((name, True, ALL) for name in names))
    out = gets(one.next(0.0, 4))
    assert len(out) == GETS and len(set(out.values())) == GETS
    assert one.next(0.0, 4) == [] and STORE not in out
