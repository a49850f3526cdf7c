"""Reads that another server answers than the stream's leader, one that lags behind, or nobody: nothing is missed."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from schemas import jetstream
from schemas.bus import OnMessage
from schemas.errors import Unreachable

SUBJECTS = [f"work.n1.t{number}" for number in range(8)]


class Servers:
    """In the place of a `Bus`: a leader that has `SUBJECTS` as its messages 1, 2, …, and a follower that answers the direct
    reads. The follower has the first `behind` of them, and all after so many answers (`late`)."""

    clustered = True

    def __init__(self, behind: int, late: int) -> None:
        self.behind, self.late = behind, late
        self.stored = dict(enumerate(SUBJECTS, 1))
        self.listening: dict[str, OnMessage] = {}
        self.swallowed = 0  # questions that go with a connection

    def new_inbox(self) -> str:
        return f"inbox.{len(self.listening)}"

    async def subscribe(self, subject: str, fn: OnMessage) -> Servers:
        self.listening[subject] = fn
        return self

    async def close(self) -> None: ...

    def publish(self, subject: str, data: bytes, *, reply: str = "", **_: Any) -> None:
        self.swallowed -= 1
        if self.swallowed >= 0:
            return
        asked, has = json.loads(data), self.behind if self.late > 0 else len(SUBJECTS)
        self.late -= 1
        there = {seq: name for seq, name in self.stored.items() if seq <= has}
        wanted = asked.get("multi_last")
        found = [(q, s) for q, s in there.items() if (s in wanted if wanted else q >= asked["seq"])]
        say = self.listening[reply]
        for seq, name in found:
            head = f"NATS/1.0\r\nNats-Subject: {name}\r\nNats-Sequence: {seq}\r\n\r\n"
            say(reply, "", b"{}", head.encode())
        end = f"204 EOB\r\nNats-Num-Pending: 0\r\nNats-UpTo-Sequence: {has}" if found else "404 No Results"
        asyncio.get_running_loop().call_soon(say, reply, "", b"", f"NATS/1.0 {end}\r\n\r\n".encode())

    async def request(self, subject: str, data: bytes = b"", *_: Any, **__: Any) -> bytes:
        assert subject.startswith("$JS.API.STREAM.MSG.GET."), "the leader is asked for single messages"
        asked = json.loads(data)
        first = max(self.stored, default=0) if "last_by_subj" in asked else asked["seq"]
        seqs = [q for q in self.stored if q == first or ("next_by_subj" in asked and q > first)]
        if not seqs:
            return b'{"error":{"code":404,"err_code":10037}}'
        body = {"subject": self.stored[seqs[0]], "seq": seqs[0], "data": base64.b64encode(b"{}").decode()}
        return json.dumps({"message": body}).encode()


async def last_of(servers: Servers, wanted: list[str]) -> list[int]:
    return [m.seq for m in await jetstream.multi_last(servers, "WORK", wanted, 0.5)]  # type: ignore[arg-type]


@pytest.mark.parametrize("behind", [0, 3, 8])
async def test_a_read_of_a_queue_has_the_newest_messages_too(behind: int) -> None:
    servers = Servers(behind, late=100)
    read = await jetstream.read_all(servers, "WORK", "work.>")  # type: ignore[arg-type]
    assert [m.seq for m in read] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("behind", [0, 3, 7])
async def test_the_last_of_a_subject_is_waited_for_where_a_server_lags_behind(behind: int) -> None:
    assert await last_of(Servers(behind, late=3), ["work.n1.t6"]) == [7]
    assert await last_of(Servers(behind, late=3), ["work.n1.none"]) == []


async def test_what_marks_how_far_a_server_is_may_go_meanwhile() -> None:
    servers = Servers(6, late=3)
    reading = asyncio.ensure_future(last_of(servers, ["work.n1.t5", "work.n1.none"]))
    await asyncio.sleep(0)
    for seq in (7, 8):
        del servers.stored[seq]
    assert await reading == [6]


async def test_servers_that_do_not_catch_up_are_told_as_out_of_reach() -> None:
    with pytest.raises(Unreachable, match="caught up"):
        await last_of(Servers(3, late=10**9), ["work.n1.t6"])


async def test_a_question_that_went_with_a_connection_is_put_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream, "AGAIN_S", 0.01)
    servers = Servers(8, late=0)
    servers.swallowed = 2
    read = await jetstream.read_all(servers, "WORK", "work.>")  # type: ignore[arg-type]
    assert [m.seq for m in read] == [1, 2, 3, 4, 5, 6, 7, 8]
