"""For tests and demos, the environment plays the device (SPEC 5.9). Whoever uses this says loudly that it pretends.

=====================  =================================================================================================
BATTERY                percent; with a ``+`` behind it (``25+``), or with CHARGING=1, it is charging; ``none``: no battery
CHARGING               1 or 0; counts only together with a played battery
THERMAL                °C, judged as a skin temperature, or normal, warm, hot, throttled, critical
MEMORY_GB              all the memory, and all of it free
NETWORK_TYPE           ethernet, wifi, cellular (metered), loopback or other
DEVICE_TYPE, CPU_CORES  as in the capabilities
AIV_MOBILE_PROFILE     low_ram, battery_save, thermal_throttle, balanced, performance: sets of the above, each of which
                       the variable itself overrides
=====================  =================================================================================================

A played battery means a battery-powered device. An empty variable counts as not set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from node.sensors.overlay import check, implied
from node.sensors.reading import Look, known, unknown
from schemas.device import NetworkType
from schemas.errors import BadInput

SOURCE = "environment (pretending)"
_PROFILE = "AIV_MOBILE_PROFILE"
PROFILES: dict[str, dict[str, str]] = {
    "low_ram": {"MEMORY_GB": "2"},
    "battery_save": {"BATTERY": "15"},
    "thermal_throttle": {"THERMAL": "60"},
    "balanced": {"BATTERY": "35", "THERMAL": "normal", "MEMORY_GB": "4"},
    "performance": {"BATTERY": "90+", "THERMAL": "normal", "MEMORY_GB": "8"},
}
# A temperature inside each state, so that what is decided by °C plays along.
_WORDS_C = {"normal": 30.0, "warm": 40.0, "hot": 50.0, "throttled": 60.0, "critical": 70.0}
_YES = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_UNSET_HINT = "unset it, unless this device is to be played for a test"
_NUMBER = re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,6})?")


class Played(NamedTuple):
    """What the environment plays, and the settings that say so (``BATTERY=25``)."""

    look: Look
    said: tuple[str, ...]


def played(env: Mapping[str, str]) -> Played:
    """The played readings. BadInput names a variable whose value means nothing."""
    profile = env.get(_PROFILE, "").strip().lower()
    if profile and profile not in PROFILES:
        raise BadInput(_PROFILE, f"{profile!r:.40} is no profile", hint=f"use one of {', '.join(PROFILES)}")
    own = {name: value for name in _PLAYS if (value := env.get(name, "").strip())}
    settings = {**PROFILES.get(profile, {}), **own}
    if "BATTERY" in settings and (charging := env.get("CHARGING", "").strip()):
        settings["CHARGING"] = charging
    look: Look = {}
    for name, value in settings.items():
        for field, reading in _ALL[name](value).items():
            look[field] = known(reading, SOURCE)
    said = [f"{name}={value}" for name, value in settings.items()]
    return Played(_finished(look), (*([f"{_PROFILE}={profile}"] if profile else []), *said))


def _finished(look: Look) -> Look:
    if look.get("battery_powered") == known(False, SOURCE):
        look.pop("is_charging", None)
    if look.get("network_type") == known(NetworkType.OTHER, SOURCE):
        look["network_metered"] = unknown(f"{SOURCE} says nothing of it")
    return implied(look, SOURCE)


def _battery(text: str) -> dict[str, object]:
    if text.lower() == "none":
        return {"battery_powered": False}
    percent = _number("BATTERY", text.removesuffix("+").removesuffix("%"), 0, 100)
    return {"battery_powered": True, "battery_percent": percent, "is_charging": text.endswith("+")}


def _charging(text: str) -> dict[str, object]:
    if text.lower() not in _YES:
        raise BadInput("CHARGING", f"{text!r:.40} is neither 1 nor 0", hint=_UNSET_HINT)
    return {"is_charging": _YES[text.lower()]}


def _thermal(text: str) -> dict[str, object]:
    word = _WORDS_C.get(text.lower())
    return {"temperature_c": _number("THERMAL", text, -50, 150, tuple(_WORDS_C)) if word is None else word}


def _memory(text: str) -> dict[str, object]:
    size_mb = round(_number("MEMORY_GB", text, 0.001, 100_000) * 1024)
    return {"ram_total_mb": size_mb, "ram_available_mb": size_mb}


def _network(text: str) -> dict[str, object]:
    kind = _field("NETWORK_TYPE", "network_type", text.lower())
    metered = {} if kind is NetworkType.OTHER else {"network_metered": kind is NetworkType.CELLULAR}
    return {"network_type": kind, **metered}


def _device(text: str) -> dict[str, object]:
    return {"device_type": _field("DEVICE_TYPE", "device_type", text.lower())}


def _cores(text: str) -> dict[str, object]:
    return {"cpu_cores": _field("CPU_CORES", "cpu_cores", text)}


_PLAYS: dict[str, Callable[[str], dict[str, object]]] = {
    "BATTERY": _battery,
    "THERMAL": _thermal,
    "MEMORY_GB": _memory,
    "NETWORK_TYPE": _network,
    "DEVICE_TYPE": _device,
    "CPU_CORES": _cores,
}
_ALL = {**_PLAYS, "CHARGING": _charging}  # after BATTERY, whose + it overrides


def _number(name: str, text: str, low: float, high: float, words: tuple[str, ...] = ()) -> float:
    if not _NUMBER.fullmatch(text) or not low <= float(text) <= high:
        either = f", nor one of {', '.join(words)}" if words else ""
        raise BadInput(name, f"{text!r:.40} is not a number from {low:g} to {high:g}{either}", hint=_UNSET_HINT)
    return float(text)


def _field(name: str, field: str, text: str) -> object:
    try:
        return check(field, text)
    except BadInput as problem:
        raise BadInput(name, problem.problem, hint=_UNSET_HINT) from None
