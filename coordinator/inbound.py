"""Messages become events. Whatever cannot be understood is counted, kept for a look, and stops nothing."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable

import msgspec
from msgspec import Struct

from coordinator.bodies import Bodies
from coordinator.core.events import (
    Beat,
    Disconnected,
    Event,
    OutcomeArrived,
    ResultSeen,
    Source,
    TaskArrived,
    TaskUnreadable,
    WorkFound,
)
from schemas import limits, subjects
from schemas.api import RefusedMessage
from schemas.bus import Bus
from schemas.codec import Decoder
from schemas.errors import BadInput
from schemas.jetstream import StoredMessage
from schemas.logs import fields
from schemas.membership import Heartbeat
from schemas.names import NODE_CONNECTION, check_id
from schemas.pull import Message
from schemas.streams import RESULTS
from schemas.task import Outcome, ResultHead, ResultState, TaskHead, Work

log = logging.getLogger("fog.inbound")

BAD_KEPT = 20
_ID = r"([a-z0-9-]{1,63})"
_result_of = re.compile(rf"{re.escape(subjects.ROOT)}\.(?:done|result)\.{_ID}\.{_ID}").fullmatch
_place_of = re.compile(rf"{re.escape(subjects.ROOT)}\.work\.([a-z0-9-]{{1,63}}|{subjects.WAITING})\.{_ID}").fullmatch
REPUBLISHED = f"Nats-Stream: {RESULTS}\r\n".encode()


class _Client(Struct):
    name: str = ""


class _Disconnect(Struct):
    client: _Client
    reason: str = ""


class Bad:
    """What was refused: counts by kind of subject, and the last few."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: deque[RefusedMessage] = deque(maxlen=BAD_KEPT)

    def add(self, kind: str, subject: str, problem: str) -> None:
        """Count a bad message."""
        self.counts[kind] += 1
        self.last.append(RefusedMessage(kind, subject[:200], problem[:300], time.time()))
        log.warning("refused a message", extra=fields(kind=kind, subject=subject[:200], problem=problem[:300]))


class Inbound:
    """Decodes each kind of message and hands the event on. One for each term of a coordinator."""

    def __init__(self, bus: Bus, bodies: Bodies, hand_on: Callable[[Event], None], bad: Bad) -> None:
        self._bus = bus
        self._bodies = bodies
        self._hand_on = hand_on
        self.bad = bad
        self.outcome_bytes = 0  # of outcomes that were not removed yet, without their tasks' bodies
        self._outcomes: dict[int, int] = {}
        self.fresh_after_seq = 0  # TASKS up to this sequence were stored before we took over
        self.late_after_seq = 0  # what WORK held up to this sequence was read
        self._submitter: str | None = None  # the last one whose name was checked
        self._task = Decoder(TaskHead)
        self._work = Decoder(Work)
        self._outcome = Decoder(Outcome)
        self._beat = Decoder(Heartbeat)
        self._result = Decoder(ResultHead)
        self._disconnect = Decoder(_Disconnect)

    def task(self, message: Message) -> None:
        """A delivery of FOG_TASKS. One that nobody could ever run fails, if its subject says whose and which it is."""
        seq, delivered, stored_at = message.place()
        source = Source("tasks", seq, message.reply)
        named = subjects.submitted_by(message.subject)
        if named is None:
            self.bad.add("task", message.subject, "its submitter or its task is not an id")
            message.term(self._bus, "not a task's subject")
            return
        submitter, task = named
        try:
            if len(message.data) > limits.TASK_MAX:
                raise BadInput("task", f"{len(message.data):,} bytes are more than the {limits.TASK_MAX:,} of a task")
            head = self._task(message.data)
            if subjects.submit(head.priority, head.submitter, head.id) != message.subject:
                _complain(head, submitter, task)
        except BadInput as error:
            self.bad.add("task", message.subject, str(error))
            self._hand_on(TaskUnreadable(task, submitter, error.message, source))
            return
        self._bodies.hold(head.id, message.data)
        maybe_done = seq <= self.fresh_after_seq or delivered > 1
        self._hand_on(TaskArrived(head, source, stored_at, maybe_done))

    def outcome(self, message: Message) -> None:
        """A delivery of FOG_OUTCOMES."""
        try:
            outcome = self._outcome(message.data)
            head = self._task(outcome.task)
            if message.subject != subjects.outcome(check_id("node", outcome.node), check_id("id", head.id)):
                raise BadInput("node", "not the one that the subject names")
            check_id("submitter", head.submitter)
        except (BadInput, ValueError) as error:
            self.bad.add("outcome", message.subject, str(error))
            message.term(self._bus, "not an outcome")
            return
        # Its task may be over: then nobody would tell that the body can go.
        body = bytes(outcome.task)
        self._bodies.keep(head.id, body)
        seq, _, stored_at = message.place()
        self._count_outcome(seq, len(message.data) - len(body))
        # The event carries on only what is decided by; the body waits in `bodies`.
        bare = msgspec.structs.replace(outcome, task=msgspec.Raw(b""))
        self._hand_on(OutcomeArrived(head, bare, Source("outcomes", seq, message.reply), stored_at))

    def _count_outcome(self, seq: int, size: int) -> None:
        self.outcome_over(seq)
        self._outcomes[seq] = size
        self.outcome_bytes += size

    def outcome_over(self, seq: int) -> None:
        """An outcome is removed: what it told is stored elsewhere, or of no use."""
        self.outcome_bytes -= self._outcomes.pop(seq, 0)

    def beat(self, subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        """A heartbeat. Its subject is what the broker lets a node publish on, so it must be the node that it names."""
        try:
            beat = self._beat(data)
            if subject[subject.rfind(".") + 1 :] != beat.node:
                raise BadInput("node", "not the one that the subject names")
        except BadInput as error:
            self.bad.add("heartbeat", subject, str(error))
            return
        # Nobody is to have us write on any subject but their own inbox.
        self._hand_on(Beat(beat, reply if reply.startswith("_INBOX") else ""))

    def done(self, subject: str, _reply: str, data: bytes, headers: bytes) -> None:
        """A result that FOG_RESULTS stored. What does not carry the mark of its republishing was never stored."""
        if REPUBLISHED not in headers:
            self.bad.add("result", subject, "it was not stored: results are published on result.>, not on done.>")
            return
        head = self._result_head(subject, data)
        if head is not None:
            self._hand_on(ResultSeen(head))

    def _result_head(self, subject: str, data: bytes) -> ResultHead | None:
        """What a stored result says. One that cannot be read still ends its task, which the subject names: it is stored."""
        named = _result_of(subject)
        if named is None:
            self.bad.add("result", subject, "not a result's subject")
            return None
        submitter, task = named[1], named[2]
        try:
            result = self._result(data)
            if result.task != task or result.submitter != submitter:
                raise BadInput("task", "not the one that the subject names")
        except BadInput as error:
            self.bad.add("result", subject, str(error))
            return ResultHead(task, submitter, ResultState.FAILED, reason=f"its result cannot be read: {error}")
        return result

    def disconnect(self, subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        """The broker's own event: a connection of our account closed."""
        try:
            said = self._disconnect(data)
        except BadInput as error:
            self.bad.add("disconnect", subject, str(error))
            return
        if said.client.name.startswith(NODE_CONNECTION):
            self._hand_on(Disconnected(said.client.name.removeprefix(NODE_CONNECTION), said.reason))

    def work(self, message: StoredMessage) -> WorkFound | None:
        """A message of FOG_WORK, found while taking over."""
        try:
            work = self._work(message.data)
            head = self._task(work.task)
            if head.submitter != self._submitter:  # most often the one before
                self._submitter = check_id("submitter", head.submitter)
            place = _place_of(message.subject)
            if place is None or place[2] != head.id:
                raise BadInput("task", "not the one that the subject names")
        except (BadInput, ValueError) as error:
            self.bad.add("work", message.subject, str(error))
            return None
        self._bodies.keep(head.id, bytes(work.task))  # it lies in a queue
        source = Source("work", message.seq)
        return WorkFound(head, work.history, place[1], source, work.deadline_at, work.not_before, work.reason)

    def result(self, message: StoredMessage) -> ResultHead | None:
        """A stored result that was asked for."""
        return self._result_head(message.subject, message.data)


def _complain(head: TaskHead, submitter: str, task: str) -> None:
    told = {"id": head.id == task, "submitter": head.submitter == submitter, "priority": False}
    field = next(name for name, right in told.items() if not right)
    raise BadInput(field, "not the one that the subject names")
