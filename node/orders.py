"""What others ask of the node: the coordinator's commands on ``node.<id>.<verb>``, fenced by its term."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from node.adviser import Adviser
from node.clusters import Clusters
from node.context import Context
from node.core.attempts import Attempt
from node.core.desk import Desk
from node.core.endings import CANCELLED, DROPPED
from node.executor import Executor
from node.recorder import Recorder
from node.sleeper import Sleeper
from node.transports import Transports
from schemas import subjects
from schemas.bus import Subscription
from schemas.cluster import Membership
from schemas.codec import Decoder, encode
from schemas.decision import Poll
from schemas.errors import BadInput
from schemas.logs import fields
from schemas.membership import NodeAnswer, NodeCommand

log = logging.getLogger("fog.node.orders")

_command: Decoder[NodeCommand] = Decoder(NodeCommand)
_DECODERS: dict[str, Decoder[Any]] = {
    "cluster": Decoder(Membership),
    "lead": Decoder(Poll),
}  # others take a `NodeCommand`
DRAINING = "the node is draining"


class Orders:
    """Carries out commands. `beat(full)` sends a heartbeat now; `on_term` hears every command's term."""

    def __init__(
        self,
        context: Context,
        desk: Desk,
        executor: Executor,
        recorder: Recorder,
        adviser: Adviser,
        beat: Callable[[bool], None],
        on_term: Callable[[int], None],
        clusters: Clusters,
        sleeper: Sleeper,
        transports: Transports,
    ) -> None:
        self._sleeper, self._transports = sleeper, transports
        self._context, self._desk, self._executor, self._recorder = context, desk, executor, recorder
        self._adviser, self._beat, self._on_term, self._clusters = adviser, beat, on_term, clusters
        self._subscription: Subscription | None = None
        self._drain: asyncio.TimerHandle | None = None
        self.on_assignment: Callable[[bytes], None] | None = None  # what rollouts tell this device; raises BadInput
        self._verbs: dict[str, Callable[[Any], NodeAnswer]] = {
            "probe": self._probe,
            "report": self._report,
            "cancel": self._cancel,
            "drain": self._start_drain,
            "resume": self._resume,
            "giveback": self._give_back,
            "sleep": self._sleep,
            "wake": self._wake,
            "cluster": lambda said: self._unless(self._clusters.told(said)),
            "lead": lambda poll: self._unless(self._clusters.lead(poll)),
            "advise": self._advise,
            "policy": self._policy,
        }

    def also(self, verb: str, do: Callable[[NodeCommand], NodeAnswer]) -> None:
        """Another part of the daemon answers this verb."""
        self._verbs[verb] = do

    async def start(self) -> None:
        """Listen."""
        subject = subjects.command(self._context.node, "*")
        self._subscription = await self._context.bus.subscribe(subject, self._on_message)

    def _on_message(self, subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        verb = subjects.tail(subject, 1)[-1]
        try:
            if verb == "app" and self.on_assignment is not None:
                self.on_assignment(data)  # fenced by its order, not by the term
                return
            answer = self._carry_out(verb, data)
        except BadInput as error:
            self._context.note_bad(f"command {verb:.40}", error)
            answer = self._answer(ok=False, error=error.message)
        if reply:
            self._context.bus.publish(reply, encode(answer))

    def _carry_out(self, verb: str, data: bytes) -> NodeAnswer:
        decode, do = _DECODERS.get(verb, _command), self._verbs.get(verb)
        if do is None:
            raise BadInput("verb", f"{verb!r:.60} is none of {', '.join(self._verbs)}")
        command = decode(data)
        context = self._context
        if command.term < context.term:
            return self._answer(ok=False, error=f"term {command.term} is older than {context.term}, seen here")
        context.term = command.term
        self._on_term(command.term)
        return do(command)

    def _answer(self, ok: bool = True, error: str = "", tasks: tuple[str, ...] = ()) -> NodeAnswer:
        return NodeAnswer(self._context.node, self._context.boot, ok, error, tasks)

    def _unless(self, error: str) -> NodeAnswer:
        return self._answer(ok=not error, error=error)

    def _probe(self, _command: NodeCommand) -> NodeAnswer:
        return self._answer()

    def _report(self, _command: NodeCommand) -> NodeAnswer:
        """A full heartbeat now; the answer tells the latest bad messages in `error`."""
        self._beat(True)
        return self._answer(error="; ".join(self._context.bad))

    def _cancel(self, command: NodeCommand) -> NodeAnswer:
        """Answered at once: from now on this node publishes no end of these. `tasks`: those that were here."""
        upto = dict(zip(command.tasks, command.placements, strict=False))
        wanted = {command.task, *command.tasks} - {""}
        if not wanted:
            raise BadInput("task", "a cancel names none")
        meant = [task for task in wanted if task not in upto or not self._newer(task, upto[task])]
        return self._answer(tasks=tuple(task for task in meant if self.stop(task, CANCELLED)))

    def _newer(self, task: str, placement: int) -> bool:
        held = self._desk.held.get(task)
        return held is not None and held.placement > placement

    def stop(self, task: str, why: str) -> bool:
        """End what is held of the task: at once when it waits, within a second when it runs. False: nothing is held."""
        attempt = self._desk.held.get(task)
        if attempt is None:
            return False
        if self._executor.stop(task, why):
            return True
        self._end_waiting(attempt, why)
        return True

    def drop(self, task: str, placement: int) -> None:
        """The coordinator does not count this placement as ours; a newer one that has come meanwhile stays."""
        held = self._desk.held.get(task)
        if held is not None and held.placement == placement:
            log.warning("dropping what the coordinator does not count as ours", extra=fields(task=task))
            self.stop(task, DROPPED)

    def _end_waiting(self, attempt: Attempt, why: str) -> None:
        if why == CANCELLED:
            self._recorder.cancelled(attempt)
        elif why == DROPPED:
            self._recorder.dropped(attempt)
        else:
            self._recorder.returned(attempt, why, began=False)

    def _start_drain(self, command: NodeCommand) -> NodeAnswer:
        """Hand back what waits now, and what still runs after `deadline_s`."""
        why = command.reason or DRAINING
        self.close_to(why)
        loop = asyncio.get_running_loop()
        if self._drain is not None:
            self._drain.cancel()
        self._drain = loop.call_later(max(0.0, command.deadline_s), self.stop_all, why)
        self._beat(False)
        return self._answer(tasks=tuple(attempt.task.id for attempt in self._desk.held.values()))

    def _advise(self, _command: NodeCommand) -> NodeAnswer:
        """What this device should do by its readings of now."""
        self._adviser.look()
        return replace(self._answer(), advice=self._adviser.advice, outbox=self._transports.report())

    def _policy(self, command: NodeCommand) -> NodeAnswer:
        """An operator's policy, in force from now on and kept; the answer tells the advice that follows."""
        try:
            self._adviser.set_policy(command.policy)
        except OSError as error:
            return self._answer(ok=False, error=f"the policy cannot be kept: {error.strerror or error}")
        return replace(self._answer(), advice=self._adviser.advice)

    def close_to(self, why: str) -> None:
        """Take no more work, and hand back what waits."""
        self._context.closed_to = why
        self._recorder.hand_back(why)

    def stop_all(self, why: str) -> None:
        """Hand back everything: what runs is stopped, and what stood behind it waits again, for nothing."""
        self._executor.stop_all(why)
        self._recorder.hand_back(why)

    def _resume(self, _command: NodeCommand) -> NodeAnswer:
        """Take work again."""
        self.end_drain()
        self._beat(False)
        return self._answer()

    def end_drain(self) -> None:
        """Back in service, unless the daemon is going down."""
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        if not self._context.leaving:
            self._context.closed_to = ""

    def _sleep(self, command: NodeCommand) -> NodeAnswer:
        """Announce a sleep of `for_s`. `tasks` of the answer are those that go on."""
        self._sleeper.sleep(command.for_s)
        return self._answer(tasks=tuple(attempt.task.id for attempt in self._desk.held.values()))

    def _wake(self, command: NodeCommand) -> NodeAnswer:
        """Take work again."""
        self._sleeper.wake(command.reason or "told to")
        return self._answer()

    def _give_back(self, command: NodeCommand) -> NodeAnswer:
        """Hand back those of the named tasks that wait; `tasks` of the answer are they."""
        wanted = {command.task, *command.tasks}
        back = [attempt for attempt in self._desk.waiting() if attempt.task.id in wanted]
        for attempt in back:
            self._recorder.returned(attempt, command.reason or "asked back", began=False)
        return self._answer(tasks=tuple(attempt.task.id for attempt in back))
