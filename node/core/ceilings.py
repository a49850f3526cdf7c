"""Ceilings: the most that running work may use together. Several may be set (by the owner, by advice): the lowest counts."""

from __future__ import annotations

from typing import Annotated, Protocol

from msgspec import Meta, Struct


class Limits(Protocol):
    """What advice says of it, as `schemas.advice.Limits` has it."""

    @property
    def cpu_percent(self) -> float:
        """Of all the device's cores together."""

    @property
    def memory_mb(self) -> int:
        """MiB of all that runs, together."""


class Ceilings(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The most that running work may use, all of it together; None: as much as there is.

    `cpu_percent` is of the whole device: 50 on four cores is the time of two, whoever uses it and on how many of them.
    `bandwidth_mbps` is what the daemon transfers of inputs and results, in millions of bits a second, each way.
    """

    cpu_percent: Annotated[float, Meta(ge=1, le=100)] = 100.0
    memory_mb: Annotated[int, Meta(ge=1)] | None = None
    bandwidth_mbps: Annotated[float, Meta(gt=0)] | None = None

    def lowered(self, limits: Limits | None) -> Ceilings:
        """These, or what `limits` says where that is lower (never below 1 % and 1 MiB: nothing at all is a suspension)."""
        if limits is None:
            return self
        cpu_percent = max(1.0, min(self.cpu_percent, limits.cpu_percent))
        memory_mb = max(1, limits.memory_mb if self.memory_mb is None else min(self.memory_mb, limits.memory_mb))
        return Ceilings(cpu_percent, memory_mb, self.bandwidth_mbps)
