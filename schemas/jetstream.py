"""JetStream's API over a `Bus`: streams, consumers, stored messages. Every call is one JSON request, checked for errors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from msgspec import Struct

from schemas import streams
from schemas.bus import Bus
from schemas.errors import BrokerUnfit, FogError, NoResponders, StoreRefused, Unreachable
from schemas.stored import Answer, StoredMessage

API = "$JS.API"
MULTI_MAX = 1_000  # subjects of one multi-get; the server's limit is 1024
BATCH = 2_000  # messages of one page
BATCH_BYTES = 8 << 20  # of one page; the server's own limit is 64 MiB
OPERATORS = (
    "max_bytes",
    "max_msgs",
    "max_age",
    "placement",
    "compression",
    "storage",
)  # settings that are left as they are
NO_FOLDER = 10012  # a consumer's files cannot be written
NOT_FOUND = (10037, 10014, 10059)  # message, consumer, stream
NO_JETSTREAM = (10039, 10076)
NO_LEADER = (10008, 10009)  # of several servers: an election is under way
LEADER_S = 0.25  # between two tries until it is over
LAG_S = 0.02  # between two looks whether a server has what the leader has
INFO_S = 10.0  # one election of a stream is through by then; with a server that led more than one, the last may not be
AGAIN_S = 1.0  # a request without an answer is said again after this


class _ApiError(Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Reply(Struct):
    error: _ApiError | None = None


_reply = msgspec.json.Decoder(_Reply).decode


async def call(bus: Bus, verb: str, body: object = None, timeout_s: float = 5.0) -> dict[str, Any]:
    """One request to JetStream's API, said again (all of them may be) while nobody leads what it is about.

    Raises StoreRefused with the server's code, BrokerUnfit without JetStream, Unreachable after `timeout_s`.
    """
    data = b"" if body is None else msgspec.json.encode(body)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        left_s = deadline - loop.time()
        try:
            # Of several servers, one that was killed takes the request with it: it is said again.
            answer = await bus.request(f"{API}.{verb}", data, max(0.01, left_s), again_s=AGAIN_S)
        except NoResponders:
            raise BrokerUnfit(
                "this broker has no JetStream for us",
                hint="enable JetStream for the account that these credentials belong to",
            ) from None
        except Unreachable:
            raise Unreachable(f"no answer to {verb} within {timeout_s:g} s") from None
        error = _reply(answer).error
        if error is None:
            return msgspec.json.decode(answer, type=dict[str, Any])
        if error.err_code in NO_JETSTREAM:
            raise BrokerUnfit(f"JetStream: {error.description}", hint="enable JetStream for this account")
        if error.err_code not in NO_LEADER or left_s < LEADER_S:
            raise StoreRefused(verb, error.err_code, error.description)
        await asyncio.sleep(LEADER_S)


async def ensure_streams(bus: Bus, replicas: int = 1) -> None:
    """Make every stream and bucket, or bring it to our settings. Idempotent; several processes may do it at once."""
    for config in streams.configurations(replicas):
        await _ensure_stream(bus, config)


async def _ensure_stream(bus: Bus, config: dict[str, Any]) -> None:
    name = config["name"]
    try:
        await call(bus, f"STREAM.CREATE.{name}", config, 15.0)
    except StoreRefused as error:
        if error.code != 10058:  # name in use, with other settings
            raise
        there = (await stream_info(bus, name))["config"]
        await call(bus, f"STREAM.UPDATE.{name}", _merged(there, config), 15.0)


def _merged(there: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """A stream as it should be: what we rely on is ours; limits, ages and more replicas are the operator's to set."""
    kept = {name: there[name] for name in OPERATORS if name in there}
    replicas = max(int(there.get("num_replicas", 1)), int(ours.get("num_replicas", 1)))
    # How a stream is persisted is settled when it is made.
    changed = {name: value for name, value in ours.items() if name != "persist_mode"}
    return {**there, **changed, **kept, "num_replicas": replicas}


async def stream_info(
    bus: Bus, stream: str, *, subjects_filter: str = "", offset: int = 0, timeout_s: float = INFO_S
) -> dict[str, Any]:
    """The stream's configuration and state; with `subjects_filter` also the subjects and their message counts."""
    body = {"subjects_filter": subjects_filter, "offset": offset} if subjects_filter else None
    return await call(bus, f"STREAM.INFO.{stream}", body, timeout_s)


async def subjects(bus: Bus, stream: str, subjects_filter: str, timeout_s: float = INFO_S) -> dict[str, int]:
    """Every subject of the stream that matches, with its number of messages; all pages, each within `timeout_s`."""
    found: dict[str, int] = {}
    while True:
        info = await stream_info(bus, stream, subjects_filter=subjects_filter, offset=len(found), timeout_s=timeout_s)
        page = info["state"].get("subjects") or {}
        found.update(page)
        if not page or len(found) >= int(info.get("total", 0)):
            return found


async def create_consumer(
    bus: Bus,
    stream: str,
    name: str,
    *,
    filter_subject: str,
    ack_wait_s: float,
    max_ack_pending: int,
    memory: bool = False,
    inactive_s: float = 0.0,
    max_deliver: int = -1,
) -> None:
    """Make a durable pull consumer with explicit acks; nothing happens when it is there with the same settings.

    One whose making met its deletion (nats-server 2.15: within about a millisecond) is left without its folder, and is
    refused until it is deleted once more; that is done here.
    """
    config: dict[str, Any] = {
        "name": name,
        "durable_name": name,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "filter_subject": filter_subject,
        "ack_wait": int(ack_wait_s * streams.NS),
        "max_ack_pending": max_ack_pending,
        "max_deliver": max_deliver,
        "mem_storage": memory,
        "max_waiting": 512,
    }
    if inactive_s:
        config["inactive_threshold"] = int(inactive_s * streams.NS)
    body = {"stream_name": stream, "config": config}
    verb = f"CONSUMER.CREATE.{stream}.{name}.{filter_subject}"
    try:
        await call(bus, verb, body, 10.0)
    except StoreRefused as error:
        if error.code != NO_FOLDER:
            raise
        await delete_consumer(bus, stream, name)
        await call(bus, verb, body, 10.0)


async def delete_consumer(bus: Bus, stream: str, name: str) -> bool:
    """Delete a consumer; False when there was none. What it held un-acked is delivered anew to the next one."""
    try:
        await call(bus, f"CONSUMER.DELETE.{stream}.{name}")
    except StoreRefused as error:
        if error.code in NOT_FOUND:
            return False
        raise
    return True


async def oldest_unacked(bus: Bus, stream: str, name: str) -> int:
    """The number of the oldest delivery of a consumer for whose ack the broker waits; 0 when it waits for none."""
    info = await call(bus, f"CONSUMER.INFO.{stream}.{name}")
    return int(info["ack_floor"]["consumer_seq"]) + 1 if info["num_ack_pending"] else 0


async def consumers(bus: Bus, stream: str) -> list[str]:
    """The names of a stream's consumers."""
    names: list[str] = []
    while True:
        reply = await call(bus, f"CONSUMER.NAMES.{stream}", {"offset": len(names)})
        page = reply.get("consumers") or []
        names += page
        if not page or len(names) >= int(reply.get("total", 0)):
            return names


async def delete_message(bus: Bus, stream: str, seq: int) -> bool:
    """Delete one stored message; False when it was gone already."""
    try:
        await call(bus, f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    except StoreRefused as error:
        if error.code in (*NOT_FOUND, 10043, 10057):
            return False
        raise
    return True


async def purge_subject(bus: Bus, stream: str, subject: str) -> int:
    """Remove every message of a subject, which may hold wildcards; how many there were."""
    return int((await call(bus, f"STREAM.PURGE.{stream}", {"filter": subject}, 10.0))["purged"])


async def get_message(
    bus: Bus, stream: str, *, seq: int = 0, last_by: str = "", next_by: str = "", timeout_s: float = 5.0
) -> StoredMessage | None:
    """One stored message, read from the stream's leader: by sequence, the last of a subject, or (with `next_by`, which may
    hold wildcards) the first at or after `seq`. None when there is none."""
    body: dict[str, Any] = {"last_by_subj": last_by} if last_by else {"seq": max(seq, 1)}
    if next_by:
        body["next_by_subj"] = next_by
    try:
        message = (await call(bus, f"STREAM.MSG.GET.{stream}", body, timeout_s))["message"]
    except StoreRefused as error:
        if error.code in NOT_FOUND:
            return None
        raise
    return StoredMessage(
        message["subject"],
        int(message["seq"]),
        base64.b64decode(message.get("data", "")),
        message.get("time", ""),
        base64.b64decode(message.get("hdrs", "")),
    )


async def multi_last(bus: Bus, stream: str, wanted: list[str], timeout_s: float = 5.0) -> list[StoredMessage]:
    """The last message of each of these subjects (``*`` may stand for a token), as far as there is one, read in batches.

    Any of several servers may answer. What the stream's leader had stored when this was called is not missed: one that lags
    behind is asked again. Raises Unreachable after `timeout_s`.
    """
    newest = await _newest(bus, stream) if bus.clustered and wanted else None
    found: list[StoredMessage] = []
    for start in range(0, len(wanted), MULTI_MAX):
        some, first_seq, pending = wanted[start : start + MULTI_MAX], 1, 1
        while pending:
            page, pending = await _last_of(bus, stream, some, first_seq, newest, timeout_s)
            if not page:
                break
            found += page
            first_seq = page[-1].seq + 1
    return found


async def _newest(bus: Bus, stream: str) -> StoredMessage | None:
    """The newest message, by the stream's leader."""
    return await get_message(bus, stream, last_by=">")


async def _last_of(
    bus: Bus, stream: str, wanted: list[str], first_seq: int, newest: StoredMessage | None, timeout_s: float
) -> tuple[list[StoredMessage], int]:
    """One batch of those at or after `first_seq`, from a server that has `newest`, which is asked for as well: who has nothing
    does not say how far it is."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                also = [newest.subject] if newest and newest.subject not in wanted else []
                body = {"multi_last": wanted + also, "seq": first_seq, "max_bytes": BATCH_BYTES}
                page, pending, up_to = await _batch(bus, stream, body, timeout_s)
                if newest is None or up_to >= newest.seq:
                    return [m for m in page if m.subject not in also or _asked_for(m.subject, wanted)], pending
                await asyncio.sleep(LAG_S)
                if await get_message(bus, stream, seq=newest.seq) is None:  # gone, so nobody shows it
                    newest = await _newest(bus, stream)
    except TimeoutError:
        raise Unreachable(f"no server has caught up with the leader of {stream} within {timeout_s:g} s") from None


def _asked_for(subject: str, wanted: list[str]) -> bool:
    """Whether one of these, with ``*`` in the place of a token, means it."""
    tokens = subject.split(".")
    wild = (one.split(".") for one in wanted if "*" in one)
    return any(len(w) == len(tokens) and all(a in ("*", b) for a, b in zip(w, tokens, strict=True)) for w in wild)


async def read_pages(
    bus: Bus, stream: str, subjects_filter: str, first_seq: int = 1
) -> AsyncGenerator[list[StoredMessage]]:
    """Every stored message that matches, from `first_seq` on, a page at a time. For reading a queue without a consumer.

    Any of several servers may answer, also one that has not stored the newest yet: these are then the leader's to give.
    """
    seq, pending = max(1, first_seq), 1

    def ask() -> asyncio.Future[tuple[list[StoredMessage], int, int]]:
        body = {"seq": seq, "batch": BATCH, "max_bytes": BATCH_BYTES, "next_by_subj": subjects_filter}
        return asyncio.ensure_future(_batch(bus, stream, body, 10.0))

    asked = ask()
    try:
        while pending:
            page, pending, _ = await asked
            if not page:
                break
            seq = page[-1].seq + 1
            if pending:
                asked = ask()  # the broker reads while this page is used
            yield page
    finally:
        if not asked.cancel() and not asked.cancelled():
            asked.exception()  # of a page that nobody wants any more
    while bus.clustered and (message := await get_message(bus, stream, seq=seq, next_by=subjects_filter)) is not None:
        yield [message]
        seq = message.seq + 1


async def read_all(bus: Bus, stream: str, subjects_filter: str) -> list[StoredMessage]:
    """All of `read_pages` at once, for what is known to be small."""
    return [message async for page in read_pages(bus, stream, subjects_filter) for message in page]


async def _batch(bus: Bus, stream: str, body: dict[str, Any], timeout_s: float) -> tuple[list[StoredMessage], int, int]:
    """One batch; how many more the broker has for the same question (it ends a batch by size, without an error); and, of
    last messages, the sequence up to which the server that answers has stored the stream (0 when it found none).

    Where nothing comes for a while the question is put again: a connection that broke took it, or the answer, with it.
    """
    quiet_s = AGAIN_S
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                answer, inbox = Answer(stream), bus.new_inbox()
                subscription = await bus.subscribe(inbox, answer.heard)
                try:
                    bus.publish(f"{API}.DIRECT.GET.{stream}", msgspec.json.encode(body), reply=inbox)
                    if await answer.whole(quiet_s):
                        return answer.found, *answer.ended.result()
                finally:
                    await subscription.close()
                quiet_s *= 2
    except TimeoutError:
        raise Unreachable(f"reading {stream} took longer than {timeout_s:g} s") from None


def last_seq(info: dict[str, Any]) -> int:
    """The last sequence that a stream has given out, from its `stream_info`."""
    return int(info["state"]["last_seq"])


__all__ = [
    "API",
    "FogError",
    "StoredMessage",
    "call",
    "consumers",
    "create_consumer",
    "delete_consumer",
    "delete_message",
    "ensure_streams",
    "get_message",
    "last_seq",
    "multi_last",
    "oldest_unacked",
    "purge_subject",
    "read_all",
    "read_pages",
    "stream_info",
    "subjects",
]
