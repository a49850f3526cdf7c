"""Letters on one subject go one after the other: each waits until the broker has those before it."""

from __future__ import annotations

from node.core.letters import Kind
from node.keeper import Item


class Queues:
    """A queue for each subject (results of a task, outcomes of a task) that has a letter to go."""

    def __init__(self) -> None:
        self._items: dict[tuple[Kind, str], list[Item]] = {}

    def join(self, item: Item) -> bool:
        """Take it in; True when it is the first of its subject."""
        key = (item.kind, item.attempt.task.id)
        queue = self._items.get(key)
        if queue is None:  # as a rule
            self._items[key] = [item]
            return True
        queue.append(item)
        return False

    def is_first(self, item: Item) -> bool:
        """Whether nothing is before it."""
        return self._items[item.kind, item.attempt.task.id][0] is item

    def leave(self, item: Item) -> Item | None:
        """It is delivered, or never will be; the one that is first now, if it was not before."""
        key = (item.kind, item.attempt.task.id)
        queue = self._items.get(key)
        if queue is None or item not in queue:
            return None
        if len(queue) == 1:  # as a rule
            del self._items[key]
            return None
        first = queue[0] is item
        queue.remove(item)
        return queue[0] if first else None
