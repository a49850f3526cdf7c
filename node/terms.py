"""On what terms the owner lends the device, as settings say it: the section ``[harvest]`` of the configuration file.

The window is by the device's own time zone unless another is named, and never guessed from an offset, which says nothing of
clock changes.
"""

from __future__ import annotations

import os
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from node.core.eligible import Seconds, Terms
from node.core.window import window_of
from schemas.errors import BadInput

_DATABASE = "zoneinfo/"
_HINT = "say --zone Europe/Berlin; where a system has no time zones, `pip install tzdata` brings them"
Percent = Annotated[float, Meta(ge=0, le=100)]


class HarvestSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What `eligible.Terms` explains. `window` is ``HH:MM-HH:MM`` or ``always``; an empty `zone` is the device's own."""

    enabled: bool = False
    headless: bool = False
    window: str = "22:00-07:00"
    zone: str = ""
    battery_percent: Percent = 20.0
    battery_stop_percent: Percent = 15.0
    idle_s: Seconds = 300.0
    resume_idle_s: Seconds = 60.0
    start_s: Seconds = 30.0
    resume_s: Seconds = 10.0
    hand_back_s: Seconds = 120.0
    end_s: Seconds = 900.0
    session_s: Annotated[float, Meta(ge=1, le=86_400)] = 8 * 3600.0
    rest_s: Seconds = 1800.0
    tail_s: Seconds = 1800.0


def terms_of(said: HarvestSettings, env: Mapping[str, str] = os.environ, etc: Path = Path("/etc")) -> Terms:
    """The terms. Raises BadInput that names the setting."""
    if said.battery_stop_percent > said.battery_percent:
        raise BadInput("battery_stop_percent", "it is more than battery_percent, which a session starts by")
    if said.resume_idle_s > said.idle_s:
        raise BadInput("resume_idle_s", "it is more than idle_s, which a session starts by")
    zone = zone_of(said.zone, env, etc)
    numbers = {name: getattr(said, name) for name in Terms.__struct_fields__ if name != "window"}
    return Terms(window=window_of(said.window, zone), **numbers)


def zone_of(name: str, env: Mapping[str, str], etc: Path) -> tzinfo:
    """The zone of that name, or with none the device's own. Raises BadInput when there is no telling."""
    named = name or _by_environment(env) or _by_file(etc)
    if named.upper() in ("UTC", "ETC/UTC"):
        return UTC
    try:
        if named:
            return zoneinfo.ZoneInfo(named)
        with (etc / "localtime").open("rb") as rules:  # a copy of a zone's rules, which does not say of which
            return zoneinfo.ZoneInfo.from_file(rules, "the device's own")
    except FileNotFoundError:
        return UTC  # as the C library has it
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput("zone", f"there is no time zone {named!r:.60} on this system", hint=_HINT) from None


def _by_environment(env: Mapping[str, str]) -> str:
    said = env.get("TZ", "").lstrip(":")
    return said if ("/" in said and not said.startswith("/")) or said.upper() == "UTC" else ""


def _by_file(etc: Path) -> str:
    """``Europe/Berlin``, by where /etc/localtime leads, else by /etc/timezone; "" when neither tells."""
    try:
        link = os.readlink(etc / "localtime")
        if _DATABASE in link:
            return link.rpartition(_DATABASE)[2]
    except OSError:
        pass  # a copy, or none at all
    try:
        return (etc / "timezone").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
