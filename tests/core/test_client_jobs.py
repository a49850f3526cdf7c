"""What tells the items of a map job from others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from client.jobs import mark_of
from schemas.device import Parameter

BYTES = Parameter("content", "bytes")


@pytest.mark.parametrize(
    ("one", "other"),
    [([1, 2], [1, 3]), ([1, 2], [2, 1]), ([12], [1, 2]), (["1"], [1]), ([b"ab", b"c"], [b"a", b"bc"]), ([[1], 2], [[1, 2]])],
)  # fmt: skip
def test_other_items_have_another_mark_and_the_same_ones_the_same(one: list[Any], other: list[Any]) -> None:
    assert mark_of(one, None) == mark_of(list(one), None) != ""
    assert mark_of(one, None) != mark_of(other, None)


def test_a_file_is_told_by_its_path_size_and_time_of_change(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"one")
    other.write_bytes(b"one")
    before = mark_of([path], BYTES)
    assert mark_of([str(path)], BYTES) == before != mark_of([other], BYTES)
    os.utime(path, ns=(1, 1))
    changed = mark_of([path], BYTES)
    assert changed != before
    path.write_bytes(b"more")
    os.utime(path, ns=(1, 1))
    assert mark_of([path], BYTES) not in (before, changed)
    path.unlink()
    assert mark_of([path], BYTES), "the map says that it is not there"


def test_what_can_be_read_only_once_is_not_read_for_it() -> None:
    items = iter([1, 2])
    assert mark_of(items, None) == ""
    assert list(items) == [1, 2]
    assert mark_of([object()], None) == "", "the map itself says what is wrong with it"
