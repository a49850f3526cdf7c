"""Advice for a device of which nothing has changed: known without working it out, as most of it is while a device rests."""

from __future__ import annotations

from msgspec import structs

from schemas.advice import Advice


def again(advice: Advice, now: float) -> Advice:
    """The same, asked for at `now`: what is milder counts its dwell from here."""
    return structs.replace(advice, carried=structs.replace(advice.carried, mode_asked_at=now, heat_asked_at=now))


def is_steady(before: Advice | None, found: Advice, now: float) -> bool:
    """Whether `found`, worked out at `now`, is what `before` was and holds nothing back for a dwell: then the same readings
    under the same policy give the same `again`, however often they are looked at."""
    if before is None or max(before.carried.mode_asked_at, before.carried.heat_asked_at) >= now:
        return False  # of one moment: what is held back cannot be told from what was asked for just now
    return found == again(before, now)
