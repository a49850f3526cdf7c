"""What a runner did last. By itself, because runners know it too, and start sooner for every module that they need not load."""

from __future__ import annotations

from msgspec import Struct


class Last(Struct, frozen=True):
    """The keys of what a runner began last and was through with last (0: nothing), as it wrote them down itself."""

    begun: int
    through: int
