"""Actions become messages. Nothing here decides; what an answer means is for the core, which gets it as an event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from coordinator.bodies import Bodies
from coordinator.concluder import Concluder
from coordinator.core import actions as act
from coordinator.core import tune
from coordinator.core.events import (
    CommandEnded,
    Event,
    LettersAsked,
    ProbeEnded,
    ResultsAsked,
    Source,
)
from coordinator.dead import DeadLetters, place_of
from coordinator.fence import Fence
from coordinator.fenced import AGAIN_S, Fenced
from coordinator.inbound import Inbound
from coordinator.placer import Placer
from coordinator.registrar import Registrar
from coordinator.remover import Remover
from coordinator.splits import Splitter
from schemas import jetstream, limits, streams, subjects
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, FogError, NoResponders, Unreachable
from schemas.eventlog import EventLog
from schemas.logs import fields
from schemas.membership import NodeAnswer, NodeCommand
from schemas.pull import ack
from schemas.store import Store
from schemas.task import ResultHead

log = logging.getLogger("fog.coordinator")

COMMAND_S = 2.0
ASKS_MAX = 2  # batches of results that are read at a time, each in pages of `jetstream.BATCH_BYTES`

_answer = Decoder(NodeAnswer)


class Outbound:
    """Does what the core wants, in order. `hand_on` takes the events that come back, `may` says whether the lease is valid.

    One for each term of a coordinator: after `stop` nothing is said any more.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store,
        bodies: Bodies,
        events: EventLog,
        inbound: Inbound,
        registrar: Registrar,
        hand_on: Callable[[Event], None],
        wake_at: Callable[[float], None],
        term: int,
        may: Callable[[], bool],
    ) -> None:
        self._bus, self._store, self._bodies, self._events = bus, store, bodies, events
        self._inbound, self._registrar = inbound, registrar
        self._splitter = Splitter(bus, store)
        self._hand_on, self._wake_at, self._term, self._may = hand_on, wake_at, term, may
        self._remover = Remover(bus, may)
        self.fence = Fence(bus, store, term, may)
        self.letters_fence = Fence(bus, store, term, may, streams.DEAD)
        self.placer = Placer(bus, store, bodies, hand_on, term, self._spawn)
        letters = DeadLetters(Fenced(store, self.letters_fence, self._spawn), self._body)
        results = Fenced(store, self.fence, self._spawn)
        self._concluder = Concluder(results, letters.keep, hand_on, self._remove, self._spawn)
        self.refuse = self._concluder.refuse
        self._asking = asyncio.Semaphore(ASKS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._now = 0.0
        self._do: dict[type, Callable[[Any], None]] = {
            act.Place: self.placer.place,
            act.Split: lambda a: self._spawn(self._split(a)),
            act.Remove: lambda a: self._remove(a.source),
            act.Conclude: self._concluder.conclude,
            act.AskResults: lambda a: self._spawn(self._ask_results(a)),
            act.AskLetters: lambda a: self._spawn(self._ask_letters(a)),
            act.DropLetter: lambda a: self._spawn(self._drop_letter(a)),
            act.Forget: lambda a: self._bodies.drop(a.task),
            act.Emit: self._emit,
            act.Probe: lambda a: self._spawn(self._probe(a)),
            act.Command: lambda a: self._spawn(self._command(a)),
            act.StoreNode: lambda a: self._spawn(self._registrar.store(a.record, a.revision, a.reply)),
            act.DropNode: lambda a: self._spawn(self._registrar.drop(a.node, a.revision)),
            act.Answer: lambda a: self._registrar.answer(a.reply, a.registered),
            act.Renew: lambda a: self._bus.publish(a.reply, encode(a.renewed)),
            act.Log: _log,
            act.WakeAt: lambda a: self._wake_at(a.at),
        }

    def do(self, wanted: list[act.Action], now: float) -> None:
        """Carry out a turn's actions. One that cannot be done is logged, and the rest is done all the same."""
        self._now = now
        if self._stopped:
            return
        do = self._do
        for action in wanted:
            try:
                do[type(action)](action)
            except Exception:
                log.exception("an action failed action=%.300r", action)

    def _emit(self, event: act.Emit) -> None:
        self._events.emit(event.kind, event.about, event.key, event.data, event.at or self._now)

    def stop(self) -> None:
        """Drop what waits for answers: this term is over."""
        self._stopped = True
        self.placer.stop()
        self._remover.stop()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._stopped:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("an action failed", exc_info=task.exception())

    async def _body(self, task: str, source: Source) -> bytes | None:
        """The submitted message of a task that lies at `source`; None when it is gone."""
        return self._bodies.get(task) or await self.placer.read_body(source)

    async def _split(self, split: act.Split) -> None:
        async def read() -> bytes:
            body = await self._body(split.task, split.source)
            if body is None:
                raise BadInput("task", "its message is gone")
            return body

        self._hand_on(await self._splitter.split(split, read))

    def _remove(self, source: Source) -> None:
        if source.stream == "outcomes":
            self._inbound.outcome_over(source.seq)
        if source.reply:
            ack(self._bus, source.reply)
        else:
            self._remover.add(source)

    # Results

    async def _ask_results(self, ask: act.AskResults) -> None:
        found: dict[str, ResultHead | None] = {task: None for _, task in ask.tasks}
        wanted = [subjects.result(submitter, task) for submitter, task in ask.tasks]
        try:
            async with asyncio.timeout(tune.ASK_AGAIN_S), self._asking:  # then the core asks again
                messages = await self._stored_results(wanted)
        except TimeoutError:
            return
        for message in messages:
            head = self._inbound.result(message)
            if head is not None:
                found[head.task] = head
        self._hand_on(ResultsAsked(found, ask.asked_at))

    async def _stored_results(self, wanted: list[str]) -> list[jetstream.StoredMessage]:
        wait_s = AGAIN_S[0]
        while True:
            try:
                return await jetstream.multi_last(self._bus, streams.RESULTS, wanted)
            except FogError as error:
                log.warning("stored results could not be read, trying again", extra=fields(error=error.message))
                await asyncio.sleep(wait_s)
                wait_s = min(AGAIN_S[1], 2 * wait_s)

    async def _ask_letters(self, ask: act.AskLetters) -> None:
        async with self._asking:
            messages = await self._stored_results([subjects.result(submitter, task) for submitter, task in ask.tasks])
        heads = [self._inbound.result(message) for message in messages]
        self._hand_on(LettersAsked(tuple(head for head in heads if head is not None)))

    async def _drop_letter(self, drop: act.DropLetter) -> None:
        place = await place_of(self._bus, drop.submitter, drop.task)
        if place is not None:
            self._remove(place)

    # Nodes

    async def _probe(self, probe: act.Probe) -> None:
        try:
            answer = await self._request(probe.node, "probe", NodeCommand(self._term), limits.PROBE_S)
        except NoResponders:
            self._hand_on(ProbeEnded(probe.node, None, no_responders=True))
        except FogError:
            self._hand_on(ProbeEnded(probe.node, None))
        else:
            self._hand_on(ProbeEnded(probe.node, answer))

    async def _command(self, command: act.Command) -> None:
        said = NodeCommand(
            self._term,
            command.task,
            command.tasks,
            command.deadline_s,
            command.reason,
            command.for_s,
            placements=command.placements,
        )
        answer: NodeAnswer | None = None
        try:
            answer = await self._request(command.node, command.verb, said, COMMAND_S)
        except FogError as error:
            log.info("no answer to a command", extra=fields(node=command.node, verb=command.verb, error=error.message))
        self._hand_on(CommandEnded(command.node, command.verb, command.task, answer))

    async def _request(self, node: str, verb: str, command: NodeCommand, timeout_s: float) -> NodeAnswer:
        if not self._may():
            raise Unreachable("the lease is over: nothing is said to nodes")
        reply = await self._bus.request(subjects.command(node, verb), encode(command), timeout_s)
        try:
            return _answer(reply)
        except BadInput as error:
            self._inbound.bad.add("answer", subjects.command(node, verb), str(error))
            raise Unreachable(f"{node} answered what cannot be read") from None


def _log(line: act.Log) -> None:
    level = logging.getLevelNamesMapping().get(line.level.upper(), logging.INFO)
    log.log(level, line.text, extra=fields(**line.fields))
