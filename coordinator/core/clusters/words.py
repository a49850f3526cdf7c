"""Why the members of a cluster belong together, in words."""

from __future__ import annotations

from collections.abc import Iterable

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
        _shared({t.latency for t in traits}, "{} link"),
        _shared({t.pattern for t in traits}, "mostly there {}"),
    ]  # fmt: skip
    return ", ".join(part for part in parts if part)


def _plural(kind: str) -> str:
    return PLURALS.get(kind) or kind.replace("_", " ") + "s"


def _ends(values: Iterable[int]) -> list[int]:
    found = sorted(set(values))
    return found if len(found) == 1 else [found[0], found[-1]]


def _shared(values: set[str], text: str) -> str:
    return text.format(next(iter(values))) if len(values) == 1 and "" not in values else ""
