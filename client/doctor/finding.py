"""What a check found: how bad it is, what was seen, what to do."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    """How a finding is to be taken: *problem* needs somebody now, *warning* will, or may be meant so."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(Struct, frozen=True):
    """One finding of one check. `check` is a stable word for scripts (``streams.settings``), `about` what it is about (a
    stream, a node), `advice` what to do; both may be empty."""

    check: str
    level: Level
    seen: str
    advice: str = ""
    about: str = ""


def ok(check: str, seen: str, about: str = "") -> Finding:
    """Nothing to do."""
    return Finding(check, Level.OK, seen, "", about)


def warning(check: str, seen: str, advice: str, about: str = "") -> Finding:
    """Look at it when there is time."""
    return Finding(check, Level.WARNING, seen, advice, about)


def problem(check: str, seen: str, advice: str, about: str = "") -> Finding:
    """Something does not work, or will soon not."""
    return Finding(check, Level.PROBLEM, seen, advice, about)


def few(names: list[str], most: int = 5) -> str:
    """``a, b and 3 more``."""
    told = ", ".join(names[:most])
    return f"{told} and {len(names) - most} more" if len(names) > most else told
