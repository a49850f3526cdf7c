"""What the node has to tell of its attempts' ends, until the broker has it: through cut links and new boots of the daemon.

What is not to be held for a batch (`core/transport.py`) is posted at once, and as a rule confirmed within milliseconds: the
disk is not touched then. A *letter* is kept on disk where that is not so: at once when it is held, or the link is known to be
down, after `KEEP_AFTER_S` without an answer when it is not, and when the daemon goes down. So a daemon that is killed loses of
what it has finished at most the last second, and of that no task: its WORK message is acked only after the broker's answer,
and is delivered again.

Letters are delivered when the link is back, oldest first, `AT_ONCE` at a time, also those of a former boot: first the large
outputs that they refer to, then the message. A letter goes when the broker has it or will never take it. On one subject the
order is kept: a letter waits until the broker has those before it. What ends meanwhile on other subjects does not wait. What is
kept on disk is not held in memory besides.

At the bound (`limits.OUTBOX_LETTERS`, `OUTBOX_BYTES`, or a disk that takes no more) nothing is dropped: the node takes and
starts no more work until there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from math import inf

from node.beside import Beside
from node.context import Context
from node.core.attempts import Attempt
from node.core.desk import Desk
from node.core.endings import Ending
from node.core.letters import OUTCOME, RESULT, Kind, Letter, attempt_in, fitted_outcome, is_late, late, outcome_instead
from node.core.transport import Message
from node.keeper import Item, Keeper
from node.kept import Folder
from node.queues import Queues
from node.transports import Transports
from schemas import subjects
from schemas.errors import BadInput, FogError, StoreRefused, Unreachable
from schemas.logs import fields
from schemas.objects import Objects
from schemas.store import Ack
from schemas.task import OutcomeKind
from schemas.transport import What

log = logging.getLogger("fog.node.outbox")

KEEP_AFTER_S = 1.0  # what the broker has not confirmed within this is written to the disk
LOOK_S = 0.25  # between two looks for such
AT_ONCE = 16  # letters and large outputs under way at a time
AGAIN_S = (0.5, 10.0)  # until an output that did not go through is sent again: the first wait and the longest
REFUSED_AGAIN_S = 5.0  # until what the broker refused for now (a full stream) is tried again
TOO_LARGE = 10054  # the err_code of a message that is larger than its stream allows
HEADERS_ROOM = 512  # bytes of a message's limit that its headers may take
WHAT = {RESULT: What.RESULT, OUTCOME: What.OUTCOME}


class Outbox:
    """`on_full(full)` hears when the bound is reached, and when there is room again."""

    def __init__(
        self,
        context: Context,
        desk: Desk,
        objects: Objects,
        folder: Folder,
        transports: Transports,
        on_full: Callable[[bool], None],
    ) -> None:
        self._context, self._desk, self._objects, self._on_full = context, desk, objects, on_full
        self._transports = transports
        self._keeper = Keeper(folder, self._kept, self._tell)
        self._items: dict[int, Item] = {}  # by number, so the oldest first
        self._behind = Queues()
        self._waiting: list[int] = []  # a heap of those that are to be sent when the link allows it
        self._turns = 0
        self._last = 0
        self._full = self._closed = False
        self._beside = Beside(log, "a letter could not be delivered")
        self._loop = asyncio.get_running_loop()
        self._looking: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()

    async def open(self) -> None:
        """Take up what a former boot left. Call it before the node registers: the fleet is told of these attempts."""
        for number, letter, size in await self._keeper.read_all():
            item = Item(number, attempt_in(letter), letter.kind, self._loop.time(), letter.made_at)
            item.refs, item.size, item.kept = letter.blobs, size, True
            self._desk.restore(item.attempt)
            self._items[number] = item
            self._behind.join(item)
            self._last = number
            self._keeper.hold(item)
            self._wait(item)
        if self._items:
            log.info("results wait to be delivered", extra=fields(letters=len(self._items), bytes=self._keeper.bytes))
        self._tell()

    # Posting.

    def result(self, attempt: Attempt, message: bytes, blobs: dict[str, bytes] | None = None) -> None:
        """A result, and the bytes of the objects that it refers to. The attempt is settled once the broker has it."""
        attempt.final = True
        self._post(attempt, RESULT, message, blobs or {})

    def outcome(self, attempt: Attempt, message: bytes) -> None:
        """An outcome. The attempt is settled once the broker has it."""
        attempt.final = False
        self._post(attempt, OUTCOME, message, {})

    def _post(self, attempt: Attempt, kind: Kind, message: bytes, blobs: dict[str, bytes]) -> Item:
        self._last += 1
        item = Item(self._last, attempt, kind, self._loop.time(), time.time())
        item.data, item.blobs, item.refs = message, blobs, tuple(blobs)
        self._items[item.number] = item
        first = self._behind.join(item)
        connected = self._context.bus.connected
        hold_s = self._transports.route(self._message(item, message), attempt.task.id).hold_s
        if hold_s:
            self._transports.hold(What.RESULT, partial(self._wait, item), hold_s)
        elif connected and first and not blobs:
            self._send(item, message)
        else:
            self._wait(item)
        if hold_s or not connected or self._closed:
            self._keep(item)
        elif self._looking is None:
            self._looking = self._loop.call_later(LOOK_S, self._look)
        return item

    def _message(self, item: Item, data: bytes) -> Message:
        """What the decision about its way needs to know."""
        task, size = item.attempt.task, len(data)
        if item.blobs:
            size += sum(map(len, item.blobs.values()))
        what = WHAT[item.kind]
        if item.kind is OUTCOME:
            return Message(what, size, task.priority)
        by = item.attempt.work.result_by
        return Message(what, size, task.priority, task.exclusive, by - time.time() if by > 0 else inf)

    # Keeping.

    def _keep(self, item: Item) -> None:
        if item.number in self._items:  # it may have been answered already
            self._keeper.keep(item)

    def _look(self) -> None:
        """Keep what is unconfirmed for too long. The oldest is first, so a look costs only what is due."""
        now, young = self._loop.time(), False
        for item in list(self._items.values()):
            if now - item.at < KEEP_AFTER_S:
                young = True
                break
            if not item.kept and self._keeper.takes:
                self._keeper.keep(item)
        again = young or self._full or any(not item.kept for item in self._items.values())
        self._looking = self._loop.call_later(LOOK_S, self._look) if again else None
        self._tell()

    def _kept(self, item: Item) -> None:
        """It is on the disk: then it need not be in the memory of the store while the link is down."""
        if item.post is not None and not self._context.bus.connected:
            self._call_back(item)

    def _tell(self) -> None:
        """Let the daemon know how many wait since when, and whether more can be taken."""
        keeper, context = self._keeper, self._context
        context.outbox, context.outbox_since, context.outbox_spoilt = keeper.letters, keeper.since, keeper.spoilt
        context.outbox_bytes = keeper.bytes
        if keeper.full is not self._full:
            self._full = keeper.full
            context.full = keeper.why_full
            log.warning(
                context.full or "the outbox has room again", extra=fields(letters=keeper.letters, bytes=keeper.bytes)
            )
            self._on_full(self._full)
            self._transports.release("the outbox is full")
            if self._looking is None:
                self._looking = self._loop.call_later(LOOK_S, self._look)

    async def keep_all(self) -> None:
        """The daemon goes down: write what the broker has not confirmed, and return when it is on the disk."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        for item in list(self._items.values()):
            self._keeper.keep(item)
        await self._keeper.written()
        if self._items:
            log.warning("goes down with results to deliver", extra=fields(letters=len(self._items)))

    async def until_empty(self, timeout_s: float) -> bool:
        """Wait until the broker has everything, also what is held; False when the link is down, or `timeout_s` ended first."""
        self._transports.release("nothing may stay")
        if self._items and self._context.bus.connected:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._emptied.wait()
        return not self._items

    def close(self) -> None:
        """Deliver no more."""
        if self._looking is not None:
            self._looking.cancel()
        self._beside.cancel()
        self._keeper.close()

    # Delivering.

    def link_lost(self) -> None:
        """What is on the disk waits there."""
        for item in self._items.values():
            if item.kept and item.post is not None:
                self._call_back(item)

    def _call_back(self, item: Item) -> None:
        if item.post is not None:
            self._context.store.withdraw(item.post)
            item.post = None
        self._end_turn(item)
        self._wait(item)

    def link_back(self) -> None:
        """Deliver what waits."""
        self._transports.release("the link is back")
        self._pump()

    def _wait(self, item: Item) -> None:
        if item.number in self._items:
            heapq.heappush(self._waiting, item.number)
            self._loop.call_soon(self._pump)

    def _end_turn(self, item: Item) -> None:
        if item.turn:
            item.turn = False
            self._turns -= 1

    def _pump(self) -> None:
        while self._waiting and self._turns < AT_ONCE and self._context.bus.connected and not self._closed:
            item = self._items.get(heapq.heappop(self._waiting))
            if item is not None and not item.turn and item.post is None and self._behind.is_first(item):
                item.turn = True
                self._turns += 1
                self._beside.begin(self._deliver(item))

    async def _deliver(self, item: Item) -> None:
        """One letter: read it if it is on the disk, judge it anew, send its large outputs, then itself."""
        letter = await self._letter(item)
        if letter is None:
            return
        if item.kind is RESULT and is_late(letter.result_by, time.time()):
            self._tell_instead(item, letter, late())
            return
        try:
            for ref in letter.blobs:
                await self._objects.put(await self._keeper.blob(item, ref))
        except Unreachable as error:
            log.warning("cannot store a result yet", extra=fields(task=item.attempt.task.id, error=error.message))
            item.again_s = min(AGAIN_S[1], max(AGAIN_S[0], 2 * item.again_s))
            self._again(item, random.uniform(0.5, 1.0) * item.again_s)
        except (OSError, BadInput) as error:
            self._set_aside(item, error)
        except Exception as error:
            said = error.message if isinstance(error, FogError) else f"{type(error).__name__}: {error}"
            why = f"its result could not be stored: {said}"
            self._tell_instead(item, letter, Ending(OutcomeKind.FAILED, "failed", why, True))
        else:
            self._send(item, bytes(letter.message))

    async def _letter(self, item: Item) -> Letter | None:
        try:
            return await self._keeper.letter(item)
        except (OSError, BadInput) as error:
            self._set_aside(item, error)
            return None

    def _send(self, item: Item, message: bytes) -> None:
        task, context = item.attempt.task, self._context
        if item.kind is RESULT:
            # No id: FOG_RESULTS refuses a second message on the subject, whoever says it.
            subject, msg_id = subjects.result(task.submitter, task.id), ""
        else:
            subject, msg_id = subjects.outcome(context.node, task.id), f"{task.id}.{item.attempt.placement}.outcome"
        item.post = context.store.post(subject, message, msg_id, self._answered, about=item)

    def _answered(self, item: Item, answer: Ack | FogError) -> None:
        item.post = None
        result, task = item.kind is RESULT, item.attempt.task.id
        if isinstance(answer, Ack) or (result and isinstance(answer, StoreRefused) and answer.exists):
            self._over(item)
            reply = self._desk.settle(item.attempt, final=result)
            if reply:
                self._context.ack(reply)
        elif isinstance(answer, Unreachable):
            self._end_turn(item)  # the daemon goes down: it is kept
        elif isinstance(answer, StoreRefused) and answer.code != TOO_LARGE:
            log.error("the broker refused it, trying again", extra=fields(task=task, error=answer.message))
            self._again(item, REFUSED_AGAIN_S)
        elif result:
            self._beside.begin(self._refused(item, f"its result was refused: {answer.message}"))
        else:  # it can never be told: the coordinator will miss the attempt, and move the task
            log.error("an outcome can never be stored", extra=fields(task=task, error=answer.message))
            self._over(item)
            self._desk.forget(item.attempt)

    def _again(self, item: Item, wait_s: float) -> None:
        self._end_turn(item)
        self._loop.call_later(wait_s, self._wait, item)

    # Ends.

    async def _refused(self, item: Item, why: str) -> None:
        letter = await self._letter(item)
        if letter is not None:
            self._tell_instead(item, letter, Ending(OutcomeKind.FAILED, "failed", why, True))

    def _tell_instead(self, item: Item, letter: Letter, ending: Ending) -> None:
        """Its result will not be recorded by us. An outcome takes its place: on the disk, too, before the result goes there."""
        context, attempt = self._context, item.attempt
        outcome = outcome_instead(letter, attempt, ending, context.node, max(1, context.boot), time.time())
        attempt.final = False
        other = self._post(attempt, OUTCOME, fitted_outcome(outcome, context.bus.max_payload - HEADERS_ROOM), {})
        if item.kept:
            self._keep(other)
        self._over(item)

    def _set_aside(self, item: Item, why: Exception) -> None:
        """Nobody can read it. The attempt is held no longer, so the coordinator will miss it, and move the task."""
        self._keeper.set_aside(item, why)
        self._over(item)
        self._desk.forget(item.attempt)

    def _over(self, item: Item) -> None:
        """The broker has it, or nobody ever will."""
        self._items.pop(item.number, None)
        self._end_turn(item)
        self._keeper.drop(item)
        if (after := self._behind.leave(item)) is not None:
            self._wait(after)
        if self._waiting:
            self._pump()
        if not self._items:
            self._emptied.set()
