"""Name, operating system, architecture, and the Python that runs us."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from node.sensors.ask import once
from node.sensors.reading import Look, Reading, clean, known, unknown
from node.sensors.tree import Tree

_SYSTEMS = {"linux": "linux", "android": "android", "darwin": "macos", "win32": "windows"}
_SAME = {"amd64": "x86_64", "arm64": "aarch64"}  # other systems' words for what Linux calls otherwise


def identity(tree: Tree, env: Mapping[str, str], platform: str) -> Look:
    """`device_name`, `os`, `os_version`, `arch`, `python_version`, `utc_offset_min`."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return {
        "device_name": _name(tree, platform),
        "os": known(_SYSTEMS.get(platform, platform), "sys.platform"),
        "os_version": _version(tree, env, platform),
        "arch": _arch(),
        "python_version": known(version, f"{sys.implementation.name}, running this"),
        "utc_offset_min": known(time.localtime().tm_gmtoff // 60, "its own zone"),
    }


def _name(tree: Tree, platform: str) -> Reading[str]:
    if platform == "linux":
        return tree.line("/proc/sys/kernel/hostname", 64)
    import socket

    name = clean(socket.gethostname(), 64)
    return known(name, "gethostname") if name else unknown("the system has no host name")


def _version(tree: Tree, env: Mapping[str, str], platform: str) -> Reading[str]:
    if platform == "android":
        return _line(once(("getprop", "ro.build.version.release"), env, timeout_s=2.0))
    if platform != "linux":
        import platform as system

        return known(clean(f"{system.system()} {system.release()}", 128), "platform")
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        for line in (tree.text(path).value or "").splitlines():
            if line.startswith("PRETTY_NAME="):
                name = clean(line.partition("=")[2].strip().strip("\"'"), 128)
                return known(name, path) if name else unknown(f"{path} names no system")
    return unknown("no PRETTY_NAME in /etc/os-release")


def _line(read: Reading[str]) -> Reading[str]:
    return read if read.value is None else known(clean(read.value, 64), read.source)


def _arch() -> Reading[str]:
    if hasattr(os, "uname"):
        machine = os.uname().machine.lower()
    else:
        import platform as system

        machine = system.machine().lower()
    return known(_SAME.get(machine, machine), "uname") if machine else unknown("the system does not say")
