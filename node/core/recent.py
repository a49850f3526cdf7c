"""What ended here lately, so that a redelivery of it starts nothing."""

from __future__ import annotations

RECENT_MAX = 4_096  # tasks remembered


class Recent:
    """The last ended placement of each task, and whether it ended the task for good."""

    def __init__(self) -> None:
        self._ended: dict[str, tuple[int, bool]] = {}

    def add(self, task: str, placement: int, final: bool) -> None:
        """Remember that `placement` is over; `final`: the task has its result, or is not wanted any more."""
        ended = self._ended
        before = ended.pop(task, None)
        if before is not None:
            ended[task] = (max(placement, before[0]), final or before[1])
            return
        if len(ended) >= RECENT_MAX:
            del ended[next(iter(ended))]
        ended[task] = (placement, final)

    def settles(self, task: str, placement: int) -> bool:
        """Whether this placement needs no start: it, a later one, or the task itself is over."""
        ended = self._ended.get(task)
        return ended is not None and (ended[1] or placement <= ended[0])
