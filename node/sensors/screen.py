"""Whether a screen of this machine is on, by the files of its display driver; no session is needed to read them."""

from __future__ import annotations

import re

from node.sensors.reading import Reading, known, unknown
from node.sensors.tree import Tree

_DRM, _BACKLIGHT = "/sys/class/drm", "/sys/class/backlight"
_CARD = re.compile(r"card[0-9]{1,3}")
_CONNECTOR = re.compile(r"card[0-9]{1,3}-[A-Za-z0-9_-]{1,40}")
_COUNTS = {False: 0, None: 1, True: 2}  # of several screens one that is on, else one of which nobody knows


def screen(tree: Tree, *, has_one: bool = False) -> Reading[bool]:
    """On: any connected screen that its driver does not keep dark. A machine that shows neither a graphics card nor a backlight
    has no screen that is on, unless it `has_one` (a phone); a card without connectors (NVIDIA's, without modesetting) does not
    tell."""
    names = tree.names(_DRM)
    found = [_connector(tree, f"{_DRM}/{name}") for name in names.value or () if _CONNECTOR.fullmatch(name)]
    if not found:
        found = [_light(tree, f"{_BACKLIGHT}/{name}") for name in tree.names(_BACKLIGHT).value or ()]
    if found:
        return max(found, key=lambda reading: _COUNTS[reading.value])
    if has_one or any(_CARD.fullmatch(name) for name in names.value or ()):
        return unknown(f"there is a screen perhaps, and neither {_DRM} nor {_BACKLIGHT} shows it")
    if names.value is None and tree.exists(_DRM):
        return unknown(names.reason)
    classes = tree.names("/sys/class")
    return known(False, f"{_DRM} (no screen)") if classes.value else unknown(classes.reason or "/sys/class is empty")


def _connector(tree: Tree, folder: str) -> Reading[bool]:
    """Whether there is a screen at this connector, and it is on."""
    status = tree.text(f"{folder}/status", 32)
    if status.value == "disconnected":
        return known(False, f"{folder}/status: disconnected")
    dpms = tree.text(f"{folder}/dpms", 32)
    if dpms.value is None:
        return unknown(dpms.reason)
    if dpms.value != "On" or tree.text(f"{folder}/enabled", 32).value == "disabled":
        return known(False, f"{folder}/dpms: {dpms.value}")
    if status.value != "connected":
        return unknown(status.reason or f"{folder}/status: {status.value}")
    return known(True, f"{folder}/dpms: On")


def _light(tree: Tree, folder: str) -> Reading[bool]:
    """By a backlight: its power (0 is on), else its brightness."""
    power = tree.number(f"{folder}/bl_power", 0, 4)
    if power.value is not None:
        return known(power.value == 0, power.source)
    brightness = tree.number(f"{folder}/brightness", 0, 1e9)
    return unknown(brightness.reason) if brightness.value is None else known(brightness.value > 0, brightness.source)
