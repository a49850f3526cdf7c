"""What the bench asks of processes: how to start ours, and what they cost."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def environment() -> dict[str, str]:
    """The environment of a process that imports this checkout and nothing of the user's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FOG_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def cpu_seconds(pids: list[int]) -> float:
    """User and system time that these processes have used so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(found.user + found.system for found in times))


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    top = psutil.Process(pid)
    return [pid, *(child.pid for child in top.children(recursive=True))]


def rss_mib(pids: list[int]) -> float:
    """Resident memory in MiB, summed (pages that processes share are counted in each)."""
    return float(sum(psutil.Process(pid).memory_info().rss for pid in pids)) / MIB


def pss_mib(pids: list[int]) -> float:
    """Memory in MiB where a shared page counts once, divided among those that share it; Linux only, else `rss_mib`."""
    found = [psutil.Process(pid).memory_full_info() for pid in pids]
    return float(sum(getattr(info, "pss", info.rss) for info in found)) / MIB
