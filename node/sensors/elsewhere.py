"""macOS, Windows and others: what psutil reads right there; the rest unknown. Imported only where /proc is no use."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from node.sensors.reading import Look, Reading, known, unknown
from schemas.device import DeviceType

_MIB = 2**20
_T = TypeVar("_T")
_NOT_YET = "not read on this system yet"


def capabilities() -> Look:
    """Of `DeviceCapabilities`: cores, clock, memory and battery; a device with a battery that psutil knows is a laptop."""
    mhz = _read("cpu_freq", lambda psutil: psutil.cpu_freq().max or psutil.cpu_freq().current)
    battery = _read("sensors_battery", lambda psutil: psutil.sensors_battery() is not None)
    laptop = known(DeviceType.LAPTOP, f"{battery.source} (it has a battery)") if battery.value else None
    unread = ("has_gpu", "gpu_model", "gpu_memory_mb", "has_tpm", "has_secure_enclave", "attestation_support")
    return {
        **dict.fromkeys(unread, unknown(_NOT_YET)),
        "device_type": laptop or unknown("nothing on this system tells; set device_type"),
        "cpu_cores": _read("cpu_count", lambda psutil: psutil.cpu_count()),
        "cpu_freq_ghz": known(mhz.value / 1000, mhz.source) if mhz.value else unknown(mhz.reason or "no clock"),
        "ram_total_mb": _read("virtual_memory", lambda psutil: psutil.virtual_memory().total // _MIB),
        "battery_powered": battery,
    }


def state() -> Look:
    """Of `DeviceState`: load, memory and battery. Heat and network have no right reader there yet."""
    unread = ("temperature_c", "temperature_sensor", "thermal_state", "network_type", "network_metered")
    return {
        **dict.fromkeys(unread, unknown(_NOT_YET)),
        "cpu_utilization": _read("cpu_percent", lambda psutil: min(1.0, psutil.cpu_percent(None) / 100)),
        "ram_available_mb": _read("virtual_memory", lambda psutil: psutil.virtual_memory().available // _MIB),
        **_battery(),
        "user_idle_s": _user_idle(),
        "screen_on": unknown(_NOT_YET),
    }


def _user_idle() -> Reading[float]:
    """Windows: since the last input of this session. macOS: ``ioreg`` would have to be run for it each time."""
    if sys.platform != "win32":
        return unknown(_NOT_YET)
    import ctypes

    class LastInput(ctypes.Structure):
        _fields_ = (("size", ctypes.c_uint), ("ticks", ctypes.c_uint))

    last = LastInput(ctypes.sizeof(LastInput), 0)
    try:
        told = ctypes.windll.user32.GetLastInputInfo(ctypes.byref(last))
        passed_ms = (ctypes.windll.kernel32.GetTickCount() - last.ticks) & 0xFFFFFFFF  # it wraps after 49 days
    except (OSError, AttributeError) as problem:
        return unknown(f"GetLastInputInfo: {problem}")
    return known(passed_ms / 1000, "GetLastInputInfo") if told else unknown("GetLastInputInfo does not tell")


def storage(path: str) -> Look:
    """`storage_total_mb` and `storage_free_mb` of the disk that holds `path`."""
    try:
        disk = shutil.disk_usage(path)
    except OSError as problem:
        return dict.fromkeys(("storage_total_mb", "storage_free_mb"), unknown(f"{path}: {problem.strerror or problem}"))
    return {
        "storage_total_mb": known(disk.total // _MIB, f"disk usage of {path}"),
        "storage_free_mb": known(disk.free // _MIB, f"disk usage of {path}"),
    }


def _battery() -> Look:
    there = _read("sensors_battery", lambda psutil: psutil.sensors_battery() is not None)
    if not there.value:
        why = unknown(there.reason or "the device has no battery")
        mains: Reading[bool] = unknown(there.reason) if there.value is None else known(True, there.source)
        return {"mains": mains, "battery_percent": why, "is_charging": why}
    return {
        "mains": known(False, there.source),
        "battery_percent": _read("sensors_battery", lambda psutil: _percent(psutil.sensors_battery().percent)),
        "is_charging": _read("sensors_battery", lambda psutil: psutil.sensors_battery().power_plugged),
    }


def _percent(value: float) -> float | None:
    return float(value) if 0 <= value <= 100 else None


def _read(name: str, ask: Callable[[Any], _T | None]) -> Reading[_T]:
    try:
        import psutil

        value = ask(psutil)
    except Exception as problem:  # psutil raises its own, the system's, and AttributeError where a function is missing
        return unknown(f"psutil.{name}: {type(problem).__name__} {problem}")
    return unknown(f"psutil.{name} does not tell") if value is None else known(value, f"psutil.{name}")
