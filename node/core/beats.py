"""Heartbeats: which values changed since the last one, and when the next is due."""

from __future__ import annotations

from msgspec import UNSET

from schemas import limits
from schemas.advice import PowerMode
from schemas.device import DeviceState
from schemas.enforced import Enforced

UNCHANGED = DeviceState()
JITTER = 0.1  # of the interval, both ways: a fleet that was started together must not beat together


# By how much a reading that never stands still may differ from what was said of it: a share of one, or of what was said.
NOTABLE = {"cpu_utilization": 0.05, "ram_available_mb": 0.05, "storage_free_mb": 0.05}


def near(name: str, said: object, value: object) -> bool:
    """Whether a reading is about what was said of it."""
    notable = NOTABLE.get(name)
    if notable is None or not isinstance(said, int | float) or not isinstance(value, int | float):
        return False
    return abs(value - said) <= notable * (1.0 if name == "cpu_utilization" else said)


class Beats:
    """The numbering and the deltas of one boot's heartbeats."""

    def __init__(self) -> None:
        self.seq = 0
        self._enforced = Enforced()
        self._said: dict[str, object] = {}
        self._looked: DeviceState | None = None
        self._names = DeviceState.__struct_fields__

    def delta(self, state: DeviceState, full: bool, roughly: bool = False) -> DeviceState:
        """What to say of `state`: all of it when `full`, else only the values that differ from what was said before; `roughly`,
        only those that differ notably.

        A value that is unset was not looked at, and leaves what was said in force.
        """
        if state == self._looked and not full:
            return UNCHANGED
        self._looked = None if roughly else state
        changed: dict[str, object] = {}
        for name in self._names:
            value = getattr(state, name)
            if value is UNSET:
                if full and name in self._said:
                    changed[name] = self._said[name]
                continue
            if full or name not in self._said or self._said[name] != value:
                if roughly and not full and near(name, self._said.get(name), value):
                    continue
                changed[name] = value
                self._said[name] = value
        return DeviceState(**changed)  # type: ignore[arg-type]

    def changed(self, enforced: Enforced, full: bool) -> Enforced | None:
        """How work is held to limits, if that was not said before."""
        if not full and enforced == self._enforced:
            return None
        self._enforced = enforced
        return enforced

    def next_seq(self) -> int:
        """The number of the beat that is about to go out."""
        self.seq += 1
        return self.seq


# How much rarer a device beats that spares its battery or is too hot: each beat wakes its radio.
STRETCH = {PowerMode.POWER_SAVE: 3.0, PowerMode.CRITICAL: limits.BEATS_STRETCHED}


def stretched_s(interval_s: float, mode: PowerMode) -> float:
    """The gap between two beats in this power mode; announced with each, so nobody calls the node late for it."""
    stretch = (
        1.0 if mode is PowerMode.PERFORMANCE else STRETCH.get(mode, 1.0)
    )  # an enum's hash costs as much as all else
    return min(interval_s * stretch, limits.SLEEP_MAX_S / 2)


def wait_s(interval_s: float, chance: float) -> float:
    """Seconds until the next beat: the interval ±10 %, by `chance` in 0..1."""
    return interval_s * (1 - JITTER + 2 * JITTER * chance)
