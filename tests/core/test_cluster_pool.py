"""The cluster's cache: what one member holds, and who holds what."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from node.core.pool import OVERHEAD, Pool
from schemas.peer import CachePut
from schemas.rendezvous import owners

NODES = [f"n{i}" for i in range(5)]


@given(st.text(min_size=1), st.sets(st.sampled_from(NODES), min_size=1), st.sampled_from(NODES))
def test_a_member_that_goes_moves_only_what_it_held(key: str, nodes: set[str], goes: str) -> None:
    before, after = owners(key, nodes), owners(key, nodes - {goes})
    if goes not in before:
        assert after == before
    else:
        assert set(before) - {goes} <= set(after), "the copy that is left stays where it is"
    assert len(before) == min(2, len(nodes)) and owners(key, sorted(nodes)) == before


def test_keys_are_spread_evenly() -> None:
    held = Counter(node for number in range(2_000) for node in owners(f"key-{number}", NODES))
    assert set(held) == set(NODES) and max(held.values()) < 1.2 * min(held.values())


def put(key: str, size: int = 100, ttl_s: float = 60.0, stamp: int = 1) -> CachePut:
    return CachePut(key, b"x" * size, ttl_s, stamp)


def test_a_value_ends_with_its_time_and_gives_its_room_back() -> None:
    pool = Pool(10_000)
    assert pool.put("c1", put("a", ttl_s=5), 0.0) == ""
    assert pool.get("c1", "a", 4.9) == b"x" * 100 and pool.get("c2", "a", 4.9) is None
    assert pool.get("c1", "a", 5.0) is None and pool.size == 0 and len(pool) == 0


def test_a_late_older_put_does_not_undo_a_newer_one() -> None:
    pool = Pool(10_000)
    pool.put("c1", CachePut("a", b"new", 60.0, 2), 0.0)
    pool.put("c1", CachePut("a", b"old", 60.0, 1), 1.0)
    assert pool.get("c1", "a", 2.0) == b"new"


def test_what_was_not_used_for_longest_makes_room_and_what_is_too_large_is_refused() -> None:
    pool = Pool(3 * (OVERHEAD + 110))
    for key in "abc":
        pool.put("c1", put(key), 0.0)
    pool.get("c1", "a", 1.0)
    pool.put("c1", put("d"), 2.0)
    assert [key for key in "abcd" if pool.get("c1", key, 3.0)] == ["a", "c", "d"]
    assert "of the" in pool.put("c1", put("e", size=2_000), 3.0)
    assert Pool(0).put("c1", put("a"), 0.0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3_000), st.floats(0.1, 9), st.booleans())))
def test_it_never_holds_more_than_its_room(story: list[tuple[str, int, float, bool]]) -> None:
    pool, now = Pool(5_000), 0.0
    for key, size, ttl_s, drop in story:
        now += 1.0
        if drop:
            pool.drop("c1", key)
        else:
            pool.put("c1", put(key, size, ttl_s, int(now)), now)
        held = list(pool.kept("c1", -1.0))
        assert pool.size == sum(OVERHEAD + 2 + len(p.key) + len(p.value) for p in held) <= pool.room
        assert all(p.ttl_s > 0 for p in pool.kept("c1", now))
