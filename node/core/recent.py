"""What ended here lately, so that a redelivery of it starts nothing."""

from __future__ import annotations

RECENT_MAX = 4_096  # tasks remembered at least, and twice as many at most


class Recent:
    """The last ended placement of each task, and whether it ended the task for good.

    Two generations, so that forgetting costs nothing: when the younger is full, the elder is let go.
    """

    def __init__(self) -> None:
        self._young: dict[str, tuple[int, bool, int]] = {}
        self._old: dict[str, tuple[int, bool, int]] = {}

    def add(self, task: str, placement: int, final: bool, cancelled_seq: int = 0) -> None:
        """Remember that `placement` is over; `final`: the task has its result, or is not wanted any more. `cancelled_seq`: it
        ended by a cancel, and nothing was told of it; the sequence of its message."""
        before = self._young.get(task) or self._old.get(task)
        if before is not None:
            if placement < before[0]:
                cancelled_seq = before[2]
            placement, final = max(placement, before[0]), final or before[1]
        if len(self._young) >= RECENT_MAX:
            self._young, self._old = {}, self._young
        self._young[task] = (placement, final, cancelled_seq)

    def settles(self, task: str, placement: int) -> bool:
        """Whether this placement needs no start: it, a later one, or the task itself is over."""
        ended = self._young.get(task) or self._old.get(task)
        return ended is not None and (ended[1] or placement <= ended[0])

    def is_taken(self, task: str, placement: int, seq: int) -> bool:
        """Whether this placement was cancelled here as an earlier message than `seq`, so that this is not a redelivery of it.

        A deposed coordinator gave the number out, and its successor, who never heard of that, does so again.
        """
        ended = self._young.get(task) or self._old.get(task)
        return ended is not None and not ended[1] and placement == ended[0] and 0 < ended[2] < seq
