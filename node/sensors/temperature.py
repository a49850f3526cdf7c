"""Temperature: the sensor that is worst for its kind, and the state that it means.

CPU sensors are chosen by the names of their drivers; what is neither of a CPU, nor a skin, nor a battery (``acpitz``,
network cards, disks) is left out, since no threshold belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from node.core.heat import COLDEST_C, HOTTEST_C, SEVERITY, thermal_state, worse
from node.sensors.power import Supplies
from node.sensors.reading import Look, Reading, known, unknown
from node.sensors.tree import Tree
from schemas.device import SensorKind, ThermalState

FIELDS = ("temperature_c", "temperature_sensor", "temperature_critical_c", "thermal_state")
NOT_ASKED: Reading[str] = unknown("not asked")
_NO_TRIP = "the sensor tells no critical temperature"
_HWMON, _ZONES = "/sys/class/hwmon", "/sys/class/thermal"
_CHIPS = {"coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "soc-thermal"}
_WHOLE_CHIP = ("package", "tdie")  # Tctl has an offset on some Ryzens
_CPU_ZONE = re.compile(r"x86_pkg_temp|coretemp|tcpu.*|cpu.*|.*soc[-_]thermal|.*(big|little|mid)core.*")
_INPUT = re.compile(r"temp[0-9]{1,3}_input")
_TRIPS_MAX = 16
_SENSORS_MAX = 256
# Firmware of a Raspberry Pi: bit 0 under-voltage, 2 throttled, 3 soft temperature limit.
_PI_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"


class Sensor(NamedTuple):
    """One file with a temperature, what `scale` makes °C of it, the critical trip that it tells, and its name."""

    path: str
    kind: SensorKind
    scale: float
    critical_c: float | None
    source: str


class Sensors(NamedTuple):
    """The sensors worth reading, and the names of those left out."""

    found: tuple[Sensor, ...]
    others: tuple[str, ...]


def sensors(tree: Tree, supplies: Supplies) -> Sensors:
    """Look for sensors. Slow beside reading them: they seldom change, so the answer is worth keeping for a while."""
    found: list[Sensor] = []
    others: list[str] = []
    for part, name in _chips(tree):
        found.extend(part)
        others.extend([] if part else [name])
    for sensor, name in _zones(tree):
        found.extend([sensor] if sensor else [])
        others.extend([] if sensor else [name])
    found.extend(
        Sensor(f"{b}/temp", SensorKind.BATTERY, 0.1, None, f"{b}/temp")
        for b in supplies.batteries
        if tree.exists(f"{b}/temp")
    )
    return Sensors(tuple(found[:_SENSORS_MAX]), tuple(dict.fromkeys(others)))


def temperature(tree: Tree, known_sensors: Sensors, firmware: Reading[str] = NOT_ASKED) -> Look:
    """`temperature_c`, `temperature_sensor`, its critical trip and `thermal_state` of the sensor that is worst for its kind.

    `firmware` is what ``vcgencmd get_throttled`` said, for a Pi whose sysfs does not tell."""
    worst: tuple[tuple[int, int, float], Sensor, float, ThermalState] | None = None
    reasons = []
    for sensor in known_sensors.found:
        read = tree.number(sensor.path, COLDEST_C, HOTTEST_C, sensor.scale)
        if read.value is None:
            reasons.append(read.reason)
            continue
        state = thermal_state(read.value, sensor.kind, sensor.critical_c)
        rank = (SEVERITY.index(state), tuple(SensorKind).index(sensor.kind), read.value)
        if worst is None or rank > worst[0]:
            worst = rank, sensor, read.value, state
    if worst is None:
        why: Reading[ThermalState] = unknown(_reason(reasons, known_sensors.others))
        return {**dict.fromkeys(FIELDS, why), "thermal_state": _throttling(tree, why, firmware)}
    _, sensor, celsius, state = worst
    return {
        "temperature_c": known(round(celsius, 1), sensor.source),
        "temperature_sensor": known(sensor.kind, sensor.source),
        "temperature_critical_c": unknown(_NO_TRIP)
        if sensor.critical_c is None
        else known(sensor.critical_c, sensor.source),
        "thermal_state": _throttling(tree, known(state, sensor.source), firmware),
    }


def _reason(reasons: list[str], others: tuple[str, ...]) -> str:
    if reasons:
        return "; ".join(reasons)
    if others:
        return f"no sensor of a CPU, a skin or a battery, only {', '.join(others)}"
    return f"no sensor in {_HWMON} or {_ZONES}"


def _throttling(tree: Tree, state: Reading[ThermalState], firmware: Reading[str]) -> Reading[ThermalState]:
    told = tree.text(_PI_THROTTLED, 32)
    told = told if told.value is not None else firmware
    try:
        bits = int((told.value or "0").rpartition("=")[2], 16)  # vcgencmd says throttled=0x50005
    except ValueError:
        return state
    by_heat = bits & 0x8 or (bits & 0x4 and not bits & 0x1)  # with under-voltage, bit 2 says nothing about heat
    if by_heat and (state.value is None or worse(state.value, ThermalState.THROTTLED) is not state.value):
        return known(ThermalState.THROTTLED, f"{told.source} ({bits:#x})")
    return state


def _chips(tree: Tree) -> Iterator[tuple[list[Sensor], str]]:
    for chip in tree.names(_HWMON).value or ():
        folder = f"{_HWMON}/{chip}"
        inputs = [n for n in tree.names(folder).value or () if _INPUT.fullmatch(n)]
        name = tree.line(f"{folder}/name", 32).value or chip
        if inputs:
            yield (_chip(tree, folder, name, inputs) if name in _CHIPS else []), name


def _chip(tree: Tree, folder: str, name: str, inputs: list[str]) -> list[Sensor]:
    stems = [f"{folder}/{name.removesuffix('_input')}" for name in inputs]
    whole = [s for s in stems if (tree.text(f"{s}_label", 64).value or "").lower().startswith(_WHOLE_CHIP)]
    # The source names the chip, not the core: which core is hottest changes with every look.
    source = f"{folder} ({name})"
    return [
        Sensor(f"{stem}_input", SensorKind.CPU, 0.001, _celsius(tree, f"{stem}_crit"), source)
        for stem in whole or stems
    ]


def _zones(tree: Tree) -> Iterator[tuple[Sensor | None, str]]:
    for zone in tree.names(_ZONES).value or ():
        if not zone.startswith("thermal_zone"):
            continue
        folder = f"{_ZONES}/{zone}"
        name = tree.line(f"{folder}/type", 32).value or zone
        kind = _kind(name.lower())
        source = f"{folder} ({name})"
        yield (Sensor(f"{folder}/temp", kind, 0.001, _critical(tree, folder), source) if kind else None), name


def _kind(name: str) -> SensorKind | None:
    if "skin" in name or name.startswith("quiet"):
        return SensorKind.SKIN
    if name.startswith("batt"):
        return SensorKind.BATTERY
    return SensorKind.CPU if _CPU_ZONE.fullmatch(name) else None


def _critical(tree: Tree, folder: str) -> float | None:
    for trip in range(_TRIPS_MAX):
        kind = tree.text(f"{folder}/trip_point_{trip}_type", 32).value
        if kind is None:
            return None
        if kind == "critical":
            return _celsius(tree, f"{folder}/trip_point_{trip}_temp")
    return None


def _celsius(tree: Tree, path: str) -> float | None:
    return tree.number(path, COLDEST_C, HOTTEST_C, 0.001).value
