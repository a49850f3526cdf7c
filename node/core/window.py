"""The hours in which an owner lets a device work for others: ``22:00-07:00`` by a zone's own clock. Pure.

A window is ``[start, end)`` of local time, once a day, over midnight when it ends before it starts. Where a zone changes its
clock, a time that the clock skips is the moment of the change, and one that it shows twice is the first of the two: so a
window never ends later than its owner reads its end on the wall.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from msgspec import Struct

from schemas.errors import BadInput

ALWAYS = "always"
_DAYS = 3  # days around a moment that are looked at: each has one window, at most a day long
_TEXT = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")


class Window(Struct, frozen=True):
    """Hours in minutes after local midnight; `start` equal to `end` is the whole day, without any break."""

    start: int
    end: int
    zone: tzinfo = UTC

    @property
    def always(self) -> bool:
        """Whether it never closes."""
        return self.start == self.end

    @property
    def text(self) -> str:
        """``22:00-07:00``, or ``always``."""
        if self.always:
            return ALWAYS
        return "-".join(f"{minute // 60:02d}:{minute % 60:02d}" for minute in (self.start, self.end))

    def span(self, at: float) -> tuple[float, float]:
        """The window that `at` lies in, else the next one, as moments (seconds since 1970). Not for one that never closes."""
        today = datetime.fromtimestamp(at, self.zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        for day in (today + timedelta(days=number) for number in range(-1, _DAYS)):
            first = moment(day + timedelta(minutes=self.start), self.zone)
            past_midnight = timedelta(days=self.end <= self.start)
            last = moment(day + past_midnight + timedelta(minutes=self.end), self.zone)
            if at < last and first < last:
                return first, last
        raise AssertionError("each of these days has a window")

    def closes_at(self, at: float) -> float | None:
        """When the window that `at` lies in ends; None when it lies in none. Infinity for one that never closes."""
        if self.always:
            return float("inf")
        first, last = self.span(at)
        return last if first <= at else None

    def opens_at(self, at: float, tail_s: float = 0.0) -> float:
        """The first moment from `at` on with more than `tail_s` of a window before it. `at` itself, when that is one."""
        if self.always:
            return at
        first, last = self.span(at)
        if max(first, at) >= last - tail_s:
            first, last = self.span(last)
        return max(first, at)


def moment(local: datetime, zone: tzinfo) -> float:
    """When that zone's clock first shows `local` or later, in seconds since 1970."""
    early, late = (local.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if early <= late:  # an ordinary time, or the first of two
        return early
    # The clock skips it: the change lies between the two readings (PEP 495: here fold 1 is the earlier one).
    before, after = int(late), int(early) + 1
    offset = datetime.fromtimestamp(before, zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return float(after)


def window_of(text: str, zone: tzinfo) -> Window:
    """``HH:MM-HH:MM`` or ``always``. Raises BadInput."""
    if text.strip().lower() == ALWAYS:
        return Window(0, 0, zone)
    found = _TEXT.fullmatch(text.strip())
    hours = [int(part) for part in found.groups()] if found else [99]
    if not found or max(hours[0], hours[2]) > 23 or max(hours[1], hours[3]) > 59:
        raise BadInput("window", f"{text!r:.40} is no window of time", hint="say 22:00-07:00, or always")
    start, end = 60 * hours[0] + hours[1], 60 * hours[2] + hours[3]
    if start == end:
        raise BadInput("window", f"{text!r:.40} starts when it ends", hint="for the whole day say always")
    return Window(start, end, zone)
