"""What a caller gives becomes what travels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.arguments import convert, from_text
from client.sources import AsyncSource, SyncSource, source_of
from client.submit import template
from client.values import describe
from client.watch import since
from schemas.device import FunctionOffer, Parameter
from schemas.errors import BadInput
from schemas.task import AttemptError, Needs, Result, ResultState, TaskPriority

BYTES, TEXT, JSON = (Parameter("x", kind) for kind in ("bytes", "str", "json"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(json_values, max_size=5))
def test_json_values_arrive_as_they_are(values: list[Any]) -> None:
    arguments = convert(values)
    assert msgspec.json.decode(arguments.values) == values
    assert arguments.contents == ()


def test_files_and_bytes_leave_null_in_their_places() -> None:
    arguments = convert([1, b"x", Path("f"), "g"], FunctionOffer("f", (JSON, BYTES, BYTES, BYTES)))
    assert msgspec.json.decode(arguments.values) == [1, None, None, None]
    assert arguments.contents == ((1, b"x"), (2, Path("f")), (3, Path("g")))


def test_a_string_is_a_path_only_for_a_bytes_parameter() -> None:
    assert convert(["f"], FunctionOffer("f", (TEXT,))).contents == ()
    assert convert(["f"]).contents == ()


def test_the_last_parameter_of_a_variadic_function_takes_the_rest() -> None:
    assert len(convert(["a", "b", "c"], FunctionOffer("f", (BYTES,), variadic=True)).contents) == 3
    assert convert([], FunctionOffer("f", (BYTES,), variadic=True)).contents == ()


@pytest.mark.parametrize("count", [0, 2])
def test_a_wrong_number_of_arguments_is_refused_with_the_signature(count: int) -> None:
    offer = FunctionOffer("f", (Parameter("content", "bytes", "bytes"),))
    with pytest.raises(BadInput, match=r"f takes \(content: bytes\)"):
        convert(["a"] * count, offer)


def test_optional_parameters_may_be_left_out() -> None:
    assert convert([1], FunctionOffer("f", (JSON, Parameter("y", optional=True)))).contents == ()


@pytest.mark.parametrize("value", [object(), {1, (2,)}.__iter__(), {"a": object()}, 2**70j])
def test_what_is_no_json_value_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(BadInput, match="cannot travel as JSON"):
        convert([value])


@pytest.mark.parametrize(
    ("text", "kind", "meaning"),
    [
        ("3", JSON, 3),
        ('{"a": [1]}', JSON, {"a": [1]}),
        ("null", None, None),
        ("hello", JSON, "hello"),
        ('"3"', JSON, "3"),
        ("3", TEXT, "3"),
        ("3", BYTES, Path("3")),
        ("3", None, 3),
        ("{broken", JSON, "{broken"),
        ("\udcff", JSON, "\udcff"),
    ],
)
def test_a_word_of_the_command_line_means(text: str, kind: Parameter | None, meaning: object) -> None:
    assert from_text(text, kind) == meaning


def test_options_become_the_tasks_needs() -> None:
    task = template(
        "ann", {"priority": "critical", "gpu": True, "labels": {"a": "b"}, "retries": 0, "timeout_s": 3, "node": "n1"}
    )
    assert task.priority is TaskPriority.CRITICAL
    assert task.needs == Needs(gpu=True, labels={"a": "b"}, node="n1")
    assert (task.retry.limit, task.timeout_s) == (0, 3)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"priority": "urgent"}, "priority"),
        ({"cores": -1}, "needs.cores"),
        ({"cores": "two"}, "needs.cores"),
        ({"node": "N 1"}, "needs.node"),
        ({"retries": 10_000}, "retry.limit"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"speed": 1}, "speed"),
    ],
)
def test_a_bad_option_is_refused_by_its_name(options: Any, field: str) -> None:
    with pytest.raises(BadInput) as refused:
        template("ann", options)
    assert refused.value.field == field


def test_moments_are_ago_or_dates() -> None:
    assert since("90s", now=1000) == 910
    assert since("2h", now=10_000) == 2800
    assert since("1970-01-01T00:01:00Z") == 60
    assert since("1970-01-01T01:01:00+01:00") == 60
    for bad in ("", "yesterday", "5x", "h"):
        with pytest.raises(BadInput, match="is no time"):
            since(bad)


def test_how_a_task_ended_fits_a_line() -> None:
    error = AttemptError("n1", 3, 0.0, "Traceback …\n  File …\nValueError: no\n")
    result = Result("t", "ann", ResultState.FAILED, node="n1", attempts=3, errors=(error,))
    assert describe(result) == "failed on n1 after 3 attempts: ValueError: no"


async def test_a_source_gives_each_item_once_and_takes_back_what_did_not_fit() -> None:
    source = SyncSource(iter(range(10)))
    first = await source.take(4)
    source.put_back(first[2:])
    assert first[:2] + await source.take(100) == list(range(10))
    assert await source.take(1) == []


async def test_a_source_knows_what_is_left_once_it_can() -> None:
    assert SyncSource([1, 2, 3]).left == 3
    unsized = SyncSource(iter(range(10)))
    assert unsized.left is None
    await unsized.look_ahead(100)
    assert unsized.left == 10


async def test_skipping_more_than_there_is_says_that_the_items_are_others() -> None:
    with pytest.raises(BadInput, match="ended 2 items before"):
        await SyncSource([1, 2, 3]).skip(5)


async def test_an_async_source_is_read_only_as_far_as_asked() -> None:
    read: list[int] = []

    async def items() -> AsyncIterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    source = AsyncSource(items())
    assert (await source.take(5))[:5] == [0, 1, 2, 3, 4]
    assert len(read) <= 6
    await source.close()


async def test_an_async_source_passes_its_error_on_after_its_items() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        raise LookupError

    source = AsyncSource(items())
    assert await source.take(5) == [1]
    with pytest.raises(LookupError):
        await asyncio.wait_for(source.take(5), 5)


def test_a_single_string_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(BadInput, match="put it in a list"):
        source_of("abc")


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(0, 100))
def test_taken_in_any_steps_a_source_gives_all_in_order(steps: list[int], total: int) -> None:
    async def read() -> list[int]:
        source, found = SyncSource(iter(range(total))), []
        for step in [*steps, total + 1]:
            items = await source.take(step)
            kept = items[: max(1, len(items) // 2)]
            source.put_back(items[len(kept) :])
            found += kept
        while rest := await source.take(1000):
            found += rest
        return found

    assert asyncio.run(read()) == list(range(total))
