"""Publishing that the broker confirms: a bounded window, a retry with the same message id, an answer for every message.

nats-py's own `publish_async` loses futures over a restart and swallows server errors; awaiting each publish costs a
round trip. Here the answer comes to a callback, and what got none in `RETRY_S` (or was cut off by a reconnect) is said
again with the same ``Nats-Msg-Id``, which the broker stores once within its duplicate window.

Messages *in a row* have two answers together, which saves a tenth of a task's CPU over all processes (docs/decisions/0020).
Each names the one before it as the last that the stream must have stored (``Nats-Expected-Last-Msg-Id``), and the first and
the last ask for an answer: if both were stored now, then so were all between them, one directly after the other. Whatever
comes between breaks the row (one that is refused or known already, another publisher's message): then each that has no answer
is said again with one of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import msgspec
from msgspec import Struct

from schemas.bus import Bus, is_no_responders
from schemas.errors import BadInput, FogError, StoreRefused, Unreachable

log = logging.getLogger("fog.store")

RETRY_S = 2.0
SWEEP_S = 0.5
WINDOW = 8192  # messages that may be unanswered at a time; more wait here in order
WINDOW_BYTES = 32 << 20
ROW_MIN, ROW_MAX = 3, 100  # messages that are worth a row, and of one row
ROW_PAUSE_S = 1.0  # after a row that broke: while others publish to the same stream, rows only cost
# Try again: JetStream is starting, has no leader, or is overloaded; of several servers, the earlier try is under way.
TRANSIENT = frozenset({10008, 10009, 10023, 10074, 10158, 10202})


class Ack(Struct, frozen=True, gc=False):
    """The broker's word: stored in `stream` as `seq`. `duplicate`: the message id was known, `seq` is the earlier one's."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False


class _Error(Struct, gc=False):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(Ack, frozen=True, gc=False):
    error: _Error | None = None


def _passing(error: _Error) -> bool:
    """Whether trying again can help. 10077 is any failure to store: *maximum …* is a limit of ours, the rest passes."""
    return error.err_code in TRANSIENT or (error.err_code == 10077 and "maximum" not in error.description)


OnAnswer = Callable[[Ack | FogError], None]
_pub_ack = msgspec.json.Decoder(_PubAck).decode


class Post(Struct, eq=False, gc=False):
    """One message on its way; only `Store` looks inside. Whatever cycle it stands in is ended by its answer."""

    store: Store
    subject: str
    data: bytes
    headers: bytes
    on_answer: Callable[..., None]
    about: object
    at: float
    give_up: float
    in_row: bool  # it may be said without an answer of its own
    token: str = ""
    seq: int = 0  # where it was stored, once its own answer says that it was, now

    def on_reply(self, data: bytes, headers: bytes) -> None:
        """What the broker said."""
        self.store._answered(self, data, headers)


class Store:
    """JetStream publishing over one bus. Make it inside the running loop; `close()` it at the end.

    While `allowed()` is false nothing is sent (a coordinator without its lease): it waits, for the sweep to try again.
    `retry_s`: what got no answer for so long is said again; more where messages are large and the link may be slow.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        window: int = WINDOW,
        allowed: Callable[[], bool] = lambda: True,
        retry_s: float = RETRY_S,
    ) -> None:
        self._bus = bus
        self._allowed = allowed
        self._closed = False
        self._window = window
        self._retry_s = retry_s
        self._open: dict[Post, None] = {}
        self._open_bytes = 0
        self._queue: deque[Post] = deque()
        self._row: list[Post] = []  # of this turn of the event loop
        self._rows_from = 0.0
        self._sweeper: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        bus.when_back(self.retry_now)

    @property
    def unanswered(self) -> int:
        """Messages that wait for the broker's answer, sent or not."""
        return len(self._open) + len(self._queue)

    def post(
        self,
        subject: str,
        data: bytes,
        msg_id: str,
        on_answer: Callable[..., None],
        *,
        about: object = None,
        headers: bytes = b"",
        give_up_s: float = math.inf,
        in_row: bool = False,
    ) -> Post | None:
        """Publish; `on_answer` gets the Ack, StoreRefused, or (after `give_up_s`) Unreachable. Never waits.

        With `about`, it is called as `on_answer(about, answer)`: as good as a partial, without making one for each message.

        With `in_row` it goes together with others of this turn of the event loop, at the turn's end: for many to one stream,
        with ids and no other headers. What is returned is for `withdraw`, and for nothing else; None: answered already."""
        if self._closed:
            error = Unreachable(f"{subject} was not stored: this connection's work is over")
            on_answer(error) if about is None else on_answer(about, error)
            return None
        if msg_id:
            headers = f"Nats-Msg-Id: {msg_id}\r\n".encode() + headers
        now = self._loop.time()
        post = Post(self, subject, data, headers, on_answer, about, now, now + give_up_s, in_row)
        if self._queue or len(self._open) >= self._window or self._open_bytes > WINDOW_BYTES:
            self._queue.append(post)
        else:
            self._open[post] = None
            self._open_bytes += len(data)
            self._say(post)
        if self._sweeper is None:
            self._sweeper = self._loop.create_task(self._sweep())
        return post

    def withdraw(self, post: Post) -> None:
        """Say it no more, and give no answer: it is kept elsewhere. It may have been stored all the same."""
        if post in self._open:
            del self._open[post]
            self._open_bytes -= len(post.data)
            self._bus.hang_up(post.token)
            self._send_next()
        elif post in self._queue:
            self._queue.remove(post)

    async def put(
        self, subject: str, data: bytes, *, msg_id: str = "", headers: bytes = b"", timeout_s: float = 10.0
    ) -> Ack:
        """Publish and wait. Raises StoreRefused, or Unreachable after `timeout_s` (it may be stored all the same)."""
        answer: asyncio.Future[Ack] = self._loop.create_future()

        def on_answer(said: Ack | FogError) -> None:
            if answer.done():
                return
            if isinstance(said, Ack):
                answer.set_result(said)
            else:
                answer.set_exception(said)

        self.post(subject, data, msg_id, on_answer, headers=headers, give_up_s=timeout_s)
        return await answer

    def _send(self, post: Post) -> None:
        if post not in self._open:
            self._open[post] = None
            self._open_bytes += len(post.data)
        post.at = self._loop.time()
        self._say(post)

    def _say(self, post: Post) -> None:
        if post.in_row:
            self._line_up(post)
            return
        if not self._allowed():
            return
        try:
            post.token = self._bus.call(post.subject, post.data, post.on_reply, headers=post.headers)
        except BadInput as error:
            self._finish(post, error)

    def _answered(self, post: Post, data: bytes, headers: bytes) -> None:
        if post not in self._open or (not data and is_no_responders(data, headers)):
            return  # no stream listens (a broker that starts): the sweep tries again
        try:
            said = _pub_ack(data)
        except msgspec.MsgspecError:
            return
        if said.error is None:
            post.seq = 0 if said.duplicate else said.seq
            self._finish(post, said)
        elif not _passing(said.error):
            self._finish(post, StoreRefused(post.subject, said.error.err_code, said.error.description))

    def _finish(self, post: Post, answer: Ack | FogError) -> None:
        if self._open.pop(post, 0) is None:
            self._open_bytes -= len(post.data)
        try:
            if post.about is None:
                post.on_answer(answer)
            else:
                post.on_answer(post.about, answer)
        except Exception:
            log.exception("the answer to a message could not be handled subject=%s", post.subject)
        if self._queue:
            self._send_next()

    def _send_next(self) -> None:
        while self._queue and len(self._open) < self._window and self._open_bytes <= WINDOW_BYTES:
            self._send(self._queue.popleft())

    # In a row.

    def _line_up(self, post: Post) -> None:
        if not self._row:
            self._loop.call_soon(self._end_row)
        self._row.append(post)
        if len(self._row) >= ROW_MAX:
            self._end_row()

    def _end_row(self) -> None:
        row, self._row = [post for post in self._row if post in self._open], []
        for post in row:
            post.in_row = False  # if it is said again, then by itself
        # Of several servers, one compares with the last message that all have, not with the last that came.
        if len(row) < ROW_MIN or self._loop.time() < self._rows_from or self._bus.clustered:
            for post in row:
                self._say(post)
        elif self._allowed():
            self._say_row(row)

    def _say_row(self, row: list[Post]) -> None:
        self._say(row[0])
        last, on_reply = row[-1], partial(self._row_answered, row)
        try:
            for before, post in pairwise(row):
                # What follows ``Nats-`` in the headers of the one before: its ``Msg-Id``.
                headers = post.headers + b"Nats-Expected-Last-" + before.headers[5:]
                if post is last:
                    post.token = self._bus.call(post.subject, post.data, on_reply, headers=headers)
                else:
                    self._bus.publish(post.subject, post.data, headers=headers)
        except BadInput:
            for post in row[1:]:
                self._say(post)

    def _row_answered(self, row: list[Post], data: bytes, _headers: bytes) -> None:
        try:
            said = _pub_ack(data)
        except msgspec.MsgspecError:
            return  # no stream listens: the sweep tries again
        # Of a row whose first is known already, the others may follow in the stream what is known of it, too.
        first = row[0].seq
        if said.error is None and not said.duplicate and first and said.seq == first + len(row) - 1:
            for seq, post in enumerate(row, first):
                if post in self._open:
                    if post.token:
                        self._bus.hang_up(post.token)
                    self._finish(post, Ack(said.stream, seq))
            return
        self._rows_from = self._loop.time() + ROW_PAUSE_S
        for post in row:
            if post in self._open:
                self._bus.hang_up(post.token)
                self._send(post)

    # Again.

    def retry_now(self) -> None:
        """Say everything unanswered again at once: the link is back."""
        for post in list(self._open):
            self._bus.hang_up(post.token)
            self._send(post)

    async def _sweep(self) -> None:
        """Resend what got no answer. The oldest open post is first, so a pass costs only what is due."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._loop.time()
            for post in [p for p in self._open if now - p.at >= self._retry_s or now >= p.give_up]:
                self._bus.hang_up(post.token)
                if now >= post.give_up:
                    self._finish(post, Unreachable(f"the broker did not confirm {post.subject}"))
                elif self._bus.connected:
                    self._send(post)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything is answered; False when `timeout_s` ended first."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.unanswered:
                    await self._bus.flush(timeout_s)
                    await asyncio.sleep(0.005)
        except (TimeoutError, Unreachable):
            return False
        return True

    def close(self) -> None:
        """Say nothing any more. What is unanswered stays so, and its answers go nowhere."""
        self._closed = True
        self._bus.no_longer(self.retry_now)
        for post in self._open:
            self._bus.hang_up(post.token)
        self._open.clear()
        self._queue.clear()
        self._row.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
