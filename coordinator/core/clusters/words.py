"""Why the members of a cluster belong together, in words."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.core.clusters.nearness import ALONE, COMMON
from schemas.cluster import Seat

TIERS = ("", "low", "medium", "high", "top")
PLURALS = {"": "devices of unknown type", "iot_device": "IoT devices"}


def why(seats: Iterable[Seat]) -> str:
    """What they have in common, the most important first: ``laptops, tier high, behind gateway 3fa2…, a good link``."""
    traits = [seat.traits for seat in seats]
    if not traits:
        return "no members"
    site = traits[0].site
    parts = [
        " and ".join(_plural(kind) for kind in sorted({t.device_type for t in traits})),
        "tier " + " to ".join(TIERS[t] for t in _ends(t.tier for t in traits) if t) if any(t.tier for t in traits) else "",
        f"behind gateway {site}" if site else "gateway unknown",
        _places([t.place for t in traits]),
        _shared({t.latency for t in traits}, "{} link"),
        _shared({t.pattern for t in traits}, "mostly there {}"),
    ]  # fmt: skip
    return ", ".join(part for part in parts if part)


def _plural(kind: str) -> str:
    return PLURALS.get(kind) or kind.replace("_", " ") + "s"


def _places(places: list[str]) -> str:
    """Where they are at their site, by the round trips between its devices; "" for where most are."""
    alone, apart = places.count(ALONE), {place for place in places if place not in (COMMON, ALONE)}
    if alone:
        return "far from all others" if alone == len(places) else f"{alone} far from all others"
    if len(apart) == 1 and COMMON not in places:
        return "near each other and apart from the rest"
    return f"in {len({*places})} places" if apart else ""


def _ends(values: Iterable[int]) -> list[int]:
    found = sorted(set(values))
    return found if len(found) == 1 else [found[0], found[-1]]


def _shared(values: set[str], text: str) -> str:
    return text.format(next(iter(values))) if len(values) == 1 and "" not in values else ""
