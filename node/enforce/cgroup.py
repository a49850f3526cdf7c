"""A control group (version 2) of the daemon's own for all its running work, where the system lets it make one.

What it needs is a group that was delegated to it (systemd: ``Delegate=yes``) with the controllers for processors and memory,
and nobody else in it: a group that hands controllers on may hold no processes itself, so the daemon moves into one leaf and
its runners into another (cgroups(7), *no internal processes*). Where any of that fails, everything is put back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from node.core.memory import MIB

MOUNT, SELF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CONTROLLERS = {"cpu", "memory"}
PERIOD_US = 100_000  # of cpu.max: the kernel's own default
ABOVE = 1.1  # memory.max over the limit that is looked at: the looks say whose fault it is, the kernel only kills


class Leaf:
    """The group of the running work. Raises OSError, or ValueError with the reason, where there cannot be one."""

    def __init__(self, mount: Path = MOUNT, membership: Path = SELF) -> None:
        own = _own(mount, membership)
        self._daemon, self._work = own / "fog-daemon", own / f"fog-work-{os.getpid()}"
        self._own = own
        for left in own.glob("fog-work-*"):  # by a daemon before this one
            with contextlib.suppress(OSError):
                left.rmdir()
        try:
            self._daemon.mkdir(exist_ok=True)
            _write(self._daemon / "cgroup.procs", str(os.getpid()))
            _write(own / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(CONTROLLERS)))
            self._work.mkdir(exist_ok=True)
        except OSError:
            self.close()
            raise

    def limit(self, cores: float | None, memory_mb: int | None) -> None:
        """Hold all in it to so many cores' time and a little more than that memory; None: no limit."""
        quota = "max" if cores is None else str(max(1000, round(cores * PERIOD_US)))
        _write(self._work / "cpu.max", f"{quota} {PERIOD_US}")
        _write(self._work / "memory.max", "max" if memory_mb is None else str(round(memory_mb * MIB * ABOVE)))

    def add(self, pid: int) -> None:
        """Put a process there; what it starts from now on is there as well. No error when it is gone."""
        with contextlib.suppress(OSError):
            _write(self._work / "cgroup.procs", str(pid))

    def killed(self) -> int:
        """How many processes the kernel has killed there for want of memory."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in (self._work / "memory.events").read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def close(self) -> None:
        """Put everything back, as far as it is empty by now."""
        off = " ".join(f"-{name}" for name in sorted(CONTROLLERS))
        for undo in (
            self._work.rmdir,
            lambda: _write(self._own / "cgroup.subtree_control", off),
            lambda: _write(self._own / "cgroup.procs", str(os.getpid())),
            self._daemon.rmdir,
        ):
            with contextlib.suppress(OSError):
                undo()


class Group:
    """The leaf, made when it is first needed; where there cannot be one, `why`."""

    def __init__(self, make: Callable[[], Leaf] = Leaf) -> None:
        self._make = make
        self._leaf: Leaf | None = None
        self._killed = 0
        self.why = ""

    def limit(self, cores: float | None, memory_mb: int | None, pids: Iterable[int]) -> bool:
        """Have the kernel hold these and what comes later to it; False where it does not."""
        if self._leaf is None and not self.why and (cores is not None or memory_mb is not None):
            try:
                self._leaf = self._make()
                for pid in pids:
                    self._leaf.add(pid)
            except (OSError, ValueError) as error:
                self.why = str(error)
        if self._leaf is not None:
            try:
                self._leaf.limit(cores, memory_mb)
            except OSError as error:
                self.why = str(error)
                self._leaf = None
        return self._leaf is not None

    def add(self, pid: int) -> None:
        """One more process."""
        if self._leaf is not None:
            self._leaf.add(pid)

    def has_killed(self) -> bool:
        """Whether the kernel has killed there since this was last asked."""
        before, self._killed = self._killed, self._leaf.killed() if self._leaf is not None else 0
        return self._killed > before


def _own(mount: Path, membership: Path) -> Path:
    """This process's group, if it can be used."""
    lines = membership.read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::/")), None)
    if path is None or ".." in path.split("/"):
        raise ValueError("this process is in no group of version 2")
    own = mount / path.lstrip("/")
    missing = CONTROLLERS - set((own / "cgroup.controllers").read_text().split())
    if missing:
        raise ValueError(f"the group {path} has no controller for {', '.join(sorted(missing))}")
    return own


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
