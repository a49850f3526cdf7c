"""Ceilings: the most that running work may use together. Several may be set, and the lowest of each counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct

from schemas.advice import Limits


class Ceilings(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The most that running work may use, all of it together; None: as much as there is.

    `cpu_percent` is of the whole device: 50 on four cores is the time of two, whoever uses it and on how many of them.
    `bandwidth_mbps` is what the daemon moves from and to the object store, both ways together, in millions of bits a second.
    """

    cpu_percent: Annotated[float, Meta(ge=1, le=100)] = 100.0
    memory_mb: Annotated[int, Meta(ge=1)] | None = None
    bandwidth_mbps: Annotated[float, Meta(gt=0)] | None = None


def advised(limits: Limits) -> Ceilings:
    """What advice says of it. Never below 1 % and 1 MiB: nothing at all is a suspension."""
    return Ceilings(min(100.0, max(1.0, limits.cpu_percent)), max(1, limits.memory_mb))


def lowest(several: Iterable[Ceilings]) -> Ceilings:
    """What satisfies all of them."""
    all_ = tuple(several)
    return Ceilings(
        min((one.cpu_percent for one in all_), default=100.0),
        min((one.memory_mb for one in all_ if one.memory_mb is not None), default=None),
        min((one.bandwidth_mbps for one in all_ if one.bandwidth_mbps is not None), default=None),
    )
