"""nats-server, as far as fogfleet leans on it: connections, interest, requests, JetStream's API, and its own death.

What it does follows `schemas/streams.py` and what was measured of the real one; nothing here is better behaved than that.
"""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any, Protocol

from schemas.subjects import DISCONNECTS, ROOT
from tests.sim.clock import Timeline
from tests.sim.streams import NO_EXPECTATION, Consumer, Refusal, Stored, Stream, all_streams

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
EVENTS = f"{ROOT}.event"
PEERS = f"{ROOT}.peer."
HEARTBEATS = f"{ROOT}.heartbeat"


class Client(Protocol):
    """What the broker knows of who connects: its bus."""

    loop: Any

    def lost(self, connection: Connection) -> None: ...


class Sub:
    """A subscription, as its client has it."""

    __slots__ = ("fn", "live", "subject")

    def __init__(self, subject: str, fn: Callable[[str, str, bytes, bytes], None]) -> None:
        self.subject, self.fn, self.live = subject, fn, True


class Interest:
    """A subscription, as the broker has it: of one connection."""

    __slots__ = ("connection", "sub")

    def __init__(self, sub: Sub, connection: Connection) -> None:
        self.sub, self.connection = sub, connection


class Connection:
    """One TCP connection: in order both ways, with a delay; `holed` swallows (and keeps) what is on it, until it heals.

    The broker thinks it open while `known`; the client while `open`.
    """

    def __init__(self, broker: Broker, client: Client, name: str, delay_s: float) -> None:
        self.broker, self.client, self.name, self.delay_s = broker, client, name, delay_s
        self.open = self.known = True
        self.holed = False
        self.cut_at = float("inf")
        self.interests: dict[Sub, Interest] = {}
        self._up_at = self._down_at = 0.0
        self._stuck: list[tuple[bool, Callable[..., None], tuple[Any, ...]]] = []

    def up(self, fn: Callable[..., None], *args: Any) -> None:
        """To the broker."""
        timeline, rng = self.broker.timeline, self.broker.rng
        at = timeline.now + self.delay_s * (0.5 + rng.random())
        self._up_at = at = at if at > self._up_at else self._up_at
        timeline.put(at, None, self._at_broker, (fn, args))

    def _at_broker(self, fn: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.holed:
            self._stuck.append((True, fn, args))
        elif self.known and self.broker.timeline.now <= self.cut_at:
            fn(*args)

    def down(self, sub: Sub, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """To the client."""
        timeline, rng = self.broker.timeline, self.broker.rng
        at = timeline.now + self.delay_s * (0.5 + rng.random())
        if self.broker.quantum_s:
            at = (at // self.broker.quantum_s + 1) * self.broker.quantum_s
        self._down_at = at = at if at > self._down_at else self._down_at
        timeline.put(at, self.client.loop, self._at_client, (sub, (subject, reply, data, headers)))

    def _at_client(self, sub: Sub, args: tuple[Any, ...]) -> None:
        if self.holed:
            self._stuck.append((False, self._at_client, (sub, args)))
        elif self.open and sub.live:
            sub.fn(*args)

    def hole(self) -> None:
        """Nothing passes; neither side is told."""
        self.holed = True

    def heal(self) -> None:
        """What was swallowed comes through now, in order, as far as the connection still stands."""
        self.holed = False
        stuck, self._stuck = self._stuck, []
        timeline = self.broker.timeline
        for upward, fn, args in stuck:
            if upward:
                timeline.at(timeline.now, self._at_broker, fn, args)
            else:
                timeline.at(timeline.now, fn, *args, loop=self.client.loop)

    def client_died(self, in_flight_s: float) -> None:
        """The client's process is gone: what it had written arrives for `in_flight_s` more, then its socket's end."""
        self.open = False
        self.cut_at = self.broker.timeline.now + in_flight_s
        self.broker.timeline.at(self.cut_at, self._end_seen)

    def _end_seen(self) -> None:
        if self.holed:
            self._stuck.append((True, self.broker.gone, (self, "Client Closed")))
            self.cut_at = float("inf")
        else:
            self.broker.gone(self, "Client Closed")

    def reset(self, reason: str) -> None:
        """Both ends see it break; what was on it is lost."""
        self.broker.gone(self, reason)
        self.client_breaks()

    def client_breaks(self) -> None:
        """The client gives it up (or is told of its end)."""
        if self.open:
            self.open = False
            self.broker.timeline.at(self.broker.timeline.now, self.client.lost, self, loop=self.client.loop)


class Request:
    """A pull request that waits."""

    __slots__ = ("connection", "ends", "left", "reply")

    def __init__(self, connection: Connection, reply: str, left: int, ends: float) -> None:
        self.connection, self.reply, self.left, self.ends = connection, reply, left, ends


class Watch(Protocol):
    """Who looks at what the broker stores and removes."""

    def stored(self, stream: Stream, message: Stored) -> None: ...

    def removed(self, stream: Stream, message: Stored) -> None: ...


class Broker:
    """The one broker of a world. `epoch` and `skew_s` make its clock."""

    def __init__(self, timeline: Timeline, rng: Random, watch: Watch, epoch: float, skew_s: float) -> None:
        self.timeline, self.rng, self._watch = timeline, rng, watch
        self._epoch = epoch + skew_s
        self.up = True
        self.lives = 0
        self.streams = all_streams(watch.removed)
        self.named = {stream.name: stream for stream in self.streams.values()}
        self.connections: dict[Connection, None] = {}
        self.quantum_s = 0.0  # what arrives within this arrives together, as with many nodes it does
        self.api_s = 0.001  # how long JetStream's API takes at most, out of order
        self._exact: dict[str, list[Interest]] = {}
        self._stars: tuple[dict[str, list[Interest]], dict[str, list[Interest]]] = ({}, {})
        self._peers: dict[str, list[Interest]] = {}  # of peers, who listen in any cluster: by name
        # of heartbeats, which are only passed on: until somebody comes or goes
        self._routes: dict[str, list[Interest]] = {}
        self._event_seq = 0
        self.deaf_until = 0.0  # acks are not heard
        self._verbs: dict[str, Callable[[Connection, list[str], str, bytes], None]] = {
            "STREAM.INFO": self._stream_info, "STREAM.CREATE": self._stream_create, "STREAM.MSG": self._message,
            "CONSUMER.CREATE": self._consumer_create, "CONSUMER.DELETE": self._consumer_delete,
            "CONSUMER.NAMES": self._consumer_names,
            "CONSUMER.INFO": self._consumer_info, "CONSUMER.MSG": self._pull, "DIRECT.GET": self._direct,
        }  # fmt: skip

    def clock(self) -> float:
        """Seconds since 1970, as the broker has it."""
        return self._epoch + self.timeline.now

    # Life.

    def kill(self) -> None:
        """SIGKILL: every connection breaks; what was not stored yet is not stored."""
        self.up = False
        self.lives += 1
        for connection in list(self.connections):
            connection.known = False
            connection.client_breaks()
        self.connections.clear()
        self._exact.clear()
        self._peers.clear()
        self._routes.clear()
        for stars in self._stars:
            stars.clear()

    def start(self) -> None:
        """It comes back with what its files hold."""
        self.up = True
        for stream in self.streams.values():
            stream.restart(self.clock())

    def connect(self, client: Client, name: str, delay_s: float) -> Connection | None:
        """A new connection; None while the broker is down."""
        if not self.up:
            return None
        connection = Connection(self, client, name, delay_s)
        self.connections[connection] = None
        return connection

    def gone(self, connection: Connection, reason: str) -> None:
        """The broker has seen the end of a connection, or gives it up."""
        if not connection.known:
            return
        connection.known = False
        self.connections.pop(connection, None)
        for interest in connection.interests.values():
            self._forget(interest)
        told = {"client": {"name": connection.name}, "reason": reason}
        self.timeline.after(0.005, self._tell_gone, self.lives, json.dumps(told).encode())

    def _tell_gone(self, life: int, data: bytes) -> None:
        if life == self.lives and self.up:
            self.route(DISCONNECTS, "", data, b"")

    # Interest.

    def _table(self, subject: str) -> tuple[dict[str, list[Interest]], str]:
        if subject.startswith(PEERS):
            return self._peers, _of_peer(subject)
        if not subject.endswith(".*"):
            return self._exact, subject
        if subject.endswith(".*.*"):
            return self._stars[1], subject[:-4]
        return self._stars[0], subject[:-2]

    def subscribe(self, connection: Connection, sub: Sub) -> None:
        self._routes.clear()
        table, key = self._table(sub.subject)
        interest = connection.interests[sub] = Interest(sub, connection)
        table.setdefault(key, []).append(interest)

    def unsubscribe(self, connection: Connection, sub: Sub) -> None:
        interest = connection.interests.pop(sub, None)
        if interest is not None:
            self._forget(interest)

    def _forget(self, interest: Interest) -> None:
        self._routes.clear()
        table, key = self._table(interest.sub.subject)
        there = table.get(key)
        if there is not None and interest in there:
            there.remove(interest)
            if not there:
                del table[key]

    def find(self, subject: str) -> list[Interest]:
        """Who listens there."""
        found = self._exact.get(subject)
        cut = subject.rfind(".")
        one = self._stars[0].get(subject[:cut])
        two = self._stars[1].get(subject[: subject.rfind(".", 0, cut)])
        peers = self._peers.get(_of_peer(subject)) if subject.startswith(PEERS) else None
        if one is None and two is None and peers is None:
            return found or []
        return [*(found or ()), *(one or ()), *(two or ()), *(peers or ())]

    def route(self, subject: str, reply: str, data: bytes, headers: bytes) -> bool:
        """Deliver to whoever listens; False when nobody does."""
        found = self.find(subject)
        for interest in found:
            interest.connection.down(interest.sub, subject, reply, data, headers)
        return bool(found)

    # What comes in.

    def publish(self, connection: Connection, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        """A message arrived."""
        if (known := self._routes.get(subject)) is not None:
            for interest in known:
                interest.connection.down(interest.sub, subject, reply, data, headers)
            return
        if subject[0] == "$":
            if subject.startswith("$JS.ACK."):
                self._ack(subject, data)
                return
            if subject.startswith("$JS.API."):
                self._api(connection, subject[8:].split("."), reply, data)
                return
        tokens = subject.split(".", 3)
        prefix = ".".join(tokens[:2]) if subject[0] == "$" else ".".join(tokens[:3])
        stream = self.streams.get(prefix)
        if stream is not None:
            self._to_stream(stream, subject, reply, data, headers)
        elif prefix == EVENTS:
            self._event_seq += 1
            if reply:
                self.route(reply, "", b'{"stream":"FOG_EVENTS","seq":%d}' % self._event_seq, b"")
        elif self.route(subject, reply, data, headers):
            if prefix == HEARTBEATS:
                self._routes[subject] = self.find(subject)
        elif reply:
            self.route(reply, "", b"", NO_RESPONDERS)

    def _to_stream(self, stream: Stream, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        if stream.disk_s <= 0 and stream.busy_until <= self.timeline.now:
            self._store(self.lives, stream, subject, reply, data, headers)
            return
        stream.busy_until = max(stream.busy_until, self.timeline.now) + stream.disk_s * self.rng.random()
        self.timeline.at(stream.busy_until, self._store, self.lives, stream, subject, reply, data, headers)

    def _store(self, life: int, stream: Stream, subject: str, reply: str, data: bytes, headers: bytes) -> None:
        if life != self.lives:
            return
        told = _headers(headers)
        expected = int(told.get("Nats-Expected-Last-Subject-Sequence", NO_EXPECTATION))
        try:
            whole = b"NATS/1.0\r\n" + headers + b"\r\n" if headers else b""
            message, known = stream.store(
                subject, data, whole, self.clock(), told.get("Nats-Msg-Id", ""), expected,
                told.get("Nats-Expected-Last-Subject-Sequence-Subject", ""), told.get("Nats-Expected-Last-Msg-Id", ""),
            )  # fmt: skip
        except Refusal as error:
            answer = {"error": {"code": 400, "err_code": error.code, "description": error.words}, "stream": stream.name}
            if reply:
                self.route(reply, "", json.dumps(answer).encode(), b"")
            return
        more = ',"duplicate":true' if known else ""
        if reply:
            self.route(reply, "", f'{{"stream":"{stream.name}","seq":{message.seq}{more}}}'.encode(), b"")
        if known:
            return
        self._watch.stored(stream, message)
        if "Nats-TTL" in told:
            late_s = 0.001 + 0.27 * self.rng.random()
            self.timeline.after(int(told["Nats-TTL"]) + late_s, self._expire, stream, message)
        if stream.single:
            head = f"NATS/1.0\r\nNats-Stream: {stream.name}\r\nNats-Subject: {subject}\r\nNats-Sequence: {message.seq}\r\n\r\n"
            self.route(subject.replace(".result.", ".done.", 1), "", data, head.encode())
        consumer = stream.of_key.get(message.key)
        if consumer is not None:
            self.deliver(consumer)

    def _expire(self, stream: Stream, message: Stored) -> None:
        """A time to live is over: the server leaves a mark in its place, for a minute."""
        if not self.up:
            self.timeline.after(0.5, self._expire, stream, message)
        elif stream.messages.get(message.seq) is message:
            mark, _ = stream.store(
                message.subject, b"", b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n", self.clock(), "", message.seq, ""
            )  # fmt: skip
            self.timeline.after(60.0, stream.remove, mark.seq)

    # Consumers.

    def deliver(self, consumer: Consumer) -> None:
        """Give out what may be given out."""
        waiting = consumer.waiting
        while waiting:
            request = waiting[0]
            found = [i for i in self.find(request.reply) if i.connection is request.connection]
            if request.left <= 0 or not found or not request.connection.known or self.timeline.now > request.ends:
                waiting.popleft()
                continue
            message = consumer.next()
            if message is None:
                return
            request.left -= 1
            self._hand_out(consumer, message, request.connection, found[0].sub)

    def _hand_out(self, consumer: Consumer, message: Stored, connection: Connection, sub: Sub) -> None:
        seq = message.seq
        consumer.delivered += 1
        consumer.numbers[seq] = consumer.delivered
        count = consumer.counts[seq] = consumer.counts.get(seq, 0) + 1
        consumer.pending[seq] = self.timeline.now + consumer.ack_wait_s
        if consumer.timer is None:
            consumer.timer = self.timeline.after(consumer.ack_wait_s, self._look, consumer)
        stream, left = consumer.stream.name, len(consumer.queue)
        reply = f"$JS.ACK.{stream}.{consumer.name}.{count}.{seq}.{consumer.delivered}.{int(message.at * 1e9)}.{left}"
        connection.down(sub, message.subject, reply, message.data, b"")

    def _look(self, consumer: Consumer) -> None:
        consumer.timer = None
        if not self.up or consumer.stream.consumers.get(consumer.name) is not consumer:
            return
        at = consumer.due(self.timeline.now)
        if at is not None:
            consumer.timer = self.timeline.at(at, self._look, consumer)
        self.deliver(consumer)

    def _ack(self, subject: str, data: bytes) -> None:
        if self.timeline.now < self.deaf_until:
            return
        tokens = subject.split(".")
        stream = self.named[tokens[2]]
        consumer, seq = stream.consumers.get(tokens[3]), int(tokens[5])
        if consumer is None or (seq not in consumer.pending and seq not in consumer.counts):
            return
        if data.startswith(b"+WPI"):
            if seq in consumer.pending:
                consumer.pending[seq] = self.timeline.now + consumer.ack_wait_s
            return
        stream.remove(seq)
        self.deliver(consumer)

    # JetStream's API. Its calls are answered by many hands, so not in the order in which they came.

    def _api(self, connection: Connection, tokens: list[str], reply: str, data: bytes) -> None:
        verb = self._verbs[f"{tokens[0]}.{tokens[1]}"]
        self.timeline.after(
            self.api_s * self.rng.random(), self._api_now, self.lives, verb, connection, tokens, reply, data
        )

    def _api_now(self, life: int, verb: Callable[..., None], connection: Connection, *args: Any) -> None:
        if life == self.lives and self.up:
            try:
                verb(connection, *args)
            except Refusal as error:
                told = {"error": {"code": 400, "err_code": error.code, "description": error.words}}
                self.route(args[1], "", json.dumps(told).encode(), b"")

    def _say(self, reply: str, told: dict[str, Any]) -> None:
        self.route(reply, "", json.dumps(told).encode(), b"")

    def _stream(self, name: str) -> Stream:
        stream = self.named.get(name)
        if stream is None:
            raise Refusal(10059, "stream not found")
        return stream

    def _stream_create(self, _c: Connection, tokens: list[str], reply: str, _data: bytes) -> None:
        self._say(reply, {"config": {"name": tokens[2]}})

    def _stream_info(self, _c: Connection, tokens: list[str], reply: str, data: bytes) -> None:
        stream = self._stream(tokens[2])
        state: dict[str, Any] = {"messages": len(stream.messages), "last_seq": stream.last_seq}
        total = 0
        if data:
            asked = json.loads(data)
            found = {s: 1 for s in stream.by_subject if _matches(asked["subjects_filter"], s)}
            total = len(found)
            state["subjects"] = dict(list(found.items())[asked["offset"] :])
        self._say(reply, {"config": {"name": stream.name}, "state": state, "total": total})

    def _message(self, _c: Connection, tokens: list[str], reply: str, data: bytes) -> None:
        stream, asked = self._stream(tokens[3]), json.loads(data)
        if tokens[2] == "DELETE":
            if stream.remove(asked["seq"]) is None:
                raise Refusal(10043, "no message found")
            self._say(reply, {"success": True})
            return
        if "next_by_subj" in asked:
            found = next(
                (m for m in _sorted(stream) if m.seq >= asked["seq"] and _matches(asked["next_by_subj"], m.subject)),
                None,
            )
        else:
            seq = stream.by_subject.get(asked["last_by_subj"], 0) if "last_by_subj" in asked else asked["seq"]
            found = stream.messages.get(seq)
        if found is None:
            raise Refusal(10037, "no message found")
        at = datetime.fromtimestamp(found.at, UTC).isoformat().replace("+00:00", "Z")
        message = {
            "subject": found.subject,
            "seq": found.seq,
            "data": base64.b64encode(found.data).decode(),
            "time": at,
        }
        if found.headers:
            message["hdrs"] = base64.b64encode(found.headers).decode()
        self._say(reply, {"message": message})

    def _direct(self, connection: Connection, tokens: list[str], reply: str, data: bytes) -> None:
        stream, asked = self._stream(tokens[2]), json.loads(data)
        if "multi_last" in asked:
            found = []
            for subject in asked["multi_last"]:
                if "*" in subject:
                    found += [stream.messages[q] for s, q in stream.by_subject.items() if _matches(subject, s)]
                elif subject in stream.by_subject:
                    found.append(stream.messages[stream.by_subject[subject]])
            left = 0
        else:
            wanted = [
                m for m in _sorted(stream) if m.seq >= asked["seq"] and _matches(asked["next_by_subj"], m.subject)
            ]
            found, left = wanted[: asked["batch"]], max(0, len(wanted) - asked["batch"])
        if not found:
            self.route(reply, "", b"", b"NATS/1.0 404 No Results\r\n\r\n")
            return
        for m in found:
            at = datetime.fromtimestamp(m.at, UTC).isoformat()
            own = m.headers.removeprefix(b"NATS/1.0\r\n").removesuffix(b"\r\n")
            head = b"NATS/1.0\r\n%bNats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n\r\n" % (
                own, stream.name.encode(), m.subject.encode(), m.seq, at.encode()
            )  # fmt: skip
            self.route(reply, "", m.data, head)
        self.route(reply, "", b"", b"NATS/1.0 204 EOB\r\nNats-Num-Pending: %d\r\n\r\n" % left)

    def _consumer_create(self, _c: Connection, tokens: list[str], reply: str, data: bytes) -> None:
        stream, config = self._stream(tokens[2]), json.loads(data)["config"]
        stream.add_consumer(
            config["name"], config["filter_subject"], config["ack_wait"] / 1e9, config["max_ack_pending"],
            memory=config["mem_storage"],
        )  # fmt: skip
        self._say(reply, {"name": config["name"]})

    def _consumer_delete(self, _c: Connection, tokens: list[str], reply: str, _data: bytes) -> None:
        consumer = self._stream(tokens[2]).drop_consumer(tokens[3])
        if consumer is None:
            raise Refusal(10014, "consumer not found")
        for request in consumer.waiting:
            self.route(request.reply, "", b"", b"NATS/1.0 409 Consumer Deleted\r\n\r\n")
        self._say(reply, {"success": True})

    def _consumer_names(self, _c: Connection, tokens: list[str], reply: str, data: bytes) -> None:
        names = list(self._stream(tokens[2]).consumers)
        page = names[json.loads(data)["offset"] :]
        self._say(reply, {"consumers": page, "total": len(names)})

    def _consumer_info(self, _c: Connection, tokens: list[str], reply: str, _data: bytes) -> None:
        consumer = self._stream(tokens[2]).consumers.get(tokens[3])
        if consumer is None:
            raise Refusal(10014, "consumer not found")
        oldest = consumer.numbers[min(consumer.pending)] if consumer.pending else consumer.delivered + 1
        self._say(reply, {"ack_floor": {"consumer_seq": oldest - 1}, "num_ack_pending": len(consumer.pending)})

    def _pull(self, connection: Connection, tokens: list[str], reply: str, data: bytes) -> None:
        consumer = self._stream(tokens[3]).consumers.get(tokens[4])
        if consumer is None:
            self.route(reply, "", b"", NO_RESPONDERS)
            return
        asked = json.loads(data)
        ends = self.timeline.now + asked["expires"] / 1e9
        if len(consumer.waiting) > 8:
            consumer.waiting = deque(r for r in consumer.waiting if r.ends >= self.timeline.now and r.connection.known)
        consumer.waiting.append(Request(connection, reply, asked["batch"], ends))
        self.deliver(consumer)


def _headers(raw: bytes) -> dict[str, str]:
    """A publisher's headers."""
    if not raw:
        return {}
    lines = (line.split(":", 1) for line in raw.decode().split("\r\n") if ":" in line)
    return {name.strip(): value.strip() for name, value in lines}


def _of_peer(subject: str) -> str:
    """Whose ``….peer.<cluster>.<node>.<verb>`` it is: nodes listen with a star in the place of the other two."""
    return subject[len(PEERS) :].split(".")[1]


def _matches(pattern: str, subject: str) -> bool:
    if "*" not in pattern and ">" not in pattern:
        return pattern == subject
    wanted, told = pattern.split("."), subject.split(".")
    for i, token in enumerate(wanted):
        if token == ">":
            return len(told) > i
        if i >= len(told) or token not in ("*", told[i]):
            return False
    return len(told) == len(wanted)


def _sorted(stream: Stream) -> list[Stored]:
    return list(stream.messages.values())
