"""Useful time of a session: work ran, and was not suspended. Measured, and cut into claims. Pure.

The amount is exact; where in a look's interval (a second or less) the work ran is not kept: its time stands at the interval's
start. What lies between two looks that are more than `SILENCE_S` apart (the device slept) counts for nothing.
"""

from __future__ import annotations

from schemas.ledger import CLAIM_SPANS_MAX, Claim
from schemas.spans import Span

SILENCE_S = 10.0
SLICE_S = 120.0  # of a session, that one claim is of
SPANS = CLAIM_SPANS_MAX - 100  # at which a claim is closed earlier
NEAR_MS = 20  # two spans so near are one: their clocks are read one after the other


class Busy:
    """How long something has run since the start, by the caller's clock. Cheap: told of edges only."""

    __slots__ = ("_since", "_total_s")

    def __init__(self) -> None:
        self._total_s = 0.0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """Something runs. Again changes nothing."""
        if self._since is None:
            self._since = now

    def end(self, now: float) -> None:
        """Nothing runs any more."""
        if self._since is not None:
            self._total_s += max(0.0, now - self._since)
            self._since = None

    def read(self, now: float) -> float:
        """Seconds up to now."""
        return self._total_s + (0.0 if self._since is None else max(0.0, now - self._since))


class Session:
    """One session's useful time. `claim` is the open one: what of the session is in no finished claim."""

    def __init__(self, session: str, node: str, ticks: float, at: float, busy_s: float) -> None:
        self.id, self._node = session, node
        self.since = at
        self.useful_s = 0.0
        self._ticks, self._at, self._busy_s = ticks, at, busy_s
        self._rest_ms = 0.0
        self._number = 1
        self._spans: list[Span] = []
        self._slice_since = ticks

    def look(self, ticks: float, at: float, busy_s: float, *, suspended: bool) -> list[Claim]:
        """Take in what ran since the last look; `suspended` says whether that was held. Returns claims that are finished."""
        passed_s, ran_s = ticks - self._ticks, busy_s - self._busy_s
        began_ms = round(1000 * self._at)
        self._ticks, self._at, self._busy_s = ticks, at, busy_s
        finished = []
        if self._spans and began_ms < self._spans[-1][1] - NEAR_MS:  # the clock was set back
            finished.append(self._finish(ticks))
        if not suspended and 0 < passed_s <= SILENCE_S:
            self._add(began_ms, 1000 * min(passed_s, max(0.0, ran_s)))
        if self._spans and (ticks - self._slice_since >= SLICE_S or len(self._spans) >= SPANS):
            finished.append(self._finish(ticks))
        if not self._spans:
            self._slice_since = ticks
        return finished

    def _add(self, began_ms: int, ran_ms: float) -> None:
        self.useful_s += ran_ms / 1000
        self._rest_ms += ran_ms
        whole_ms, self._rest_ms = int(self._rest_ms), self._rest_ms % 1
        if not whole_ms:
            return
        if self._spans and abs(began_ms - self._spans[-1][1]) <= NEAR_MS:
            start, end = self._spans[-1]
            self._spans[-1] = start, end + whole_ms
        else:
            self._spans.append((began_ms, began_ms + whole_ms))

    @property
    def claim(self) -> Claim | None:
        """The open claim, as it would be finished now; None when there is nothing in it."""
        return self._made(ended=False) if self._spans else None

    def end(self) -> Claim:
        """The session is over: its last claim, which may hold nothing but that."""
        return self._made(ended=True)

    def _finish(self, ticks: float) -> Claim:
        claim = self._made(ended=False)
        self._number += 1
        self._spans = []
        self._slice_since = ticks
        return claim

    def _made(self, *, ended: bool) -> Claim:
        since_ms = max(0, round(1000 * self.since))
        return Claim(f"{self.id}.{self._number}", self._node, self.id, since_ms, tuple(self._spans), ended)
