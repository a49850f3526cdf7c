"""The broker's streams, as `schemas/streams.py` configures them and as nats-server treats them.

Held to what was seen of the real server: sequences that never come again, a duplicate window by message id (rebuilt from
what is still stored after a restart), one message a subject where configured, compare-and-set by the last sequence of a
subject, consumers with ack_wait and counts, and a work queue that keeps what a deleted consumer held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from schemas import limits, streams
from schemas.subjects import ROOT

NO_EXPECTATION = -1


class Stored:
    """A stored message. `at` is the broker's clock."""

    __slots__ = ("at", "data", "expires", "headers", "key", "msg_id", "seq", "subject")

    def __init__(self, subject: str, seq: int, data: bytes, headers: bytes, key: str, msg_id: str, at: float) -> None:
        self.subject, self.seq, self.data, self.headers = subject, seq, data, headers
        self.key, self.msg_id, self.at = key, msg_id, at
        self.expires: Any = None


class Refusal(Exception):
    """The server's error: its err_code and words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


class Consumer:
    """A pull consumer of one `key` (a node's queue, a priority, all outcomes)."""

    def __init__(
        self, stream: Stream, name: str, key: str, ack_wait_s: float, pending_max: int, *, memory: bool
    ) -> None:
        self.stream, self.name, self.key, self.memory = stream, name, key, memory
        self.ack_wait_s, self.pending_max = ack_wait_s, pending_max
        self.pending: dict[int, float] = {}  # sequence → when it is redelivered
        self.counts: dict[int, int] = {}
        self.numbers: dict[int, int] = {}  # sequence → the number of its last delivery
        self.queue: deque[int] = deque(stream.by_key.get(key, ()))
        self.again: deque[int] = deque()
        self.waiting: deque[Any] = deque()
        self.timer: Any = None
        self.delivered = 0

    def next(self) -> Stored | None:
        """The next message that may be delivered now, redeliveries first."""
        while (self.again or self.queue) and len(self.pending) < self.pending_max:
            seq = self.again.popleft() if self.again else self.queue.popleft()
            message = self.stream.messages.get(seq)
            if message is not None and seq not in self.pending:
                return message
        return None

    def due(self, now: float) -> float | None:
        """Take back what was not acked in time; when to look again."""
        for seq in [s for s, at in self.pending.items() if at <= now]:
            del self.pending[seq]
            self.again.append(seq)
        return min(self.pending.values(), default=None)

    def restart(self) -> None:
        """The server came back: what was under way is delivered again."""
        self.again.extend(self.pending)
        self.pending.clear()
        self.waiting.clear()
        self.timer = None


class Stream:
    """One stream. `key_of` tells by the tokens of a subject which consumer's it is; `on_removed` is told of what leaves."""

    def __init__(
        self, name: str, key_of: Callable[[list[str]], str], on_removed: Callable[[Stream, Stored], None],
        *, queue: bool, single: bool = False,
    ) -> None:  # fmt: skip
        self.name, self._key_of, self._on_removed = name, key_of, on_removed
        self.queue, self.single = queue, single
        self.last_seq = 0
        self.messages: dict[int, Stored] = {}
        self.by_key: dict[str, dict[int, Stored]] = {}
        self.by_subject: dict[str, int] = {}  # the last sequence of each
        self.ids: dict[str, tuple[int, float]] = {}
        self.consumers: dict[str, Consumer] = {}
        self.of_key: dict[str, Consumer] = {}
        self.disk_s = 0.0  # how long storing takes
        self.busy_until = 0.0
        self.last_id = ""  # of what was stored last

    def known(self, msg_id: str, now: float) -> int:
        """The sequence that a message of this id was stored as within the duplicate window, else 0."""
        told = self.ids.get(msg_id)
        if told is None:
            return 0
        if now - told[1] > limits.DUPLICATE_WINDOW_S:
            del self.ids[msg_id]
            return 0
        return told[0]

    def store(
        self,
        subject: str,
        data: bytes,
        headers: bytes,
        now: float,
        msg_id: str,
        expected: int,
        expected_of: str,
        after: str = "",
    ) -> tuple[Stored, bool]:
        """Store it; the message, and whether it was known. Raises `Refusal`."""
        if msg_id and (known := self.known(msg_id, now)):
            return Stored(subject, known, data, headers, "", msg_id, now), True
        if after and after != self.last_id:
            raise Refusal(10070, f"wrong last msg ID: {self.last_id}")
        if expected != NO_EXPECTATION:
            last = self.by_subject.get(expected_of or subject, 0)
            if last != expected:
                raise Refusal(10071, f"wrong last sequence: {last}")
        if self.single and not expected_of and expected == NO_EXPECTATION and subject in self.by_subject:
            raise Refusal(10077, "maximum messages per subject exceeded")
        if self.single and expected_of and subject in self.by_subject:
            raise Refusal(10077, "maximum messages per subject exceeded")
        old = self.by_subject.get(subject) if not self.queue else None
        self.last_seq += 1
        key = self._key_of(subject.split("."))
        message = Stored(subject, self.last_seq, data, headers, key, msg_id, now)
        self.messages[message.seq] = message
        self.by_key.setdefault(key, {})[message.seq] = message
        self.by_subject[subject] = message.seq
        self.last_id = msg_id
        if msg_id:
            self.ids[msg_id] = (message.seq, now)
        consumer = self.of_key.get(key)
        if consumer is not None:
            consumer.queue.append(message.seq)
        if old is not None and not self.single:
            self.remove(old)
        return message, False

    def remove(self, seq: int) -> Stored | None:
        """It is acked, deleted, replaced or expired."""
        message = self.messages.pop(seq, None)
        if message is None:
            return None
        del self.by_key[message.key][seq]
        if self.by_subject.get(message.subject) == seq:
            del self.by_subject[message.subject]
        consumer = self.of_key.get(message.key)
        if consumer is not None:
            consumer.pending.pop(seq, None)
            consumer.counts.pop(seq, None)
            consumer.numbers.pop(seq, None)
        self._on_removed(self, message)
        return message

    def add_consumer(self, name: str, subject: str, ack_wait_s: float, pending_max: int, *, memory: bool) -> Consumer:
        """Make it, or find it. Raises `Refusal` when another one has its subjects."""
        there = self.consumers.get(name)
        if there is not None:
            return there
        key = self._key_of(subject.split("."))
        if key in self.of_key:
            raise Refusal(10100, "filtered consumer not unique on workqueue stream")
        consumer = Consumer(self, name, key, ack_wait_s, pending_max, memory=memory)
        self.consumers[name] = self.of_key[key] = consumer
        return consumer

    def drop_consumer(self, name: str) -> Consumer | None:
        """Delete it: what it held is delivered anew to the next."""
        consumer = self.consumers.pop(name, None)
        if consumer is not None:
            del self.of_key[consumer.key]
        return consumer

    def restart(self, now: float) -> None:
        """The server came back from its files: consumers in memory are gone, known ids are those of what is stored."""
        self.busy_until = 0.0
        self.ids = {m.msg_id: (m.seq, m.at) for m in self.messages.values() if m.msg_id}
        for consumer in list(self.consumers.values()):
            if consumer.memory:
                self.drop_consumer(consumer.name)
            else:
                consumer.restart()


def all_streams(on_removed: Callable[[Stream, Stored], None]) -> dict[str, Stream]:
    """The streams that a world's broker keeps, by the first tokens of their subjects."""

    def one(tokens: list[str]) -> str:
        return ""

    made = {
        f"{ROOT}.task": Stream("FOG_TASKS", lambda t: t[4], on_removed, queue=True),
        f"{ROOT}.work": Stream("FOG_WORK", lambda t: t[3], on_removed, queue=True),
        f"{ROOT}.outcome": Stream("FOG_OUTCOMES", one, on_removed, queue=True),
        f"{ROOT}.dead": Stream("FOG_DEAD", one, on_removed, queue=False),
        f"{ROOT}.result": Stream("FOG_RESULTS", one, on_removed, queue=False, single=True),
    }
    for config in streams.configurations(1):
        if config["name"].startswith("KV_"):
            made["$KV." + config["name"][3:]] = Stream(config["name"], one, on_removed, queue=False)
    for stream in made.values():
        if not stream.name.startswith("FOG"):
            stream.by_subject = {}
    return made
