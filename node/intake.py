"""Taking in WORK messages: decoding them wholly, judging them at the desk, and sending each on its way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from node.blobs import Blobs, inputs_of
from node.context import Context
from node.core.attempts import FETCHING, NEW, REBASED, USED_UP, Attempt, attempt_of
from node.core.desk import Desk
from node.executor import Executor
from node.heed import no_room
from node.recorder import Recorder
from schemas import subjects
from schemas.codec import Decoder
from schemas.errors import BadInput, FogError, Unreachable
from schemas.jetstream import create_consumer, delete_consumer
from schemas.limits import NODE_QUEUE_MAX, WORK_ACK_WAIT_S, WORK_PROGRESS_S
from schemas.logs import fields
from schemas.pull import Message, Puller, progress
from schemas.streams import NODE_CONSUMER, WORK
from schemas.task import Blob, CommandRun, FunctionRun, MapRun, Task, TaskHead, Work

log = logging.getLogger("fog.node.intake")

BATCH = 128  # messages asked for at a time
FETCH_TRIES, FETCH_AGAIN_S = 5, 1.0  # for inputs while the broker does not answer; the wait doubles
SAID_AGAIN_S = 0.8 * WORK_PROGRESS_S  # that work is held is said with a heartbeat, if it was not for so long;
UNSAID_S = 2.0 * WORK_PROGRESS_S  # without one, if it was not for so long
INACTIVE_S = 3600.0  # the broker forgets this node's consumer after this, not its work

_work: Decoder[Work] = Decoder(Work)
_task: Decoder[Task] = Decoder(Task)
_head: Decoder[TaskHead] = Decoder(TaskHead)


class Intake:
    """The node's end of FOG_WORK. `on_exclusive` hears when something came that needs a lease; while `patient()`, the radio is
    woken as rarely as can be."""

    def __init__(
        self,
        context: Context,
        desk: Desk,
        executor: Executor,
        recorder: Recorder,
        blobs: Blobs,
        on_exclusive: Callable[[], None],
        patient: Callable[[], bool] = lambda: False,
    ) -> None:
        self._context, self._desk, self._executor = context, desk, executor
        self._on_exclusive = on_exclusive
        self._recorder, self._blobs = recorder, blobs
        self._fetching: set[asyncio.Task[None]] = set()
        self._functions = frozenset(offer.name for offer in context.offer.functions)
        self._prefix = subjects.work(context.node, "")
        name = NODE_CONSUMER + context.node
        self._consumer = name
        self._puller = Puller(
            context.bus,
            WORK,
            name,
            self.on_message,
            batch=BATCH,
            on_missing=self._make_consumer,
            room=self._room,
            patient=patient,
            on_elected=context.ack_again,
        )
        self._alive: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._said_at = self._loop.time()

    # The consumer.

    async def start(self) -> None:
        """Make the consumer when it is missing, and pull.

        Again after `link_back`: what was on its way when the link broke counts as delivered, so the consumer is made anew,
        which brings all that is un-acked at once; what is held here only takes its new reply.
        """
        async with self._starting:  # the link may have broken while the first was under way
            if self._alive is None:
                await self._make_consumer()
                await self._puller.start()
                self._alive = asyncio.create_task(self._say_alive())
            else:
                with contextlib.suppress(FogError):  # one that cannot be deleted redelivers in its own time
                    await delete_consumer(self._context.bus, WORK, self._consumer)
                    await self._make_consumer()
                    self._puller.restart()  # of what was asked of the old one meanwhile, the broker may say nothing
            self._puller.resume()

    def link_back(self) -> None:
        """The link is up again: nothing is asked of the old consumer. `start` follows."""
        self._puller.pause()

    async def _make_consumer(self) -> None:
        await create_consumer(
            self._context.bus,
            WORK,
            self._consumer,
            filter_subject=subjects.work(self._context.node, ">"),
            ack_wait_s=WORK_ACK_WAIT_S,
            max_ack_pending=2 * NODE_QUEUE_MAX,
            memory=True,
            inactive_s=INACTIVE_S,
        )

    async def _say_alive(self) -> None:
        """By itself only where no heartbeat went for long."""
        while True:
            await asyncio.sleep(max(WORK_PROGRESS_S, self._said_at + UNSAID_S - self._loop.time()))
            if self._loop.time() - self._said_at >= UNSAID_S:
                self._progress()

    def on_beat(self) -> None:
        """A heartbeat goes out, so the radio is awake: say with it that what is held here is worked on."""
        if self._alive is not None and self._loop.time() - self._said_at >= SAID_AGAIN_S:
            self._progress()

    def _progress(self) -> None:
        self._said_at = self._loop.time()
        for attempt in self._desk.everything():
            if attempt.reply:  # what a former boot ended has none before it comes again
                progress(self._context.bus, attempt.reply)

    def _room(self) -> int:
        return 0 if self._context.full or self._context.sleep else 2 * BATCH

    def room_again(self) -> None:
        """Whether more may be taken has changed."""
        if self._alive is not None:
            self._puller.ask()

    async def stop(self) -> None:
        """Pull no more."""
        if self._alive is not None:
            self._alive.cancel()
            await self._puller.stop()

    # A message.

    def on_message(self, message: Message) -> None:
        """Queue it, adopt it, or end it at once. Never raises for what it contains."""
        try:
            work = _work(message.data)
            task_id = self._task_id(message)
            seq = message.seq
        except (BadInput, ValueError, IndexError) as error:
            self._bad(message, error)
            return
        if seq > self._context.seen_seq:
            self._context.seen_seq = seq
        try:
            task = _task(work.task)
        except BadInput as error:
            self._unreadable(message, work, seq, error)
            return
        if task.id != task_id:
            self._bad(message, BadInput("task.id", f"{task.id} came on the subject of {task_id:.80}"))
            return
        self._take(attempt_of(task, work, seq, message.reply))

    def _task_id(self, message: Message) -> str:
        if not message.subject.startswith(self._prefix):
            raise BadInput("subject", "not one of this node's")
        return message.subject[len(self._prefix) :]

    def _bad(self, message: Message, error: Exception) -> None:
        """Nothing can be done with it: it leaves the queue."""
        problem = error if isinstance(error, BadInput) else BadInput("reply", "not a JetStream delivery")
        log.warning("bad work message", extra=fields(subject=message.subject, error=problem.message))
        self._context.note_bad("work", problem)
        if message.reply:
            message.term(self._context.bus, problem.message.replace("\r", " ").replace("\n", " "))

    def _unreadable(self, message: Message, work: Work, seq: int, error: BadInput) -> None:
        """A task whose head can be read, but not all of it: it fails, by the same rules as any other."""
        try:
            head = _head(work.task)
        except BadInput:
            self._bad(message, error)
            return
        self._context.note_bad("work", error)
        run = FunctionRun("unreadable")
        task = Task(head.id, head.submitter, run, priority=head.priority, needs=head.needs, timeout_s=head.timeout_s)
        attempt = attempt_of(task, work, seq, message.reply)
        if self._judged(attempt):
            self._recorder.unfit(attempt, f"this task cannot be run: {error.message}")

    def _judged(self, attempt: Attempt) -> bool:
        """Show it to the desk; True when it is new here."""
        taken, reply = self._desk.take(attempt)
        if reply:
            self._context.ack(reply)
        if taken is REBASED:
            held = self._desk.held[attempt.task.id]
            if held.started_at:
                self._recorder.started(held)
        elif taken is USED_UP:
            self._recorder.returned(attempt, "its number was used before", began=False)
        return taken is NEW

    def _take(self, attempt: Attempt) -> None:
        if not self._judged(attempt):
            return
        if problem := self._problem(attempt.task):
            self._recorder.refused(attempt, problem)
        elif why := self._context.refuses or no_room(self._desk, attempt.task.needs.memory_mb):
            self._recorder.returned(attempt, why, began=False)
        elif blobs := inputs_of(attempt.task):
            if all(blob.data is not None for blob in blobs):
                attempt.inputs = tuple(blob.data or b"" for blob in blobs)
                self._queue(attempt)
            else:
                attempt.place = FETCHING
                fetching = asyncio.create_task(self._fetch(attempt))
                self._fetching.add(fetching)
                fetching.add_done_callback(self._fetching.discard)
        else:
            self._queue(attempt)

    def _queue(self, attempt: Attempt) -> None:
        if attempt.task.exclusive:
            attempt.alone = True  # its runner ends with its lease
            self._on_exclusive()
        self._desk.queue(attempt)
        self._executor.pump()

    def _problem(self, task: Task) -> str:
        """Why this node can never run it, or "" when it can."""
        run, offer = task.run, self._context.offer
        kind = "function" if isinstance(run, FunctionRun) else "map" if isinstance(run, MapRun) else "command"
        if kind not in offer.kinds:
            hint = " (its owner can: --allow command)" if kind == "command" else ""
            return f"this node does not run {kind} tasks{hint}"
        if not isinstance(run, CommandRun) and run.name not in self._functions:
            return f"this node offers no function {run.name}"
        if not self._desk.lanes.ever_fits(task.needs.cores, task.needs.memory_mb):
            return f"it needs more than this node offers ({offer.cores:g} cores, {offer.memory_mb} MiB)"
        return ""

    async def _fetch(self, attempt: Attempt) -> None:
        blobs = inputs_of(attempt.task)
        try:
            inputs = await self._fetched(attempt, blobs)
        except Exception as error:
            said = error.message if isinstance(error, FogError) else f"{type(error).__name__}: {error}"
            if attempt.place is FETCHING:
                self._recorder.unfit(attempt, f"an input could not be fetched: {said}")
            return
        if attempt.place is not FETCHING:  # cancelled, replaced or returned meanwhile
            await self._blobs.release(blobs)
            return
        attempt.inputs = inputs
        attempt.fetched = True
        self._queue(attempt)

    async def _fetched(self, attempt: Attempt, blobs: tuple[Blob, ...]) -> tuple[bytes, ...]:
        """A broker that does not answer says nothing of the task: it is asked `FETCH_TRIES` times."""
        for tried in range(FETCH_TRIES - 1):
            try:
                return await self._blobs.fetch(blobs)
            except Unreachable:
                await asyncio.sleep(random.uniform(0.5, 1.0) * FETCH_AGAIN_S * 2**tried)
                if attempt.place is not FETCHING:
                    raise
        return await self._blobs.fetch(blobs)
