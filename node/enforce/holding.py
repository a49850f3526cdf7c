"""Stopping whole process trees and letting them go on. Nothing that was stopped here is ever forgotten."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

CAN_HOLD = sys.platform != "win32"  # Windows has no signal that stops a process


class Holding:
    """The process groups that are stopped now, by the runner above them."""

    def __init__(self) -> None:
        self._held: dict[int, set[int]] = {}

    @property
    def held(self) -> bool:
        """Whether anything is stopped."""
        return bool(self._held)

    def hold(self, groups: dict[int, set[int]]) -> None:
        """Stop the groups of each of these runners, first the runner's own; those of other runners go on."""
        self.release(set(self._held) - set(groups))
        for runner, of_runner in groups.items():
            held = self._held.setdefault(runner, set())
            for group in sorted(of_runner - held, key=lambda group: group != runner):
                if _signal(group, "SIGSTOP"):
                    held.add(group)

    def release(self, runners: set[int] | None = None) -> None:
        """Let everything go on, or what belongs to these runners."""
        for runner in list(self._held) if runners is None else runners & set(self._held):
            for group in self._held.pop(runner):
                _signal(group, "SIGCONT")


def _signal(group: int, name: str) -> bool:
    """Signal a process group that is not our own; False when it is gone."""
    if sys.platform == "win32" or group <= 1 or group == os.getpgrp():
        return False
    with contextlib.suppress(OSError):
        os.killpg(group, getattr(signal, name))
        return True
    return False
