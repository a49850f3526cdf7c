"""Android by Termux: battery and its temperature, and Wi-Fi, from programs that can hang and are never waited for."""

from __future__ import annotations

import json
from collections.abc import Mapping

from node.core.heat import COLDEST_C, HOTTEST_C, thermal_state
from node.sensors import temperature
from node.sensors.ask import Ask
from node.sensors.reading import Look, Reading, known, unknown
from schemas.device import NetworkType, SensorKind

FIELDS = ("battery_percent", "is_charging", *temperature.FIELDS)
EVERY_S, KEEP_S = 20.0, 60.0


class Termux:
    """Asks the Termux API for the battery every `EVERY_S`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._ask = Ask(("termux-battery-status",), env, every_s=EVERY_S, keep_s=KEEP_S)
        self._wifi = Ask(("termux-wifi-connectioninfo",), env, every_s=EVERY_S, keep_s=KEEP_S)

    @property
    def waiting(self) -> bool:
        """Whether it is being asked now."""
        return self._ask.waiting or self._wifi.waiting

    def look(self, now: float) -> Look:
        """The newest answers."""
        return {**battery(self._ask.answer(now)), "network_type": wifi(self._wifi.answer(now))}

    def close(self) -> None:
        """Stop asking."""
        self._ask.close()
        self._wifi.close()


def battery(said: Reading[str]) -> Look:
    """What an answer of termux-battery-status means."""
    if said.value is None:
        return dict.fromkeys(FIELDS, unknown(said.reason))
    try:
        answer = json.loads(said.value)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return dict.fromkeys(FIELDS, unknown(f"{said.source} did not answer in JSON"))
    return {
        "battery_percent": _number(answer, "percentage", 0, 100, said.source),
        "is_charging": _charging(answer, said.source),
        **_heat(_number(answer, "temperature", COLDEST_C, HOTTEST_C, said.source)),
    }


def wifi(said: Reading[str]) -> Reading[NetworkType]:
    """What an answer of termux-wifi-connectioninfo means. Without Wi-Fi it may be cellular or a cable: Termux cannot tell."""
    if said.value is None:
        return unknown(said.reason)
    try:
        answer = json.loads(said.value)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return unknown(f"{said.source} did not answer in JSON")
    if str(answer.get("supplicant_state", "")).upper() == "COMPLETED":
        return known(NetworkType.WIFI, said.source)
    return unknown(f"{said.source}: not on Wi-Fi, and nothing tells what else")


def _charging(answer: dict[str, object], source: str) -> Reading[bool]:
    status, plugged = (str(answer.get(key, "")).upper() for key in ("status", "plugged"))
    if status == "DISCHARGING" or plugged == "UNPLUGGED":
        return known(False, source)
    if plugged.startswith("PLUGGED") or status in ("CHARGING", "FULL"):
        return known(True, source)
    return unknown(f"{source} tells neither status nor plugged")


def _heat(read: Reading[float]) -> Look:
    if read.value is None:
        return dict.fromkeys(temperature.FIELDS, unknown(read.reason))
    kind = SensorKind.BATTERY
    return {
        "temperature_c": read,
        "temperature_sensor": known(kind, read.source),
        "temperature_critical_c": unknown(f"{read.source} tells no critical temperature"),
        "thermal_state": known(thermal_state(read.value, kind), read.source),
    }


def _number(answer: dict[str, object], key: str, low: float, high: float, source: str) -> Reading[float]:
    value = answer.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return unknown(f"{source} tells no {key}" if value is None else f"{source}: {key} cannot be {value!r:.40}")
    return known(float(value), source)
