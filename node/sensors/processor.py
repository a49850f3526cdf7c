"""The processor: cores that this process may use, clock, and how busy all cores are (from /proc/stat)."""

from __future__ import annotations

import math
import re

from node.sensors.cgroup import Cgroup
from node.sensors.reading import Look, Reading, known, unknown
from node.sensors.tree import Tree

_CPUFREQ = "/sys/devices/system/cpu/cpufreq"
_RANGE = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*")
_MHZ = re.compile(r"^cpu MHz\s*:\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*$", re.MULTILINE)
_CORES_MAX = 4096


def processor(tree: Tree, cgroup: Cgroup) -> Look:
    """`cpu_cores` and `cpu_freq_ghz`."""
    return {"cpu_cores": cores(tree, cgroup), "cpu_freq_ghz": clock(tree)}


def cores(tree: Tree, cgroup: Cgroup) -> Reading[int]:
    """The cores that this process may run on: its affinity, and no more than the quota of its cgroup."""
    found = _allowed(tree)
    if found.value is None:
        found = _count(tree.text("/sys/devices/system/cpu/online", 4096), "/sys/devices/system/cpu/online")
    quota = cgroup.cpu_cores()
    if quota.value is not None and (found.value is None or quota.value < found.value):
        return known(max(1, math.floor(quota.value)), quota.source)
    return found


def clock(tree: Tree) -> Reading[float]:
    """The highest clock of the fastest core in GHz; where the kernel does not tell it, the present clock."""
    policies = [name for name in tree.names(_CPUFREQ).value or () if name.startswith("policy")]
    paths = [f"{_CPUFREQ}/{name}/cpuinfo_max_freq" for name in policies] or [
        "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"
    ]
    tops = [top for path in paths if (top := tree.number(path, 0.001, 100, 1e-6)).value is not None]
    if tops:
        return max(tops, key=lambda top: top.value or 0)
    present = [float(mhz) / 1000 for mhz in _MHZ.findall(tree.text("/proc/cpuinfo").value or "")]
    if present and 0 < max(present) <= 100:
        return known(max(present), "/proc/cpuinfo (present clock)")
    return unknown("neither cpufreq in /sys nor /proc/cpuinfo tells a clock")


class Utilization:
    """How busy the cores were, 0..1, since the last look that was long enough ago."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._before = _ticks(tree)
        self._last: Reading[float] = unknown("needs two readings of /proc/stat, 0.1 s apart")

    def look(self) -> Reading[float]:
        """The share since the last look; the previous one when fewer than ten ticks have passed."""
        ticks = _ticks(self._tree)
        if ticks.value is None:
            return unknown(ticks.reason)
        if self._before.value is None:
            self._before = ticks
            return self._last
        total, idle = (now - before for now, before in zip(ticks.value, self._before.value, strict=True))
        if total < 0:  # counters start again after a suspend or in a moved virtual machine
            self._last = unknown("/proc/stat ran backwards")
        elif total >= 10:
            self._last = known(round(min(1.0, max(0.0, 1 - idle / total)), 3), "/proc/stat")
        else:
            return self._last
        self._before = ticks
        return self._last


def _ticks(tree: Tree) -> Reading[tuple[int, int]]:
    """All ticks and the idle ones. Guest time is part of user time, so fields after steal are left out."""
    read = tree.text("/proc/stat", 4096)
    if read.value is None:
        return unknown(read.reason)
    fields = read.value.partition("\n")[0].split()[:9]
    if len(fields) < 5 or fields[0] != "cpu" or not all(f.isascii() and f.isdigit() for f in fields[1:]):
        return unknown("/proc/stat does not begin with the processor's ticks")
    ticks = [int(field[:20]) for field in fields[1:]]
    return known((sum(ticks), sum(ticks[3:5])), "/proc/stat")


def _allowed(tree: Tree) -> Reading[int]:
    for line in (tree.text("/proc/self/status").value or "").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return _count(known(line.partition(":")[2].strip(), ""), "/proc/self/status")
    return unknown("/proc/self/status tells no affinity")


def _count(read: Reading[str], source: str) -> Reading[int]:
    """How many numbers a list such as ``0-3,8`` names."""
    if read.value is None:
        return unknown(read.reason)
    if not _RANGE.fullmatch(read.value):
        return unknown(f"{source} holds no list of processors")
    total = 0
    for part in read.value.split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return known(total, source) if 1 <= total <= _CORES_MAX else unknown(f"{source} names {total} processors")
