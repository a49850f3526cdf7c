"""The duty cycle: for how long work is stopped and let run in turn, so that it uses its share of the processors.

A closed loop. What may be used is credited as time passes and what was measured is taken off; the next cycle spends the
allowance of its own length and part of what is left over. So a slice that the system stretched is paid back, and how many
processes there are, on how many cores, need not be known. What is saved up is bounded (work that idled must not burst for
long), what is owed as well (a clock that jumped must not stop work for minutes).
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

PERIOD_S = 0.1  # of a cycle; shorter ones were measured to overshoot (20 ms: 27.9 % for 20 %)
SLICE_MIN_S = 0.015  # of running: below it, the cycle is stretched instead
PERIOD_MAX_S = 1.0
LOOK_S = 0.25  # between two looks at work that stays below its share
SAVED_S = 0.2  # of allowance that idle work may save up
OWED_S = 2.0  # of allowance that may be owed
GAIN = 0.4  # the part of what is saved or owed that one cycle gives back
BURN_GAIN = 0.4  # the weight of the newest cycle in what is known of how fast running work uses the processors
SPAN_S = 5.0  # over which the share that is told is measured


class Slice(Struct, frozen=True):
    """What to do next: stop everything for `stop_s` (0: do not stop), let it run for `run_s`, then measure."""

    stop_s: float
    run_s: float


class Duty:
    """The controller of all running work of one device. `share` (0..1) is of all of its `cores`."""

    def __init__(self, share: float, cores: int) -> None:
        self._cores = float(cores)
        self._allowed = max(0.001, min(1.0, share)) * cores  # processor seconds a second
        self._credit = 0.0
        self._burn = float(cores)  # processor seconds a second while it runs: the worst until something was measured

    def begin(self) -> Slice:
        """The first slice: it runs for a moment, and is measured."""
        return Slice(0.0, PERIOD_S * self._allowed / self._cores)

    def step(self, elapsed_s: float, ran_s: float, used_s: float) -> Slice:
        """After a slice that took `elapsed_s` in all, `ran_s` of it not stopped, and used `used_s` of processor time."""
        self._credit += self._allowed * max(0.0, elapsed_s) - max(0.0, used_s)
        self._credit = max(-OWED_S * self._allowed, min(SAVED_S * self._allowed, self._credit))
        if ran_s > 0:
            seen = min(self._cores, max(0.0, used_s) / ran_s)
            self._burn += BURN_GAIN * (seen - self._burn)
        return self._free() if self._fits() else self._throttled()

    def _fits(self) -> bool:
        """Whether it may go on without being stopped: it uses less than its share and owes nothing that counts."""
        return self._burn <= self._allowed and self._credit >= -SAVED_S * self._allowed * GAIN

    def _free(self) -> Slice:
        """For as long as the worst could do no harm that the next cycles cannot make good."""
        worst = self._cores - self._allowed
        spare = self._credit + SAVED_S * self._allowed
        return Slice(0.0, LOOK_S if worst <= 0 else max(PERIOD_S, min(LOOK_S, spare / worst)))

    def _throttled(self) -> Slice:
        burn = max(self._burn, 0.01 * self._cores)
        give = GAIN * self._credit
        period_s = PERIOD_S
        run_s = (self._allowed * period_s + give) / burn
        if run_s < SLICE_MIN_S:
            run_s = SLICE_MIN_S
            period_s = min(PERIOD_MAX_S, max(PERIOD_S, (burn * run_s - give) / self._allowed))
        return Slice(max(0.0, period_s - run_s), min(run_s, period_s))


class Measured:
    """The share (0..1) of the device that was used of late, from what was measured slice by slice."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._slices: deque[tuple[float, float]] = deque()
        self._elapsed = self._used = 0.0

    def add(self, elapsed_s: float, used_s: float) -> None:
        """One more slice; what lies more than `SPAN_S` back is forgotten."""
        self._slices.append((elapsed_s, used_s))
        self._elapsed += elapsed_s
        self._used += used_s
        while len(self._slices) > 1 and self._elapsed - self._slices[0][0] >= SPAN_S:
            gone_s, gone_used_s = self._slices.popleft()
            self._elapsed -= gone_s
            self._used -= gone_used_s

    @property
    def share(self) -> float | None:
        """None: nothing was measured yet."""
        return max(0.0, min(1.0, self._used / self._elapsed / self._cores)) if self._elapsed > 0 else None
