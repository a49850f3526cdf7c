"""Whether a screen of this machine is on, by the files of its display driver; no session is needed to read them."""

from __future__ import annotations

import re

from node.sensors.reading import Reading, known, unknown
from node.sensors.tree import Tree

_DRM, _BACKLIGHT = "/sys/class/drm", "/sys/class/backlight"
_CONNECTOR = re.compile(r"card[0-9]{1,3}-[A-Za-z0-9_-]{1,40}")


def screen(tree: Tree) -> Reading[bool]:
    """On: any connected screen that its driver does not keep dark. A machine without any screen has none that is on."""
    names = tree.names(_DRM)
    connectors = [name for name in names.value or () if _CONNECTOR.fullmatch(name)]
    found = [reading for name in connectors if (reading := _connector(tree, f"{_DRM}/{name}")) is not None]
    for reading in found:
        if reading.value:
            return reading
    if found or connectors:
        return found[0] if found else known(False, f"{_DRM} (no screen is connected)")
    lights = [
        reading for name in tree.names(_BACKLIGHT).value or () if (reading := _light(tree, f"{_BACKLIGHT}/{name}"))
    ]
    if lights:
        return max(lights, key=lambda reading: bool(reading.value))
    if names.value is None and tree.exists(_DRM):
        return unknown(names.reason)
    classes = tree.names("/sys/class")
    return known(False, f"{_DRM} (no screen)") if classes.value else unknown(classes.reason or "/sys/class is empty")


def _connector(tree: Tree, folder: str) -> Reading[bool] | None:
    """Of a connected screen, whether it is on; None where none is connected or nothing tells."""
    if (tree.text(f"{folder}/status", 32).value or "") != "connected":
        return None
    dpms = tree.text(f"{folder}/dpms", 32).value
    if dpms is None:
        return None
    enabled = tree.text(f"{folder}/enabled", 32).value != "disabled"
    return known(dpms == "On" and enabled, f"{folder}/dpms: {dpms}")


def _light(tree: Tree, folder: str) -> Reading[bool] | None:
    """By a backlight: its power (0 is on), else its brightness."""
    power = tree.number(f"{folder}/bl_power", 0, 4)
    if power.value is not None:
        return known(power.value == 0, power.source)
    brightness = tree.number(f"{folder}/brightness", 0, 1e9)
    return None if brightness.value is None else known(brightness.value > 0, brightness.source)
