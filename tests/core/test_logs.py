"""Logs: one line a record, whatever is in it, and the wording that operators' scripts look for."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from schemas import logs
from schemas.errors import BadInput

log = logging.getLogger("fog.test")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)


def test_a_text_line_has_time_level_component_message_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("node")
    log.info("task started", extra=logs.fields(task="t1", why="first free", empty=""))
    line = capsys.readouterr().err
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info node task started task=t1 why="first free" empty=""\n', line
    )


def test_a_json_line_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("coordinator", as_json=True)
    log.warning("slow", extra=logs.fields(ms=12.5, node="n1", other=[1]))
    entry = json.loads(capsys.readouterr().err)
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning",
        "component": "coordinator",
        "message": "slow",
        "ms": 12.5,
        "node": "n1",
        "other": "[1]",
    }


@pytest.mark.parametrize("as_json", [True, False])
def test_a_value_from_outside_cannot_forge_a_line_or_flood_the_log(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    logs.setup("node", as_json=as_json)
    log.info("got %s", "x\n2026-01-01 error forged", extra=logs.fields(id="a\r\nb", long="y" * 1_000_000))
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert len(text) < 3 * logs.LINE_MAX


def test_the_level_and_form_can_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOG_LOG_LEVEL", "warning")
    monkeypatch.setenv("FOG_LOG_JSON", "1")
    logs.setup("node")
    log.info("quiet")
    log.error("loud")
    assert json.loads(capsys.readouterr().err)["message"] == "loud"
    with pytest.raises(BadInput, match="loudest"):
        logs.setup("node", "loudest")


def test_a_traceback_follows_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("node")
    try:
        raise RuntimeError("inner")
    except RuntimeError:
        log.exception("it broke")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith("error node it broke")
    assert rest[-1] == "RuntimeError: inner"


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    logs.setup("node")
    log.error("nobody reads this")


@pytest.mark.parametrize(
    ("line", "grep"),
    [
        (logs.DEPLOYMENT_FAILED, "Deployment failed"),
        (logs.device_failed("phone-1"), "Device.*failed"),
        (logs.thermal_throttle("cpu 78 °C"), "thermal.*throttle"),
        (logs.MEMORY_EXCEEDED, "Memory allocation exceeded"),
    ],
)
def test_the_lines_that_operators_look_for_keep_their_wording(line: str, grep: str) -> None:
    assert re.search(grep, line)
