"""How many items the next chunk of a map should hold: the planner. Pure: it knows neither clock nor broker.

The first chunks are single items, to learn how long one takes. After that a chunk is sized to `TARGET_S` by the times
seen, at most `GROWTH` times the largest one that came back, so that one odd item cannot mislead it far. Towards the end
of a job of known length chunks shrink (guided self-scheduling: a share of what is left a slot), so that all slots
finish together, but not below what is worth a round trip.
"""

from __future__ import annotations

from schemas import limits

TARGET_S = 1.0
WORTH_S = 0.02  # chunks shorter than this spend more time travelling than running
GROWTH = 8
IN_FLIGHT_PER_SLOT = 2  # one runs, one waits next to it
MEMORY = 0.7  # weight of what was seen before against one new chunk
SHARES = 2  # a chunk near the end holds 1/SHARES of a slot's equal share of what is left


class Planner:
    """Sizes the chunks of maps over one function. Feed it by `learn`, ask it by `size`."""

    def __init__(self) -> None:
        self._item_s: float | None = None
        self._largest = 0

    @property
    def item_s(self) -> float | None:
        """Seconds that one item takes, by what was seen; None before the first chunk is back."""
        return self._item_s

    def learn(self, items: int, duration_s: float) -> None:
        """A chunk of `items` items came back after running for `duration_s`."""
        if items <= 0 or duration_s < 0:
            return
        seen = duration_s / items
        # A larger chunk says more about an item than a smaller one: what starting a chunk costs is spread thinner.
        weight = MEMORY if self._largest < 2 * items else max(MEMORY, 1 - items / self._largest)
        self._item_s = (
            seen if self._item_s is None or items > self._largest else weight * self._item_s + (1 - weight) * seen
        )
        self._largest = max(self._largest, items)

    def size(self, slots: int, left: int | None) -> int:
        """Items for the next chunk, 1 to `limits.CHUNK_ITEMS_MAX`, and at most `left` where that is known (and above 0)."""
        if self._item_s is None:
            return 1
        ideal = TARGET_S / max(self._item_s, 1e-9)
        size = min(ideal, self._largest * GROWTH, limits.CHUNK_ITEMS_MAX)
        if left is not None:
            share = left / (max(1, slots) * SHARES)
            worth = WORTH_S / max(self._item_s, 1e-9)
            size = min(size, max(share, worth), max(1, left))
        return max(1, int(size))

    def in_flight(self, slots: int) -> int:
        """How many chunks may be with the fleet at a time."""
        return IN_FLIGHT_PER_SLOT * max(1, slots)
