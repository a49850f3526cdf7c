"""Memory and storage: what there is, and what is free now."""

from __future__ import annotations

import os
import re

from node.sensors.cgroup import Cgroup
from node.sensors.reading import Look, Reading, known, unknown
from node.sensors.tree import Tree

_MEMINFO = "/proc/meminfo"
_MIB = 2**20


def ram_total(tree: Tree, cgroup: Cgroup) -> Reading[int]:
    """The memory in MiB: the machine's, or what our cgroup may have when that is less."""
    return _less(_line(tree, "MemTotal"), cgroup.memory_total_mb())


def ram_available(tree: Tree, cgroup: Cgroup) -> Reading[int]:
    """What new work could have in MiB without swapping (the kernel's own estimate)."""
    return _less(_line(tree, "MemAvailable"), cgroup.memory_free_mb())


def storage(path: str) -> Look:
    """`storage_total_mb` and `storage_free_mb` (what a normal user may still write) of the disk that holds `path`."""
    try:
        disk = os.statvfs(path)
    except OSError as problem:
        why: Reading[int] = unknown(f"{path}: {problem.strerror or problem}")
        return {"storage_total_mb": why, "storage_free_mb": why}
    source = f"statvfs {path}"
    return {
        "storage_total_mb": known(disk.f_blocks * disk.f_frsize // _MIB, source),
        "storage_free_mb": known(disk.f_bavail * disk.f_frsize // _MIB, source),
    }


def _line(tree: Tree, name: str) -> Reading[int]:
    read = tree.text(_MEMINFO, 8192)
    if read.value is None:
        return unknown(read.reason)
    match = re.search(rf"^{name}:\s+([0-9]{{1,18}}) kB\s*$", read.value, re.MULTILINE)
    return known(int(match[1]) // 1024, f"{_MEMINFO} {name}") if match else unknown(f"{_MEMINFO} has no {name}")


def _less(machine: Reading[int], limit: Reading[float]) -> Reading[int]:
    if limit.value is not None and (machine.value is None or limit.value < machine.value):
        return known(int(limit.value), limit.source)
    return machine
