"""Process trees: who descends from a process, and ending all of them.

A runner is a subreaper on Linux, so that what double-forks away from it still hangs below it. A process is named by pid and
start time together, so that a number used again is never hit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable

Process = tuple[int, str]  # pid, start mark

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has but one way


def linux_stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state, parent, group, session, … (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _linux_table() -> dict[int, list[str]]:
    table = {int(name): linux_stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: stat for pid, stat in table.items() if len(stat) > 19 and stat[0] not in "ZX"}


def _linux_below(root: int) -> list[Process]:
    table = _linux_table()
    children: dict[int, list[int]] = {}
    for pid, stat in table.items():
        children.setdefault(int(stat[1]), []).append(pid)
    found: list[int] = []
    open_ = list(children.get(root, ()))
    while open_:
        pid = open_.pop()
        found.append(pid)
        open_ += children.get(pid, ())
    return [(pid, table[pid][19]) for pid in found]


def _other_below(root: int) -> list[Process]:
    import psutil  # only where it is needed, and only then: it is large

    try:
        return [(child.pid, str(child.create_time())) for child in psutil.Process(root).children(recursive=True)]
    except psutil.Error:
        return []


def below(root: int) -> list[Process]:
    """Every living descendant of `root`, without it."""
    return _linux_below(root) if sys.platform == "linux" else _other_below(root)


def in_session(session: int) -> list[Process]:
    """Every living process of that session (Linux; elsewhere nothing): what a dead runner left behind."""
    if sys.platform != "linux":
        return []
    return [(pid, stat[19]) for pid, stat in _linux_table().items() if int(stat[3]) == session]


def _same(process: Process) -> bool:
    if sys.platform != "linux":
        return True
    stat = linux_stat(process[0])
    return len(stat) > 19 and stat[19] == process[1] and stat[0] not in "ZX"


def send(processes: Iterable[Process], number: int) -> None:
    """Signal each that is still the one meant."""
    for process in processes:
        if _same(process):
            with contextlib.suppress(OSError):
                os.kill(process[0], number)


def ask_to_stop(root: int) -> None:
    """TERM to `root` and everything below it, and CONT, so that a stopped one hears it."""
    for number in (signal.SIGTERM, getattr(signal, "SIGCONT", None)):
        if number is not None:
            send(below(root), number)
            with contextlib.suppress(OSError):
                os.kill(root, number)


def kill_below(root: int) -> None:
    """KILL everything below `root` until nothing new appears there."""
    for _ in range(5):
        found = below(root)
        if not found:
            return
        send(found, KILL)


def kill(root: int) -> None:
    """KILL everything below `root`, then `root` with its group, then what is left of its session."""
    kill_below(root)
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            os.kill(root, KILL)
        return
    for end in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            end(root, KILL)
    send(in_session(root), KILL)
