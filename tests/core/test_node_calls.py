"""Offered functions: what they tell of themselves, and how a call's arguments and result are checked."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from msgspec import Struct

from node.runners.calls import Function
from node.runners.frames import Call, CallEach, Failed, Finished
from node.runners.work import call, call_each
from schemas.device import Parameter
from schemas.errors import BadInput


class Point(Struct):
    x: int
    y: int = 0


def area(a: Point, b: Point, scale: float = 1.0) -> float:
    """The area between two corners.

    More is said here.
    """
    return abs((a.x - b.x) * (a.y - b.y)) * scale


def join(sep: str, *parts: bytes) -> bytes:
    return sep.encode().join(parts)


def half(value: int) -> float:
    if value == 13:
        raise RuntimeError("unlucky")
    return value / 2


def said(function: Any, args: bytes, *files: tuple[int, bytes]) -> Finished | Failed:
    return call(Call(1, "f", args, files), Function("f", function), time.perf_counter)


def test_an_offer_tells_parameters_result_and_the_first_line_of_the_doc() -> None:
    offer = Function("area", area).offer()
    assert [(p.name, p.type, p.optional) for p in offer.parameters] == [
        ("a", "json", False), ("b", "json", False), ("scale", "json", True),
    ]  # fmt: skip
    assert (offer.returns, offer.doc, offer.variadic) == ("float", "The area between two corners.", False)
    offer = Function("join", join).offer()
    assert offer.variadic
    assert offer.parameters == (Parameter("sep", "str", "str"), Parameter("parts", "bytes", "bytes"))


def test_arguments_become_what_the_annotations_say() -> None:
    answer = said(area, b'[{"x":1,"y":1},{"x":3,"y":4},2]')
    assert isinstance(answer, Finished) and answer.value == b"12.0"


def test_files_arrive_as_bytes_and_bytes_go_back() -> None:
    answer = said(join, b'["-",null,"text",null]', (1, b"\xff"), (3, b"z"))
    assert isinstance(answer, Finished) and answer.blob == b"\xff-text-z"


@pytest.mark.parametrize(
    ("function", "args", "says"),
    [
        (area, b'[{"x":1}]', "f needs b"),
        (area, b'[{"x":"1"},{"x":1}]', "a: Expected `int`, got `str` - at `$.x`"),
        (area, b"[1", "args"),
        (half, b"[1,2]", "takes at most 1"),
        (half, b"[13]", "RuntimeError: unlucky"),
    ],
)
def test_a_call_that_cannot_be_made_or_raises_says_why(function: Any, args: bytes, says: str) -> None:
    answer = said(function, args)
    assert isinstance(answer, Failed) and says in answer.error


def test_a_file_where_none_is_wanted_is_refused() -> None:
    answer = said(half, b"[null]", (0, b"file"))
    assert isinstance(answer, Failed) and "value: takes int, not a file" in answer.error


def test_an_error_shows_the_authors_code_and_not_ours() -> None:
    answer = said(half, b"[13]")
    assert isinstance(answer, Failed)
    assert "test_node_calls.py" in answer.error and "node/runners" not in answer.error


@pytest.mark.parametrize(
    ("value", "says"), [("text", "Expected `int`"), (b"x", "returned bytes"), ({1, 2}, "Expected")]
)
def test_a_result_that_is_not_what_was_promised_is_a_failure(value: Any, says: str) -> None:
    def promise() -> int:
        return value  # type: ignore[no-any-return]

    answer = said(promise, b"[]")
    assert isinstance(answer, Failed) and says in answer.error


def test_sys_exit_in_a_function_is_a_failure_and_not_the_end_of_the_runner() -> None:
    def leave() -> None:
        raise SystemExit(3)

    answer = said(leave, b"[]")
    assert isinstance(answer, Failed) and "SystemExit" in answer.error


def test_what_cannot_be_offered_is_told_at_import() -> None:
    def by_keyword(*, needed: int) -> None: ...

    def odd(value: object) -> None: ...

    with pytest.raises(BadInput, match="only be given by keyword"):
        Function("by_keyword", by_keyword)
    odd.__annotations__["value"] = 5
    with pytest.raises((BadInput, TypeError)):
        Function("odd", odd)


def each(function: Any, items: bytes = b"", files: tuple[bytes, ...] = (), first: int = 0) -> Finished:
    answer = call_each(CallEach(1, "f", first, items, files), Function("f", function), time.perf_counter)
    assert isinstance(answer, Finished), answer
    return answer


def test_a_chunk_goes_on_after_items_that_raise_or_cannot_be_read() -> None:
    answer = each(half, b'[4,13,"x",6]', first=100)
    assert json.loads(answer.value) == [2.0, None, None, 3.0]
    assert [index for index, _ in answer.errors] == [101, 102]
    assert answer.errors[0][1] == "RuntimeError: unlucky"


def test_an_item_that_leaves_by_sys_exit_fails_alone() -> None:
    def leave(value: int) -> int:
        if value == 2:
            raise SystemExit(3)
        return value

    answer = each(leave, b"[1,2,3]")
    assert json.loads(answer.value) == [1, None, 3]
    assert answer.errors == ((1, "SystemExit: 3"),)


def test_a_chunk_of_bytes_results_keeps_places_for_what_failed() -> None:
    def shout(content: bytes) -> bytes:
        if not content:
            raise ValueError("empty")
        return content.upper()

    answer = each(shout, files=(b"a", b"", b"c"), first=5)
    assert answer.blobs == (b"A", None, b"C")
    assert answer.errors == ((6, "ValueError: empty"),)


def test_one_wrong_result_in_a_chunk_is_that_items_error() -> None:
    def sometimes(value: int) -> int:
        return value if value != 2 else "two"  # type: ignore[return-value]

    answer = each(sometimes, b"[1,2,3]")
    assert json.loads(answer.value) == [1, None, 3]
    assert answer.errors[0][0] == 1


def test_the_errors_of_a_chunk_stay_within_what_a_message_holds() -> None:
    def fail(value: int) -> int:
        raise ValueError("x" * 1000)

    answer = each(fail, json.dumps(list(range(9_000))).encode())
    assert len(answer.errors) == 9_000
    assert sum(len(text) + 28 for _, text in answer.errors) <= 420_000


def test_a_chunk_runs_at_more_than_a_hundred_thousand_items_a_second() -> None:
    def noop(value: Any) -> Any:
        return value

    best = min(each(noop, json.dumps(list(range(100_000))).encode()).duration_s for _ in range(3))
    assert best < 1.0
