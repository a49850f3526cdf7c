"""Tasks that are not where they should be: what `fog doctor` asks for. Looks, and changes nothing.

A `Look` is given the tasks a part at a time, since there may be a million of them, and the coordinator has other things to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from coordinator.core import tune
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator
from schemas import api, limits

BETWEEN = frozenset({Life.PLACING, Life.SPLITTING, Life.ASKING, Life.CONCLUDING})  # the broker is to confirm something


class Look:
    """One look at the tasks of `state` at `now`."""

    def __init__(self, state: Coordinator, now: float) -> None:
        self._state, self._now = state, now
        self._counts: Counter[str] = Counter()
        self._stuck: list[api.StuckTask] = []
        # By reason: how many, since when the oldest, its id, the earliest retry.
        self._waiting: dict[str, tuple[int, float, str, float]] = {}

    def at(self, tasks: Iterable[TaskRecord]) -> None:
        """Look at these. Those that ended since they were listed are passed over."""
        for task in tasks:
            if task.state is Life.WAITING:
                self._count_waiting(task)
            elif (kind := self._stuck_as(task)) and self._state.tasks.get(task.id) is task:
                self._add(kind, task)

    def _count_waiting(self, task: TaskRecord) -> None:
        reason = task.reason or task.park_reason
        if reason not in self._waiting and len(self._waiting) >= tune.REASONS_TOLD:
            reason = "other reasons"
        count, since, oldest, until = self._waiting.get(reason, (0, task.since, task.id, task.not_before))
        if task.since < since:
            since, oldest = task.since, task.id
        self._waiting[reason] = (count + 1, since, oldest, min(until, task.not_before))

    def _stuck_as(self, task: TaskRecord) -> str:
        """What is wrong with where the task is; empty when nothing is."""
        for_s = self._now - task.since
        if task.state is Life.QUEUED:
            return "queued" if for_s > tune.STUCK_QUEUED_S and self._could_run(task) else ""
        if task.state in BETWEEN:
            return "unconfirmed" if for_s > tune.STUCK_CONFIRM_S else ""
        node = task.node
        if task.state is not Life.PLACED or node is None:
            return ""
        if task.running:
            over_s = self._now - task.running_since - (task.head.timeout_s or 0.0)
            return "overdue" if task.head.timeout_s and over_s > tune.STUCK_OVERDUE_S else ""
        spoke = node.last_beat > task.since and not node.is_lost()
        silent_s = limits.WORK_ACK_WAIT_S + limits.BEATS_MISSED * node.interval_s
        return "unreported" if task.running is None and spoke and for_s > silent_s else ""

    def _could_run(self, task: TaskRecord) -> bool:
        """Whether a node stands ready for it, and none of higher priority or older is before it."""
        cls = task.cls
        return cls is not None and bool(cls.ready) and cls.head(task.priority) is task

    def _add(self, kind: str, task: TaskRecord) -> None:
        self._counts[kind] += 1
        if len(self._stuck) < limits.PAGE:
            node = "" if task.node is None else task.node.id
            since = task.running_since if kind == "overdue" else task.since
            words = task.state.value if kind == "unconfirmed" else task.reason
            self._stuck.append(api.StuckTask(kind, task.id, round(self._now - since, 1), node, words))

    def told(self, refused: tuple[api.RefusedMessage, ...]) -> api.TroubleReply:
        """All that was found, with the messages that the shell `refused`."""
        groups = [
            api.WaitingGroup(reason, count, oldest, round(self._now - since, 1), until)
            for reason, (count, since, oldest, until) in self._waiting.items()
        ]
        groups.sort(key=lambda group: -group.count)
        return api.TroubleReply(
            waiting=tuple(groups),
            stuck=tuple(self._stuck),
            counts=dict(self._counts),
            parts=tuple(islice(self._parts(), limits.PAGE)),
            refused=refused,
        )

    def _parts(self) -> Iterator[api.PartUnknown]:
        """Parts of split chunks that are neither held nor remembered as ended: the streams must tell where they are."""
        state = self._state
        for whole, parts in state.parts.items():
            for part in parts:
                if part not in state.tasks and part not in state.done and part not in state.parts:
                    yield api.PartUnknown(whole, part)
