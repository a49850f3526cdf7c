"""Reads everything that `facts` lists, each part on its own: what cannot be read does not keep the rest from being read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from client.api import Api
from client.doctor.facts import (
    Broker,
    Consumer,
    Facts,
    LeaseEntry,
    NoConnection,
    Refusal,
    Replica,
    Server,
    Stream,
)  # fmt: skip
from schemas import jetstream, streams, subjects
from schemas.api import Empty, StatusReply, TroubleReply
from schemas.bus import Bus
from schemas.codec import Decoder
from schemas.errors import FogError, StoreRefused, Unreachable
from schemas.headers import header, status_of
from schemas.membership import Holder
from schemas.store import Store
from schemas.target import Target

T = TypeVar("T")
ANSWER_S = 4.0  # for the coordinator's answer: longer than a takeover takes
WRITE_BYTES = 16 << 10  # a few may still find room on a full disk
WRITE_S = 5.0  # for the broker to store a message
NOBODY_S = 0.2  # the same where no one holds the lease
SERVERS_S = 0.5  # for all servers of a cluster to answer
WORK_MAX = 50_000  # messages of FOG_WORK up to which they are counted by node
CONNECTIONS = 1024  # of one page
PAGES_MAX = 20
SLOW_S = 3600.0  # readers that were dropped within this are named
PING = "$SYS.REQ.ACCOUNT.PING"

_holder = Decoder(Holder)


class _Event(msgspec.Struct):
    data: dict[str, Any] = {}


_event = msgspec.json.Decoder(_Event).decode


async def read_all(facts: Facts, target: Target) -> None:
    """Connect, and fill in what can be learned from the broker and the coordinator."""
    try:
        bus = await Bus.connect(target, name="fog-doctor")
    except FogError as error:
        facts.no_connection = NoConnection(error.message, error.hint)
        return
    try:
        await Reader(bus, facts, target.shown).read()
    finally:
        await bus.close()


class Reader:
    """Fills `facts` over one connection."""

    def __init__(self, bus: Bus, facts: Facts, shown: str) -> None:
        self._bus, self._facts, self._shown = bus, facts, shown
        self._api = Api(bus)
        self._ahead_s = 0.0  # the broker's clock against ours

    async def read(self) -> None:
        """All of it."""
        facts = self._facts
        facts.broker = await self._part("the broker", self._broker())
        facts.streams = await self._part("the streams", self._streams())
        there = facts.streams or {}
        queues = [name for name in (streams.TASKS, streams.WORK, streams.OUTCOMES) if name in there]
        facts.consumers = await self._part("the consumers", self._consumers(queues))
        if streams.WORK in there and there[streams.WORK].messages <= WORK_MAX:
            facts.queued_at = await self._part("the nodes' queues", self._queued_at())
        if f"KV_{streams.LEASES}" in there:
            facts.lease = await self._part("the lease", self._lease())
            facts.unwritable = await self._part("whether it stores", self._unwritable()) or ""
        facts.lease_read = facts.streams is not None and "the lease" not in facts.unread
        if streams.EVENTS in there:
            facts.refusals = await self._part("the events", self._refusals()) or ()
        await self._coordinator()
        facts.parts_lost = await self._part("the parts of chunks", self._parts_lost()) or ()

    async def _part(self, what: str, reading: Awaitable[T]) -> T | None:
        try:
            return await reading
        except FogError as error:
            self._facts.unread[what] = error.message
        except (KeyError, TypeError, ValueError) as error:  # an answer of another form than the broker's is today
            self._facts.unread[what] = f"the answer cannot be understood ({type(error).__name__}: {error})"
        return None

    # The broker.

    async def _unwritable(self) -> str:
        """Why the broker does not store a message, "" when it does: one beside the lease, which ages within a second."""
        store = Store(self._bus)
        try:
            subject = f"$KV.{streams.LEASES}.doctor"
            await store.put(subject, bytes(WRITE_BYTES), headers=b"Nats-TTL: 1\r\n", timeout_s=WRITE_S)
        except (StoreRefused, Unreachable) as error:
            return error.message
        finally:
            store.close()
        return ""

    async def _broker(self) -> Broker:
        began = time.monotonic()
        await self._bus.flush()
        round_trip_s = time.monotonic() - began
        account = await jetstream.call(self._bus, "INFO")
        limits = account.get("limits") or {}
        clustered = self._bus.clustered
        servers = [_server(data) for data in await self._servers("STATZ", {}, clustered)]
        self._ahead_s = next((s.ahead_s for s, _ in servers if s.ahead_s is not None), 0.0)
        slow = await self._slow_names(clustered) if any(s.slow for s, _ in servers) else {}
        return Broker(
            url=self._shown,
            version=self._bus.server_version,
            payload_max=self._bus.max_payload,
            round_trip_ms=round_trip_s * 1000,
            clustered=clustered,
            servers=tuple(msgspec.structs.replace(s, slow_names=slow.get(name, ())) for s, name in servers),
            connections=await self._connections(clustered),
            storage=int(account.get("storage", 0)),
            storage_max=int(limits.get("max_storage", -1)),
            memory=int(account.get("memory", 0)),
            memory_max=int(limits.get("max_memory", -1)),
            streams_used=int(account.get("streams", 0)),
            streams_max=int(limits.get("max_streams", -1)),
        )

    async def _servers(self, what: str, ask: dict[str, Any], clustered: bool) -> list[dict[str, Any]]:
        """What each server says of this account; empty where the broker does not tell. `asked` and `came` are our clock."""
        answers: list[dict[str, Any]] = []
        first = asyncio.Event()
        asked = time.time()

        def heard(_subject: str, _reply: str, data: bytes, headers: bytes) -> None:
            if not status_of(headers):
                answers.append({**msgspec.json.decode(data), "asked": asked, "came": time.time()})
            first.set()

        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, heard)
        try:
            self._bus.publish(f"{PING}.{what}", msgspec.json.encode(ask), reply=inbox)
            async with asyncio.timeout(SERVERS_S * 4):
                await first.wait()
            if clustered:
                await asyncio.sleep(SERVERS_S)
        except TimeoutError:
            pass  # a broker that lets nobody ask
        finally:
            await subscription.close()
        return [answer for answer in answers if isinstance(answer.get("data"), dict)]

    async def _connections(self, clustered: bool) -> tuple[str, ...] | None:
        names: list[str] = []
        for page in range(PAGES_MAX):
            ask = {"limit": CONNECTIONS, "offset": page * CONNECTIONS}
            answers = await self._servers("CONNZ", ask, clustered)
            if not answers:
                return tuple(names) if page else None
            rows = [row for answer in answers for row in answer["data"].get("connections") or []]
            names += [str(row.get("name", "")) for row in rows]
            if all(len(a["data"].get("connections") or []) < CONNECTIONS for a in answers):
                break
        return tuple(names)

    async def _slow_names(self, clustered: bool) -> dict[str, tuple[str, ...]]:
        """By server, who was dropped lately for not reading."""
        found: dict[str, tuple[str, ...]] = {}
        for answer in await self._servers("CONNZ", {"state": 1, "limit": CONNECTIONS, "sort": "stop"}, clustered):
            now = _stamp(answer["server"].get("time", ""))
            rows = [
                row for row in answer["data"].get("connections") or []
                if str(row.get("reason", "")).startswith("Slow Consumer") and now - _stamp(row.get("stop", "")) < SLOW_S
            ]  # fmt: skip
            found[_name(answer)] = tuple(str(row.get("name") or f"connection {row.get('cid')}") for row in rows)
        return found

    # JetStream.

    async def _pages(self, verb: str, key: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while True:
            reply = await jetstream.call(self._bus, verb, {"offset": len(rows)}, 10.0)
            page = reply.get(key) or []
            rows += page
            if not page or len(rows) >= int(reply.get("total", 0)):
                return rows

    async def _streams(self) -> dict[str, Stream]:
        return {info["config"]["name"]: _stream(info) for info in await self._pages("STREAM.LIST", "streams")}

    async def _consumers(self, queues: list[str]) -> tuple[Consumer, ...]:
        pages = [await self._pages(f"CONSUMER.LIST.{name}", "consumers") for name in queues]
        return tuple(_consumer(info) for page in pages for info in page)

    async def _queued_at(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for subject, count in (await jetstream.subjects(self._bus, streams.WORK, subjects.work("*", ">"))).items():
            node = subjects.tail(subject, 1)[0]
            if node != subjects.WAITING:
                found[node] = found.get(node, 0) + count
        return found

    async def _lease(self) -> LeaseEntry | None:
        subject = f"$KV.{streams.LEASES}.{streams.LEASE_KEY}"
        message = await jetstream.get_message(self._bus, f"KV_{streams.LEASES}", last_by=subject)
        gone = (b"KV-Operation", b"Nats-Marker-Reason")
        if message is None or any(header(message.headers, name) for name in gone):
            return None
        ttl = header(message.headers, b"Nats-TTL").decode("ascii", "replace").removesuffix("s")
        return LeaseEntry(
            holder=_holder(message.data),
            revision=message.seq,
            age_s=time.time() + self._ahead_s - _stamp(message.time),
            ttl_s=float(ttl) if ttl.replace(".", "", 1).isdigit() else 0.0,
        )

    async def _refusals(self) -> tuple[Refusal, ...]:
        now = time.time() + self._ahead_s
        wanted = [subjects.event("node.refused", "*")]
        return tuple(
            Refusal(
                str(subjects.tail(message.subject, 3)[0]),
                str(_event(message.data).data.get("reason", "")),
                max(0.0, now - _stamp(message.time)),
            )
            for message in await jetstream.multi_last(self._bus, streams.EVENTS, wanted)
        )

    async def _parts_lost(self) -> tuple[str, ...]:
        """Of the parts that the coordinator does not know, those that lie in no stream either."""
        parts = [one.part for one in self._facts.trouble.parts] if self._facts.trouble is not None else []
        if not parts:
            return ()
        ended = await jetstream.multi_last(self._bus, streams.RESULTS, [subjects.result("*", p) for p in parts])
        kept = await jetstream.multi_last(self._bus, streams.TASKS, [subjects.submitted(p) for p in parts])
        found = {message.subject.rpartition(".")[2] for message in (*ended, *kept)}
        return tuple(part for part in parts if part not in found)

    # The coordinator.

    async def _coordinator(self) -> None:
        facts, api = self._facts, self._api
        asked = time.time()
        nobody = facts.lease_read and facts.lease is None
        try:
            status = await api.call("fleet", "status", Empty(), StatusReply, NOBODY_S if nobody else ANSWER_S)
        except FogError as error:
            facts.status_error = error.message
            return
        facts.status = status
        if status.at and facts.broker is not None and facts.broker.servers:
            # It said so at some moment between our asking and now.
            least, most = asked + self._ahead_s, time.time() + self._ahead_s
            facts.coordinator_ahead_s = status.at - min(max(status.at, least), most)
        rows = await self._part("the nodes", api.nodes())
        facts.nodes = None if rows is None else tuple(rows)
        facts.trouble = await self._part("the tasks in trouble", api.call("fleet", "trouble", Empty(), TroubleReply))


def _name(answer: dict[str, Any]) -> str:
    return str(answer["server"].get("name", ""))


def _server(answer: dict[str, Any]) -> tuple[Server, str]:
    server = answer["server"]
    account: dict[str, Any] = next(iter(answer["data"].get("account_statz") or [{}]))
    told = _stamp(server.get("time", ""))
    middle, half = (answer["asked"] + answer["came"]) / 2, (answer["came"] - answer["asked"]) / 2
    ahead_s = told - middle if told else None
    made = Server(_name(answer), str(server.get("ver", "")), ahead_s, half, int(account.get("slow_consumers", 0)))
    return made, made.name


def _stream(info: dict[str, Any]) -> Stream:
    cluster, state = info.get("cluster") or {}, info.get("state") or {}
    copies = tuple(
        Replica(str(r.get("name", "")), bool(r.get("current")), bool(r.get("offline")), int(r.get("lag", 0)))
        for r in cluster.get("replicas") or []
    )
    return Stream(
        info["config"]["name"],
        info["config"],
        int(state.get("messages", 0)),
        int(state.get("bytes", 0)),
        str(cluster.get("leader", "")),
        bool(cluster.get("name")),
        copies,
    )


def _consumer(info: dict[str, Any]) -> Consumer:
    config = info.get("config") or {}
    one = config.get("filter_subject")
    return Consumer(
        stream=str(info.get("stream_name", "")),
        name=str(info.get("name", "")),
        filters=tuple(config.get("filter_subjects") or ([one] if one else [])),
        unacked=int(info.get("num_ack_pending", 0)),
        redelivered=int(info.get("num_redelivered", 0)),
        pending=int(info.get("num_pending", 0)),
        asking=int(info.get("num_waiting", 0)),
    )


def _stamp(text: str) -> float:
    """RFC 3339 with up to nine digits of a second, as seconds since 1970; 0 for none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
