"""What a container or a systemd unit leaves to this process: the limits of its cgroup (version 2) and of those above."""

from __future__ import annotations

import posixpath
import re

from node.sensors.reading import Reading, known, unknown
from node.sensors.tree import Tree

_MOUNT = "/sys/fs/cgroup"
_QUOTA = re.compile(r"([0-9]{1,15}) ([0-9]{1,15})")
_DEPTH_MAX = 32
_MIB = 1 / 2**20
_HUGE_MB = 2**40


class Cgroup:
    """The limits, looked up when asked: cheap, and they may change under us."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._folders = _folders(tree)

    def cpu_cores(self) -> Reading[float]:
        """The tightest CPU quota in cores; unknown when there is none."""
        quotas = []
        for folder in self._folders:
            match = _QUOTA.fullmatch(self._tree.text(f"{folder}/cpu.max", 64).value or "")
            if match and int(match[2]):
                quotas.append(known(int(match[1]) / int(match[2]), f"{folder}/cpu.max"))
        return min(quotas, key=lambda quota: quota.value or 0, default=unknown("no CPU quota"))

    def memory_total_mb(self) -> Reading[float]:
        """The tightest memory limit in MiB; unknown when there is none."""
        limits = [self._tree.number(f"{folder}/memory.max", 0, _HUGE_MB, _MIB) for folder in self._folders]
        found = [limit for limit in limits if limit.value is not None]
        return min(found, key=lambda limit: limit.value or 0, default=unknown("no memory limit"))

    def memory_free_mb(self) -> Reading[float]:
        """What the tightest limit leaves in MiB, counting file cache as free; unknown when there is no limit."""
        left = [free for folder in self._folders if (free := self._free(folder)).value is not None]
        return min(left, key=lambda free: free.value or 0, default=unknown("no memory limit"))

    def _free(self, folder: str) -> Reading[float]:
        limit = self._tree.number(f"{folder}/memory.max", 0, _HUGE_MB, _MIB)
        used = self._tree.number(f"{folder}/memory.current", 0, _HUGE_MB, _MIB)
        if limit.value is None or used.value is None:
            return unknown("no memory limit")
        cache = re.search(r"^inactive_file ([0-9]{1,18})$", self._tree.text(f"{folder}/memory.stat").value or "", re.M)
        cached_mb = int(cache[1]) * _MIB if cache else 0.0
        return known(max(0.0, min(limit.value, limit.value - used.value + cached_mb)), f"{folder}/memory.max")


def _folders(tree: Tree) -> tuple[str, ...]:
    """Our own cgroup's folder and all above it, from /proc/self/cgroup; none where version 2 is not in use."""
    for line in (tree.text("/proc/self/cgroup").value or "").splitlines():
        if line.startswith("0::/") and tree.exists(f"{_MOUNT}/cgroup.controllers"):
            path = posixpath.normpath(line[3:])
            parts = [part for part in path.split("/") if part and part != ".."][:_DEPTH_MAX]
            return tuple(posixpath.join(_MOUNT, *parts[:depth]) for depth in range(len(parts), -1, -1))
    return ()
