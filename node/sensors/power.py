"""Battery and charging from /sys/class/power_supply, by a reader of our own.

psutil 7.2 gets these wrong: a charge limit ("Not charging") reads as unknown, a weak charger that drains as plugged in,
and a wireless mouse as the machine's battery. So: supplies with scope *Device* belong to peripherals and are skipped; any
online charger counts as charging; *Discharging* vetoes it; without a charger that tells, the battery's status decides.
"""

from __future__ import annotations

from typing import NamedTuple

from node.sensors.reading import Look, Reading, known, unknown
from node.sensors.tree import Tree

SUPPLIES = "/sys/class/power_supply"
_CHARGERS = ("mains", "usb", "wireless")
_OF_POWER = ("battery_percent", "is_charging")


class Supplies(NamedTuple):
    """The folders of the machine's own batteries and chargers, or why they cannot be listed."""

    batteries: tuple[str, ...]
    chargers: tuple[str, ...]
    reason: str = ""


def supplies(tree: Tree) -> Supplies:
    """What powers this machine; peripherals and empty battery bays left out."""
    names = tree.names(SUPPLIES)
    if names.value is None:
        # A kernel that shows its other device classes but not this one has no power supply to tell of.
        absent = not tree.exists(SUPPLIES) and tree.names("/sys/class").value
        return Supplies((), (), "" if absent else names.reason)
    batteries, chargers = [], []
    for name in names.value:
        folder = f"{SUPPLIES}/{name}"
        kind = _word(tree, f"{folder}/type")
        if _word(tree, f"{folder}/scope") == "device":
            continue
        if kind == "battery" and tree.text(f"{folder}/present", 8).value != "0":
            batteries.append(folder)
        elif kind.startswith(_CHARGERS):  # older kernels name USB_DCP, USB_PD, …
            chargers.append(folder)
    return Supplies(tuple(batteries), tuple(chargers))


def power(tree: Tree, found: Supplies) -> Look:
    """`battery_powered`, `battery_percent`, `is_charging`, `mains` (true: it has no battery and needs none)."""
    if found.reason:
        return dict.fromkeys(("battery_powered", "mains", *_OF_POWER), unknown(found.reason))
    if not found.batteries:
        source = f"{SUPPLIES} (no battery)"
        no_battery: Look = dict.fromkeys(_OF_POWER, unknown("the device has no battery"))
        return {"battery_powered": known(False, source), "mains": known(True, source), **no_battery}
    source = found.batteries[0]
    return {
        "battery_powered": known(True, source),
        "mains": known(False, source),
        "battery_percent": percent(tree, found.batteries),
        "is_charging": charging(tree, found),
    }


def percent(tree: Tree, batteries: tuple[str, ...]) -> Reading[float]:
    """The charge of all batteries together: weighed by size where they all tell it, else the mean of those known."""
    sized = [energy for battery in batteries if (energy := _energy(tree, battery))]
    if len(sized) == len(batteries) > 1 and len({unit for _, _, unit in sized}) == 1:
        full = sum(most for _, most, _ in sized)
        return known(round(100 * sum(now for now, _, _ in sized) / full, 1), ", ".join(batteries))
    each = [_capacity(tree, battery) for battery in batteries]
    values = [(one.value, one.source) for one in each if one.value is not None]
    if not values:
        return unknown("; ".join(one.reason for one in each))
    return known(round(sum(v for v, _ in values) / len(values), 1), ", ".join(source for _, source in values))


def charging(tree: Tree, found: Supplies) -> Reading[bool]:
    """Whether the machine runs on outside power: a full battery, or one held at its limit, counts as charging."""
    states = {battery: _word(tree, f"{battery}/status") for battery in found.batteries}
    for battery, state in states.items():
        if state == "discharging":
            return known(False, f"{battery}/status: {state}")
    online = [(c, tree.number(f"{c}/online", 0, 100).value) for c in found.chargers]
    for charger, value in online:
        if value:
            return known(True, f"{charger}/online")
    all_unplugged = bool(online) and all(value is not None for _, value in online)
    for battery, state in states.items():
        # Some USB-C controllers show their charger as offline while it charges; "full" alone would then be a guess.
        if state == "charging" or (state in ("full", "not charging") and not all_unplugged):
            return known(True, f"{battery}/status: {state}")
    if all_unplugged:
        return known(False, f"{online[0][0]}/online")
    return unknown("neither a charger nor the battery's status tells")


def _energy(tree: Tree, battery: str) -> tuple[float, float, str] | None:
    for unit in ("energy", "charge"):
        full = tree.number(f"{battery}/{unit}_full", 1, 1e12).value
        now = tree.number(f"{battery}/{unit}_now", 0, 1e12).value
        if full and now is not None:
            return min(now, full), full, unit  # a fresh calibration can put now a little above full
    return None


def _capacity(tree: Tree, battery: str) -> Reading[float]:
    read = tree.number(f"{battery}/capacity", 0, 110)
    if read.value is not None:
        return known(min(100.0, read.value), read.source)  # worn gauges tell up to a few percent above full
    if energy := _energy(tree, battery):
        return known(round(100 * energy[0] / energy[1], 1), f"{battery}/{energy[2]}_now")
    return read


def _word(tree: Tree, path: str) -> str:
    return (tree.text(path, 64).value or "").lower()
