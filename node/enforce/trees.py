"""Looking at the process trees of the runners: who is in them, what each has used. Cheap enough for ten looks a second.

On Linux by /proc: a look lists the pids and reads only those that are new or ours. Elsewhere by psutil.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable

from node.core.usage import Look, Process, Sample
from node.runners.tree import linux_stat

FORGET_LOOKS = 100  # after so many looks every process is read anew
_TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_MEMBER = tuple[int, str, list[str]]


class Trees:
    """The trees below some roots, looked at again and again."""

    def __init__(self) -> None:
        self.groups: dict[int, set[int]] = {}  # by root, the process groups of the latest look
        self._strangers: set[int] = set()
        self._looks = 0

    def look(self, roots: Iterable[int]) -> dict[int, Look]:
        """Each root's tree, with its root. A root that is gone is left out."""
        wanted = set(roots)
        if not wanted:
            return {}
        return self._linux(wanted) if sys.platform == "linux" else self._other(wanted)

    def _linux(self, roots: set[int]) -> dict[int, Look]:
        self._looks += 1
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._strangers = set() if self._looks % FORGET_LOOKS == 0 else self._strangers & pids
        stats = {pid: stat for pid in pids - self._strangers if len(stat := linux_stat(pid)) > 21}
        roots_of: dict[int, int] = {}
        for pid in stats:
            self._find_root(pid, roots, stats, roots_of)
        self._strangers |= {pid for pid in stats if not roots_of[pid]}
        found: dict[int, Look] = {}
        self.groups = {}
        for pid, stat in stats.items():
            if (root := roots_of[pid]) and stat[0] not in "ZX":
                found.setdefault(root, {})[pid, stat[19]] = _linux_sample(pid, stat)
                self.groups.setdefault(root, set()).add(int(stat[2]))
            elif root:  # a zombie: what it has used is not handed over before somebody waits for it
                found.setdefault(root, {})[pid, stat[19]] = Sample(_seconds(stat, 11), _seconds(stat, 13))
        return found

    def _find_root(self, pid: int, roots: set[int], stats: dict[int, list[str]], known: dict[int, int]) -> int:
        """The root above the process, or 0. Remembers it for all on the way."""
        path = []
        while pid not in known:
            path.append(pid)
            if pid in roots or pid not in stats:
                known[pid] = pid if pid in roots else 0
                break
            pid = int(stats[pid][1])
        for one in path:
            known[one] = known[pid]
        return known[pid]

    def _other(self, roots: Iterable[int]) -> dict[int, Look]:
        import psutil  # only where it is needed, and only then: it is large

        found: dict[int, Look] = {}
        self.groups = {}
        for root in roots:
            with contextlib.suppress(psutil.Error):
                top = psutil.Process(root)
                for process in (top, *top.children(recursive=True)):
                    with contextlib.suppress(psutil.Error, OSError):
                        cpu, memory = process.cpu_times(), process.memory_info()
                        waited_s = getattr(cpu, "children_user", 0.0) + getattr(cpu, "children_system", 0.0)
                        key: Process = process.pid, str(process.create_time())
                        found.setdefault(root, {})[key] = Sample(cpu.user + cpu.system, waited_s, memory.rss)
                        if hasattr(os, "getpgid"):
                            self.groups.setdefault(root, set()).add(os.getpgid(process.pid))
        return found


def _seconds(stat: list[str], first: int) -> float:
    return (int(stat[first]) + int(stat[first + 1])) * _TICK_S


def _linux_sample(pid: int, stat: list[str]) -> Sample:
    """The process's own clock tells nanoseconds, /proc only hundredths of a second."""
    try:
        own_s = time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3), spelled out: Python has no call for it
    except OSError:
        own_s = _seconds(stat, 11)
    return Sample(own_s, _seconds(stat, 13), int(stat[21]) * _PAGE)


def pss(pid: int) -> int | None:
    """Bytes of the process, its part of what it shares counted in proportion; None where that cannot be read.

    Dearer than the resident size (some milliseconds for a large process), which counts what is shared in full for each.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return None
