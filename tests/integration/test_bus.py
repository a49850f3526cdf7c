"""The bus and what stands on it, against the real broker: nothing confirmed is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from client.watch import Events
from coordinator.broker import Broker
from schemas import jetstream, pings, streams, subjects
from schemas.bus import Bus
from schemas.errors import BadInput, Conflict, FogError, NoResponders, StoreRefused, Unreachable
from schemas.event import TaskEvent
from schemas.eventlog import EventLog
from schemas.kv import Kv
from schemas.nats_py import RECONNECT_MAX_S, NatsServer, pick_server
from schemas.objects import ObjectMissing, Objects
from schemas.pull import BATCH_BYTES, Message, Puller
from schemas.store import Ack, Store
from schemas.target import Target
from schemas.wire import Wire
from tests.proxy import Way, proxied
from tests.until import eventually


@pytest.fixture
async def bus(target: Target) -> AsyncIterator[Bus]:
    bus = await Bus.connect(target, name="test")
    await jetstream.ensure_streams(bus)
    yield bus
    await bus.close()


@pytest.fixture
async def store(bus: Bus) -> AsyncIterator[Store]:
    store = Store(bus)
    yield store
    store.close()


async def make_consumer(bus: Bus) -> None:
    await jetstream.create_consumer(
        bus, streams.TASKS, "FOG_t", filter_subject=subjects.submit(3, "u", ">"), ack_wait_s=3, max_ack_pending=5000
    )


def test_a_client_that_lost_its_server_tries_another_of_the_cluster_not_one_for_ever() -> None:
    """As nats-py uses it: the server that is picked and refuses has one try more behind it."""
    servers = [NatsServer(urlsplit(f"nats://h{number}:1")) for number in range(3)]
    tried = []
    for _ in range(6):
        picked, wait_s = pick_server(servers, {})
        assert picked is not None and 0 <= wait_s <= RECONNECT_MAX_S
        picked.reconnects += 1
        tried.append(picked.uri.hostname)
    assert set(tried[:3]) == set(tried[3:]) == {"h0", "h1", "h2"}


async def test_making_the_streams_twice_changes_nothing(bus: Bus) -> None:
    before = await jetstream.stream_info(bus, streams.RESULTS)
    await jetstream.ensure_streams(bus)
    after = await jetstream.stream_info(bus, streams.RESULTS)
    assert before["config"] == after["config"]
    assert before["created"] == after["created"]


async def test_the_first_stored_result_counts_and_the_second_is_refused_by_the_broker(bus: Bus, store: Store) -> None:
    """Also against a publisher that gives no message id and expects nothing."""
    subject = subjects.result("u", "t1")
    heard: list[bytes] = []
    await bus.subscribe(subjects.done("u", "*"), lambda _s, _r, data, _h: heard.append(data))
    await store.put(subject, b'"first"')
    with pytest.raises(StoreRefused) as refused:
        await store.put(subject, b'"second"')
    assert refused.value.exists
    await bus.flush()
    assert heard == [b'"first"']
    kept = await jetstream.multi_last(bus, streams.RESULTS, [subject, subjects.result("u", "other")])
    assert [message.data for message in kept] == [b'"first"']


async def test_a_message_id_is_stored_once(bus: Bus, store: Store) -> None:
    first = await store.put(subjects.submit(3, "u", "t1"), b"1", msg_id="t1")
    again = await store.put(subjects.submit(3, "u", "t1"), b"1", msg_id="t1")
    assert (again.seq, again.duplicate) == (first.seq, True)


async def test_every_post_is_answered_and_every_message_is_pulled_once(bus: Bus, store: Store) -> None:
    """Ten thousand, so that windows fill, queues form and requests are renewed."""
    answers: list[object] = []
    pulled: list[int] = []

    def take(message: Message) -> None:
        pulled.append(message.seq)
        message.ack(bus)

    for number in range(10_000):
        store.post(subjects.submit(3, "u", f"t{number}"), b"{}", f"t{number}", answers.append)
    puller = Puller(bus, streams.TASKS, "FOG_t", take, batch=256, on_missing=lambda: make_consumer(bus))
    await puller.start()  # the consumer does not exist yet: it is made when the broker says so
    await eventually(lambda: len(pulled) >= 10_000)
    assert await store.drain(10)
    assert all(isinstance(answer, Ack) for answer in answers)
    assert len(answers) == len(set(pulled)) == len(pulled) == 10_000
    await puller.stop()


def posted_in_row(store: Store, ids: list[str], subject: Callable[[str], str]) -> dict[str, Ack | FogError]:
    """Answers, as they come, by the id of what was posted within one turn of the event loop."""
    answers: dict[str, Ack | FogError] = {}
    for each in ids:
        store.post(subject(each), b"{}", each, partial(answers.__setitem__, each), in_row=True)
    return answers


def of_user(task: str) -> str:
    return subjects.submit(3, "u", task)


async def test_a_row_has_two_answers_and_every_message_its_own_sequence(bus: Bus, store: Store) -> None:
    asked = bus._count
    ids = [f"t{number}" for number in range(350)]
    answers = posted_in_row(store, ids, of_user)
    await eventually(lambda: len(answers) == 350)
    assert bus._count - asked == 8, "rows of 100, and what is left"
    kept = await jetstream.multi_last(bus, streams.TASKS, [of_user(each) for each in ids])
    assert {message.subject: message.seq for message in kept} == {
        of_user(each): answer.seq for each, answer in answers.items() if isinstance(answer, Ack)
    }


async def test_a_row_with_something_known_in_it_breaks_and_everything_is_stored_once(bus: Bus, store: Store) -> None:
    earlier = await store.put(of_user("t5"), b"{}", msg_id="t5")
    ids = [f"t{number}" for number in range(10)]
    answers = posted_in_row(store, ids, of_user)
    await eventually(lambda: len(answers) == 10)
    kept = await jetstream.multi_last(bus, streams.TASKS, [of_user(each) for each in ids])
    assert {message.subject: message.seq for message in kept} == {
        of_user(each): answer.seq for each, answer in answers.items() if isinstance(answer, Ack)
    }
    assert answers["t5"] == replace(earlier, duplicate=True)
    assert jetstream.last_seq(await jetstream.stream_info(bus, streams.TASKS)) == 10


async def test_a_row_that_begins_with_what_the_stream_holds_last_says_of_each_where_it_lies(
    bus: Bus, store: Store
) -> None:
    earlier = {each: await store.put(of_user(each), b"{}", msg_id=each) for each in ("t0", "other", "t1")}
    answers = posted_in_row(store, ["t0", "t1", "t2", "t3"], of_user)
    await eventually(lambda: len(answers) == 4)
    said = {each: answer.seq for each, answer in answers.items() if isinstance(answer, Ack)}
    assert said == {"t0": earlier["t0"].seq, "t1": earlier["t1"].seq, "t2": 4, "t3": 5}
    assert answers["t0"] == replace(earlier["t0"], duplicate=True)
    assert answers["t1"] == replace(earlier["t1"], duplicate=True)


async def test_of_a_row_only_what_the_stream_does_not_take_is_refused(bus: Bus, store: Store) -> None:
    def by_number(each: str) -> str:
        return subjects.result("u", "twice" if each in ("r1", "r4") else each)

    answers = posted_in_row(store, [f"r{number}" for number in range(6)], by_number)
    await eventually(lambda: len(answers) == 6)
    assert [each for each, answer in answers.items() if isinstance(answer, StoreRefused) and answer.exists] == ["r4"]
    assert sum(isinstance(answer, Ack) for answer in answers.values()) == 5


async def test_two_who_publish_in_rows_to_one_stream_at_once_lose_and_double_nothing(
    bus: Bus, store: Store, target: Target
) -> None:
    other = await Bus.connect(target, name="other")
    others = Store(other)
    answers = []
    for turn in range(20):
        for who, mark in ((store, "a"), (others, "b")):
            answers.append(posted_in_row(who, [f"{mark}{turn}-{number}" for number in range(50)], of_user))
        await asyncio.sleep(0)
    await eventually(lambda: all(len(found) == 50 for found in answers))
    sequences = [answer.seq for found in answers for answer in found.values() if isinstance(answer, Ack)]
    assert len(set(sequences)) == 2_000
    assert jetstream.last_seq(await jetstream.stream_info(bus, streams.TASKS)) == 2_000
    others.close()
    await other.close()


async def test_a_puller_takes_no_more_than_there_is_room_for(bus: Bus, store: Store) -> None:
    await make_consumer(bus)
    for number in range(50):
        await store.put(subjects.submit(3, "u", f"t{number}"), b"{}")
    held: list[Message] = []
    room = 20
    puller = Puller(
        bus,
        streams.TASKS,
        "FOG_t",
        held.append,
        batch=256,
        on_missing=lambda: make_consumer(bus),
        room=lambda: room - len(held),
    )
    await puller.start()
    await eventually(lambda: len(held) == 20)
    await bus.flush()
    assert len(held) == 20
    room = 50
    puller.ask()
    await eventually(lambda: len(held) == 50)
    await puller.stop()


async def test_a_puller_asks_for_large_messages_a_few_at_a_time_and_gets_the_largest(bus: Bus, store: Store) -> None:
    await make_consumer(bus)
    asked: list[dict[str, int]] = []
    next_of = "$JS.API.CONSUMER.MSG.NEXT.FOG_TASKS.FOG_t"
    await bus.subscribe(next_of, lambda _s, _r, data, _h: asked.append(msgspec.json.decode(data)))
    sizes = [700_000, 10] * 20 + [bus.max_payload - 64]
    for number, size in enumerate(sizes):
        store.post(subjects.submit(3, "u", f"t{number}"), b"x" * size, "", lambda _answer: None)
    got: list[int] = []

    def take(message: Message) -> None:
        got.append(len(message.data))
        message.ack(bus)

    puller = Puller(bus, streams.TASKS, "FOG_t", take, batch=256, on_missing=lambda: make_consumer(bus))
    await puller.start()
    await eventually(lambda: len(got) >= len(sizes))
    assert sorted(got) == sorted(sizes)
    assert all(request["max_bytes"] == BATCH_BYTES for request in asked)
    # No request was served beyond its bytes: so there were as many as that takes.
    assert len(asked) >= sum(sizes) / BATCH_BYTES
    await puller.stop()


async def test_a_consumer_whose_making_met_its_deletion_can_be_made_all_the_same(bus: Bus) -> None:
    """The broker refused it from then on. Which of many rounds hit that moment is chance; one of them does."""
    for _ in range(60):
        await make_consumer(bus)
        deleting = asyncio.create_task(jetstream.delete_consumer(bus, streams.TASKS, "FOG_t"))
        await asyncio.sleep(0)
        with contextlib.suppress(StoreRefused):
            await make_consumer(bus)
        await deleting
        await make_consumer(bus)
        assert await jetstream.consumers(bus, streams.TASKS) == ["FOG_t"]


async def test_a_deleted_consumer_is_made_anew(bus: Bus, store: Store) -> None:
    got: list[str] = []
    puller = Puller(
        bus,
        streams.TASKS,
        "FOG_t",
        lambda message: (got.append(message.subject), message.ack(bus))[0],
        batch=10,
        on_missing=lambda: make_consumer(bus),
    )
    await puller.start()
    await store.put(subjects.submit(3, "u", "before"), b"{}")
    await eventually(lambda: len(got) == 1)
    assert await jetstream.delete_consumer(bus, streams.TASKS, "FOG_t")
    await store.put(subjects.submit(3, "u", "after"), b"{}")
    await eventually(lambda: len(got) == 2)
    await puller.stop()


@pytest.mark.parametrize("in_row", [False, True])
async def test_posts_and_pulls_survive_the_sigkill_of_the_broker(
    start_broker: Callable[..., Broker], in_row: bool
) -> None:
    """What was on its way to us counts as delivered: it comes again after the consumer's ack_wait."""
    broker = start_broker("killed")
    bus = await Bus.connect(broker.target, name="test")
    await jetstream.ensure_streams(bus)
    await make_consumer(bus)
    store = Store(bus)
    got: list[int] = []
    puller = Puller(
        bus,
        streams.TASKS,
        "FOG_t",
        lambda message: (got.append(message.seq), message.ack(bus))[0],
        batch=64,
        on_missing=lambda: make_consumer(bus),
    )
    await puller.start()
    answers: list[object] = []
    for number in range(500):
        store.post(subjects.submit(3, "u", f"t{number}"), b"{}", f"t{number}", answers.append, in_row=in_row)
        if number == 250:
            await bus.flush()
            broker.kill()
    start_broker("killed")
    await eventually(lambda: len(answers) == 500 and len(set(got)) == 500)
    assert all(isinstance(answer, Ack) for answer in answers)
    info = await jetstream.stream_info(bus, streams.TASKS)
    assert jetstream.last_seq(info) == 500, "each was stored exactly once"
    await puller.stop()
    store.close()
    await bus.close()


async def test_deleting_a_consumer_that_is_not_there_is_no_error(bus: Bus) -> None:
    assert not await jetstream.delete_consumer(bus, streams.TASKS, "FOG_none")


async def test_an_operators_limits_and_more_replicas_are_kept_and_the_rest_is_set_right(bus: Bus) -> None:
    config = (await jetstream.stream_info(bus, streams.RESULTS))["config"]
    changed = {**config, "max_bytes": 1 << 20, "duplicate_window": 60 * streams.NS}
    await jetstream.call(bus, f"STREAM.UPDATE.{streams.RESULTS}", changed)
    await jetstream.ensure_streams(bus)
    after = (await jetstream.stream_info(bus, streams.RESULTS))["config"]
    assert (after["max_bytes"], after["duplicate_window"]) == (1 << 20, config["duplicate_window"])


async def test_reading_much_takes_as_many_batches_as_it_needs(
    bus: Bus, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker ends a batch by its size without an error, and says how much is left."""
    monkeypatch.setattr(jetstream, "BATCH_BYTES", 5_000)
    named = [subjects.work("n1", f"t{number}") for number in range(60)]
    for subject in named:
        await store.put(subject, b"x" * 1_000)
    pages = [page async for page in jetstream.read_pages(bus, streams.WORK, subjects.work("*", "*"))]
    assert len(pages) > 1
    assert [message.subject for page in pages for message in page] == named
    found = await jetstream.multi_last(bus, streams.WORK, [*named, subjects.work("n1", "none")])
    assert sorted(message.subject for message in found) == sorted(named)
    found = await jetstream.multi_last(bus, streams.WORK, [subjects.work("*", f"t{number}") for number in range(60)])
    assert sorted(message.subject for message in found) == sorted(named)


async def test_a_publisher_cannot_pass_its_message_off_as_another(bus: Bus, store: Store) -> None:
    subject = subjects.result("u", "mine")
    forged = b"Nats-Subject: fog.v1.result.u.yours\r\nNats-Sequence: 7\r\n"
    ack = await store.put(subject, b"{}", headers=forged)
    [message] = await jetstream.multi_last(bus, streams.RESULTS, [subject])
    assert (message.subject, message.seq) == (subject, ack.seq)


async def test_an_end_for_good_is_told_with_its_reason(bus: Bus) -> None:
    """nats-py never comes back after some errors of the broker; a daemon that did not notice would live on, deaf."""
    ended = asyncio.Event()
    bus.when_closed(ended.set)
    bus._client.send(b"PUB fog.x %d\r\n" % (bus.max_payload + 1) + b"x" * (bus.max_payload + 1) + b"\r\n")
    async with asyncio.timeout(60):
        await ended.wait()
    assert "payload" in bus.closed_for.lower()
    assert not bus.connected


async def test_no_event_is_lost_or_doubled_when_the_broker_is_killed(start_broker: Callable[..., Broker]) -> None:
    """Also none that it had confirmed, but not yet written down."""
    broker = start_broker("events")
    bus = await Bus.connect(broker.target, name="test")
    await jetstream.ensure_streams(bus)
    store = Store(bus)
    events = EventLog(bus, store, "/fog/coordinator/c")
    for number in range(3_000):
        events.emit("task.started", f"t{number}", f"t{number}.1.started", TaskEvent(f"t{number}", "u"), 1.0)
        if number in (1_500, 2_000):
            assert await events.drain(10)  # all confirmed
            broker.kill()
            broker = start_broker("events")
            await eventually(lambda: bus.connected)
        if number % 100 == 0:
            await asyncio.sleep(0)
    assert await events.drain(15)
    await eventually(lambda: events.quiet)
    kept = await jetstream.read_all(bus, streams.EVENTS, subjects.event("task.started", "*"))
    assert sorted(message.subject for message in kept) == sorted(
        subjects.event("task.started", f"t{number}") for number in range(3_000)
    )
    assert events.lost == 0
    store.close()
    await bus.close()


async def test_waiting_for_what_is_never_answered_ends_in_its_time_also_where_the_client_swallows_a_cancellation(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nats-py does while it flushes. A coordinator whose lease had ended waited here for ever, and nobody acted."""

    async def flush(timeout: float) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)

    monkeypatch.setattr(bus._client, "flush", flush)
    store = Store(bus, allowed=lambda: False)
    store.post(subjects.submit(3, "u", "t1"), b"{}", "t1", lambda _answer: None)
    for _ in range(5):
        waiting = asyncio.ensure_future(store.drain(0.02))
        await asyncio.wait({waiting}, timeout=5.0)
        assert waiting.done() and not waiting.result()
    store.close()


async def test_a_ping_goes_along_with_what_goes_out_and_is_answered(bus: Bus) -> None:
    client = bus._client
    bus.ping_along(5.0)
    assert client._pings_outstanding == 0, "none is due before the next"
    bus.ping_along(30.0)
    assert client._pings_outstanding == 1
    bus.ping_along(15.0)
    assert client._pings_outstanding == 1, "once"
    await eventually(lambda: client._pings_outstanding == 0, what="the broker's answer")
    await bus.flush()  # whose own ping and answer are not mixed up with it


async def test_a_link_that_passes_nothing_on_any_more_is_found_dead_by_its_pings_and_mended(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pings, "INTERVAL_S", 0.1)
    said: list[str] = []
    with proxied(target) as proxy:
        bus = await Bus.connect(
            proxy.target(target), name="far", on_lost=lambda: said.append("lost"), on_back=lambda: said.append("back")
        )
        await eventually(lambda: bus._client._pongs_received > 3, what="pings by themselves")
        assert not said
        proxy.swallow(Way.FROM_BROKER)
        await eventually(lambda: said, what="it is found dead")
        proxy.mend()
        await eventually(lambda: said[-1] == "back", 30.0, what="it is back")
        await bus.close()


async def test_a_request_to_nobody_fails_at_once_and_a_lost_answer_in_time(bus: Bus) -> None:
    with pytest.raises(NoResponders):
        await bus.request("fog.nobody")
    await bus.subscribe("fog.silent", lambda *_: None)
    with pytest.raises(Unreachable, match=r"within 0\.05 s"):
        await bus.request("fog.silent", timeout_s=0.05)


async def test_a_handler_that_raises_stops_nothing(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    got: list[bytes] = []

    def handler(_subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        got.append(data)
        if data == b"bad":
            raise ValueError("no")

    await bus.subscribe("fog.x", handler)
    for data in (b"bad", b"good"):
        bus.publish("fog.x", data)
    await bus.flush()
    assert got == [b"bad", b"good"]
    assert "a message handler failed" in caplog.text


async def test_messages_come_straight_from_the_socket_again_after_a_reconnect(
    start_broker: Callable[..., Broker],
) -> None:
    """Otherwise all would work, three times as slowly, and nobody would know."""
    broker = start_broker("tapped")
    bus = await Bus.connect(broker.target, name="test")

    def tapped() -> bool:
        transport: Any = bus._client._transport
        return bus.connected and isinstance(transport._io_writer.transport.get_protocol(), Wire)

    await eventually(tapped)
    broker.kill()
    await eventually(lambda: not bus.connected)
    start_broker("tapped")
    await eventually(tapped)
    await bus.close()


@given(cuts=st.lists(st.integers(0, 200), max_size=8), slow=st.booleans())
def test_however_the_bytes_are_cut_each_operation_arrives_whole_and_in_order(cuts: list[int], slow: bool) -> None:
    heard: list[tuple[str, str, bytes, bytes]] = []
    passed: list[bytes] = []

    class Inner(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            passed.append(data)

    wire = Wire(Inner(), {} if slow else {b"7": lambda *message: heard.append(message)})
    stream = (
        b"PING\r\nMSG a.b 7 5\r\nhe\r\no\r\nMSG a.c 7 _in.1 0\r\n\r\n"
        b"HMSG a.d 7 _in.2 12 14\r\nNATS/1.0\r\n\r\nhi\r\nMSG a.e 8 2\r\nno\r\n-ERR 'x'\r\n"
        b"HMSG a.f 7 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    )
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in pairwise(edges):
        wire.data_received(stream[start:end])
    if slow:
        assert (b"".join(passed), heard) == (stream, [])
        return
    assert heard == [
        ("a.b", "", b"he\r\no", b""),
        ("a.c", "_in.1", b"", b""),
        ("a.d", "_in.2", b"hi", b"NATS/1.0\r\n\r\n"),
        ("a.f", "", b"", b"NATS/1.0\r\n\r\n"),
    ]
    assert passed == [b"PING\r\n", b"MSG a.e 8 2\r\nno\r\n", b"-ERR 'x'\r\n"]


async def test_an_answer_that_comes_too_late_for_a_flush_does_not_end_the_reading(bus: Bus) -> None:
    got: list[bytes] = []
    await bus.subscribe("fog.x", lambda _s, _r, data, _h: got.append(data))
    late = asyncio.get_running_loop().create_future()
    await bus._client._send_ping(late)
    late.cancel()
    await bus.flush()
    bus.publish("fog.x", b"heard")
    await eventually(lambda: got == [b"heard"])


async def test_a_message_beyond_the_payload_limit_is_refused_before_it_closes_the_connection(bus: Bus) -> None:
    with pytest.raises(BadInput, match="payload limit"):
        bus.publish("fog.x", b"x" * (bus.max_payload + 1))
    assert bus.connected


async def test_compare_and_set_has_one_winner(bus: Bus, store: Store) -> None:
    kv = Kv(bus, store, streams.NODES)
    revision = await kv.create("n1", b"a")
    with pytest.raises(Conflict):
        await kv.create("n1", b"b")
    tries = await asyncio.gather(*(kv.update("n1", b"%d" % n, revision) for n in range(20)), return_exceptions=True)
    assert sum(isinstance(tried, int) for tried in tries) == 1
    entry = await kv.get("n1")
    assert entry is not None
    await kv.delete("n1", entry.revision)
    assert await kv.get("n1") is None
    assert await kv.create("n1", b"c") > entry.revision
    assert {key: entry.value for key, entry in (await kv.all()).items()} == {"n1": b"c"}


async def test_an_entry_with_a_lifetime_expires_and_can_be_taken_again(bus: Bus, store: Store) -> None:
    kv = Kv(bus, store, streams.LEASES)
    first = await kv.create("c", b"me", ttl_s=1)

    async def gone() -> bool:
        return await kv.get("c") is None

    await eventually(gone)
    assert await kv.create("c", b"you", ttl_s=5) > first


async def test_objects_are_named_by_their_content_and_checked(bus: Bus) -> None:
    objects = Objects(bus)
    data = bytes(range(256)) * 4096
    ref = await objects.put(data)
    assert await objects.put(data) == ref
    assert await objects.get(ref) == data
    with pytest.raises(ObjectMissing):
        await objects.get("sha256-00")
    await objects._raw.put("sha256-11", b"rubbish")
    with pytest.raises(ObjectMissing, match="not what its name says"):
        await objects.get("sha256-11")


async def test_a_dead_address_and_wrong_credentials_say_what_to_do(target: Target) -> None:
    with pytest.raises(Unreachable, match="fog up"):
        await Bus.connect(Target("nats://127.0.0.1:9"), name="test")
    with pytest.raises(Exception, match="credentials"):
        await Bus.connect(Target(target.url), name="test")


def test_an_address_is_shown_without_the_secret_that_it_carries() -> None:
    target = Target("nats://ann:secret@one:4222,nats://ann:secret@two:4222")
    assert target.shown == "nats://one:4222,nats://two:4222"
    assert "secret" not in repr(target)


async def test_a_reader_of_events_notices_a_delivery_that_was_lost_and_gives_each_event_once(
    bus: Bus, store: Store
) -> None:
    """As when the server that it is connected to dies, and the one that has its consumer does not."""
    events = EventLog(bus, store, "/fog/coordinator/c")
    reading = Events(bus, since=0.0, follow=True)
    came: list[str] = []

    lost: list[bool] = []

    def lossy(message: Message) -> None:
        if lost:
            lost.pop()
        else:
            reading._arrived(message)

    async def read() -> None:
        async for event in reading:
            came.append(event.subject)  # noqa: PERF401 - one at a time, as they come

    follower = asyncio.create_task(read())
    for number in range(6):
        if number == 3:
            assert reading._puller is not None
            lost += [True, True]
            reading._puller._on_message = lossy
        events.emit("task.started", f"t{number}", f"t{number}.1.started", TaskEvent(f"t{number}", "u"), 1.0)
        await events.drain(10)
        if number < 3:
            await eventually(lambda number=number: len(came) == number + 1)  # type: ignore[misc]
    await eventually(lambda: len(came) >= 6, 60.0, "every event, also those that were lost on their way")
    assert came == [f"t{number}" for number in range(6)]
    follower.cancel()
    await reading.close()
