"""What kind of device this is, by what its maker wrote into the firmware, and by its battery. Never by guessing."""

from __future__ import annotations

from collections.abc import Mapping

from node.sensors.ask import once
from node.sensors.power import Supplies
from node.sensors.reading import Reading, known, unknown
from node.sensors.tree import Tree
from schemas.device import DeviceType

_DMI = "/sys/class/dmi/id/chassis_type"
_DEVICE_TREES = ("/sys/firmware/devicetree/base", "/proc/device-tree")
# SMBIOS chassis types, grouped as systemd's hostnamed does.
_SMBIOS = {
    **dict.fromkeys((3, 4, 6, 7, 13, 35, 36), DeviceType.DESKTOP),
    **dict.fromkeys((8, 9, 10, 14, 31, 32), DeviceType.LAPTOP),
    **dict.fromkeys((17, 23, 25, 28, 29), DeviceType.EDGE_SERVER),
    **dict.fromkeys((33, 34), DeviceType.IOT_DEVICE),
    11: DeviceType.SMARTPHONE,
    30: DeviceType.TABLET,
}
# The values of `chassis-type` in the Devicetree Specification.
_TREE_WORDS = {
    "desktop": DeviceType.DESKTOP,
    "all-in-one": DeviceType.DESKTOP,
    "laptop": DeviceType.LAPTOP,
    "convertible": DeviceType.LAPTOP,
    "server": DeviceType.EDGE_SERVER,
    "tablet": DeviceType.TABLET,
    "handset": DeviceType.SMARTPHONE,
    "embedded": DeviceType.IOT_DEVICE,
    "watch": DeviceType.IOT_DEVICE,
}
_BOARDS = (
    "raspberry pi",
    "jetson",
    "beaglebone",
    "odroid",
    "orange pi",
    "orangepi",
    "banana pi",
    "nanopi",
    "radxa",
    "rock pi",
    "libre computer",
    "starfive visionfive",
    "coral dev board",
)


def device_type(tree: Tree, env: Mapping[str, str], found: Supplies, *, android: bool) -> Reading[DeviceType]:
    """The device's type; unknown, with what was looked at, where nothing tells."""
    if android:
        return _android(env)
    for reading in (_by_device_tree(tree), _by_dmi(tree)):
        if reading.value is not None:
            return reading
    if found.batteries:
        return known(DeviceType.LAPTOP, f"{found.batteries[0]} (it has a battery)")
    dmi = tree.text(_DMI, 16)
    told = f"the firmware says only type {dmi.value[:8]!r}" if dmi.value else "no chassis type and no known board"
    return unknown(f"{told}, and there is no battery: a virtual machine or container perhaps; set device_type")


def _by_dmi(tree: Tree) -> Reading[DeviceType]:
    number = tree.number(_DMI, 0, 127)
    kind = _SMBIOS.get(int(number.value or 0))
    return known(kind, f"{_DMI} ({number.value:g})") if kind and number.value else unknown(number.reason)


def _by_device_tree(tree: Tree) -> Reading[DeviceType]:
    for base in _DEVICE_TREES:
        word = tree.line(f"{base}/chassis-type", 32)
        if word.value in _TREE_WORDS:
            return known(_TREE_WORDS[word.value], f"{base}/chassis-type ({word.value})")
        model = tree.line(f"{base}/model")
        if model.value and any(board in model.value.lower() for board in _BOARDS):
            return known(DeviceType.IOT_DEVICE, f"{base}/model ({model.value})")
    return unknown("no device tree that names a known board")


def _android(env: Mapping[str, str]) -> Reading[DeviceType]:
    said = once(("getprop", "ro.build.characteristics"), env, timeout_s=2.0)
    words = (said.value or "").lower().split(",")
    for word, kind in (("tablet", DeviceType.TABLET), ("phone", DeviceType.SMARTPHONE)):
        if word in words:
            return known(kind, f"{said.source} ({word})")
    return unknown("Android does not say whether it is a phone or a tablet; set device_type")
