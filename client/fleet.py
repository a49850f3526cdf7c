"""`Fleet`: everything that can be done with a fleet from Python, over one connection."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import msgspec

from client import resume
from client.api import Api
from client.arguments import convert
from client.chunks import Planner
from client.clusters import Cluster, Clusters
from client.contents import blob_of, file_args
from client.dead import DeadLetters, DeadRow, Letter
from client.functions import Functions
from client.handle import Handle
from client.harvest import Harvests
from client.jobs import check_job, mark_of, new_job
from client.ledger import Ledger
from client.mapping import Ended, Job, MapItem
from client.mapping import Mapping as RunningMap
from client.rollouts import Rollouts
from client.sources import source_of
from client.submit import GIVE_UP_S, Submitter, TaskOptions, template
from client.values import failure, plain_value, value_of
from client.waiting import Waiting
from client.watch import Events, Outputs
from schemas import limits, streams, subjects
from schemas.api import Done, FunctionRow, NodeInfo, NodeRow, StatusReply, TaskInfo, TaskRow
from schemas.bus import Bus
from schemas.codec import Decoder
from schemas.device import FunctionOffer
from schemas.errors import FogError, Refused
from schemas.event import CloudEvent
from schemas.home import Home
from schemas.jetstream import get_message
from schemas.kv import Kv
from schemas.names import as_id, check_id
from schemas.objects import Objects
from schemas.policy import AdviceReply, PolicyReply
from schemas.store import Store
from schemas.task import CommandRun, FunctionRun, Result, Task

log = logging.getLogger("fog.client")

CANCEL_WAIT_S = 3.0  # at the end: for cancels that are still on their way

_decode_result: Decoder[Result] = Decoder(Result)


def local_submitter() -> str:
    """The submitter's name when none is given: the local user's."""
    try:
        return as_id(getpass.getuser(), "user")
    except (OSError, KeyError, ImportError):  # no such user in the system's tables, as in a container
        return "user"


class Fleet:
    """A connection to a fleet, made by `client.connect`. Use it inside one event loop.

    Options that every task takes (`priority`, `cores`, `timeout_s` …) are those of `client.submit.TaskOptions`. In `home` lies
    the key that signs rollouts.
    """

    def __init__(self, bus: Bus, submitter: str, home: Path | None = None) -> None:
        self.submitter = check_id("submitter", submitter)
        self._bus = bus
        self._store = Store(bus)
        self._waiting = Waiting(bus, submitter)
        self._api = Api(bus)
        self.ledger = Ledger(bus, self._api)
        self.harvest = Harvests(self._api)
        self.clusters = Clusters(self._api)
        self.rollouts = Rollouts(bus, self._store, self._api, self.submitter, Home.find(home).root)
        self._functions = Functions(self._api, bus)
        self._objects = Objects(bus)
        self._dead = DeadLetters(bus, self._store, self._objects)
        self._submit = Submitter(self._store, self._waiting, submitter)
        self._planners: dict[str, Planner] = {}
        self._maps: dict[RunningMap, None] = {}
        self._cancels: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to listen. `connect` does this."""
        await self._waiting.start()

    async def close(self) -> None:
        """Let go. Tasks that were started go on; those whose `submit` was cancelled are cancelled first."""
        for running in list(self._maps):
            await running.close()
        if self._cancels:
            await asyncio.wait(self._cancels, timeout=CANCEL_WAIT_S)
        self._functions.close()
        await self._waiting.close()
        self._store.close()
        await self._bus.close()

    def link_back(self) -> None:
        """The broker link is up again. `connect` wires this."""
        self._store.retry_now()
        self._waiting.link_back()

    # Tasks

    async def submit(self, function: str, *args: Any, **options: Unpack[TaskOptions]) -> Any:
        """Run a function on the fleet and return its value. A cancelled `submit` cancels its task.

        A `pathlib.Path` argument is the content of that file, a ``str`` for a ``bytes`` parameter a path, everything else
        a JSON value. Raises Refused (``unknown-function``), BadInput, TaskFailed (with the recorded `Result`).
        """
        task = await self._function_task(function, args, options)
        try:  # not by `_run`: each coroutine that waits, ten thousand times, is one more for the collector to look through
            result = await self._submit.post(task)
        except BaseException as error:
            self._gave_up(task.id, error)
            raise
        return plain_value(result) if result.blob is None else await value_of(result, self._objects)

    async def start(self, function: str, *args: Any, **options: Unpack[TaskOptions]) -> Handle:
        """As `submit`, but returns once the broker keeps the task."""
        return await self._start(await self._function_task(function, args, options))

    async def command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes | Path | None = None,
        **options: Unpack[TaskOptions],
    ) -> Result:
        """Run a program on a node whose owner allows it, and return how it ended, whatever its exit code.

        An exit code other than 0 is an answer, and is not retried unless the options say so; a lost node's tasks move all
        the same. Raises TaskFailed when it did not come to an exit code.
        """
        result = await self._run(await self._command_task(argv, env, stdin, options))
        if result.exit_code is None:
            raise failure(result)
        return result

    async def start_command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes | Path | None = None,
        **options: Unpack[TaskOptions],
    ) -> Handle:
        """As `command`, but returns once the broker keeps the task."""
        return await self._start(await self._command_task(argv, env, stdin, options))

    def handle(self, task: str) -> Handle:
        """A task of this submitter that was started earlier, perhaps elsewhere."""
        check_id("task", task)
        future = self._waiting.watch(task)
        self._waiting.ask(task)
        return Handle(self, task, future, Outputs(self._bus, self.submitter, task))

    async def _function_task(self, function: str, args: Sequence[Any], options: TaskOptions) -> Task:
        offer = await self._functions.offer(function, needed=not options.get("wait_for_node"))
        arguments = convert(args, offer)
        if not arguments.contents:
            return self._submit.make(
                FunctionRun(function, arguments.values), options, len(memoryview(arguments.values))
            )
        files = await file_args(arguments.contents, self._objects)
        size = len(memoryview(arguments.values)) + sum(file.blob.size for file in files)
        return self._submit.make(FunctionRun(function, arguments.values, files), options, size)

    async def _command_task(
        self, argv: Sequence[str], env: Mapping[str, str] | None, stdin: bytes | Path | None, options: TaskOptions
    ) -> Task:
        blob = None
        if stdin is not None:
            blob = await blob_of(stdin, self._objects, limits.INLINE_MAX, field="stdin")
        run = msgspec.convert({"kind": "command", "argv": list(argv), "env": dict(env or {})}, CommandRun, strict=True)
        if not options.get("retry"):
            options.setdefault("retries", 0)
        return self._submit.make(CommandRun(run.argv, run.env, blob), options, blob.size if blob else 0)

    async def _run(self, task: Task) -> Result:
        try:
            return await self._submit.post(task)
        except BaseException as error:
            self._gave_up(task.id, error)
            raise

    def _gave_up(self, task: str, error: BaseException) -> None:
        """Nobody waits for its result any more; of one that was cancelled nobody wants it."""
        self._waiting.forget(task)
        if isinstance(error, asyncio.CancelledError):
            self.cancel_soon(task)

    async def _start(self, task: Task) -> Handle:
        outputs = Outputs(self._bus, self.submitter, task.id)
        await outputs.start()
        try:
            return Handle(self, task.id, await self._submit.start(task), outputs)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self.cancel_soon(task.id)
            await outputs.close()
            raise

    async def result_value(self, result: Result) -> Any:
        """The value of a recorded result; raises TaskFailed when it has none."""
        return await value_of(result, self._objects)

    # Maps

    async def map(
        self,
        function: str,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        job: str | None = None,
        ordered: bool = True,
        on_chunk: Callable[[Ended], None] | None = None,
        **options: Unpack[TaskOptions],
    ) -> AsyncIterator[MapItem]:
        """Call `function` once for each item, over the whole fleet; yields a `MapItem` for each, in order or as they come.

        `items` may be any (async) iterable; it is read no further than needed. With a `job` id of your choice an
        interrupted map is resumed by mapping the same items again under the same id (a list of others, or with a file that
        has changed, is refused; what can be read only once is not compared), and stopping early leaves its chunks running;
        without one they are cancelled. `on_chunk` is told of each chunk that is back.
        """
        running = await self._open_map(function, items, job, on_chunk, options)
        self._maps[running] = None
        try:
            async for item in running.items(ordered):
                yield item
        finally:
            del self._maps[running]
            await running.close()
            if job is None:
                for task in running.outstanding:
                    self.cancel_soon(task)

    async def _open_map(
        self,
        function: str,
        items: Iterable[Any] | AsyncIterable[Any],
        job: str | None,
        on_chunk: Callable[[Ended], None] | None,
        options: TaskOptions,
    ) -> RunningMap:
        offer = await self._functions.offer(function, needed=not options.get("wait_for_node"))
        base = template(self.submitter, options)
        source = source_of(items)
        name = check_job(job) if job is not None else new_job()
        kind = offer.parameters[0] if offer is not None and offer.parameters else None
        mark = "" if job is None else await asyncio.to_thread(mark_of, items, kind)
        kv = Kv(self._bus, self._store, streams.JOBS, GIVE_UP_S)  # as patient as a submit
        record, there = await resume.open_job(kv, name, function, self.submitter, source.total, mark)
        known = tuple(await resume.chunks_of(self._bus, name, record, GIVE_UP_S)) if there else ()
        return RunningMap(
            Job(name, record, base, kind, known),
            source,
            submitter=self._submit,
            waiting=self._waiting,
            objects=self._objects,
            functions=self._functions,
            planner=self._planners.setdefault(function, Planner()),
            on_chunk=on_chunk,
        )

    # The fleet

    async def status(self) -> StatusReply:
        """The fleet at a glance."""
        return await self._api.status()

    async def offer(self, function: str, *, needed: bool = True) -> FunctionOffer | None:
        """How a function is called; None when no coordinator answers, or nobody offers it and that is not `needed`.

        Raises Refused (``unknown-function``), naming what is offered.
        """
        return await self._functions.offer(function, needed=needed)

    async def functions(self) -> list[FunctionRow]:
        """Everything that is offered now, by name."""
        return list((await self._api.functions()).functions)

    def cluster(self, cluster: str) -> Cluster:
        """One cluster by its id: its cache, its members, decisions."""
        return Cluster(cluster, self.clusters, self._bus)

    async def nodes(self, *, state: str = "", label: str = "") -> list[NodeRow]:
        """The nodes, by id; `label` is ``key=value``."""
        return await self._api.nodes(state=state, label=label)

    async def node(self, node: str) -> NodeInfo:
        """Everything about a node: score, signals with their sources, what it holds."""
        return await self._api.node(check_id("node", node))

    async def tasks(self, *, limit: int | None = None, **filters: str) -> list[TaskRow]:
        """Tasks without a result, most urgent first. `filters`: state, priority, submitter, node, job."""
        return await self._api.tasks(limit=limit, **filters)

    async def task(self, task: str) -> TaskInfo:
        """Everything about a task: where it is, why there or why nowhere, what its attempts said."""
        return await self._api.task(check_id("task", task))

    async def stored_result(self, task: str) -> Result | None:
        """The recorded result of any submitter's task, or None when it has none (yet, or no longer)."""
        wanted = subjects.result("*", check_id("task", task))
        message = await get_message(self._bus, streams.RESULTS, next_by=wanted)
        return _decode_result(message.data) if message is not None else None

    async def cancel(self, task: str, reason: str = "") -> Done:
        """End a task, queued or running. Returns once the coordinator has it in hand."""
        return await self._api.cancel(check_id("task", task), self.submitter, reason)

    async def dead(self, *, submitter: str = "", limit: int | None = None) -> list[DeadRow]:
        """The tasks that were given up after their attempts, the oldest first; of one submitter or of all."""
        return await self._dead.rows(submitter=submitter, limit=limit)

    async def dead_letter(self, task: str) -> Letter:
        """A task that was given up, whole, with what every attempt said. Raises Refused (``unknown-letter``)."""
        return await self._dead.letter(task)

    async def resubmit(self, task: str) -> str:
        """Submit a task that was given up again, as a new one of the same submitter, and drop its letter; the new id.

        Raises Refused (``unknown-letter``, ``not-dead``, ``not-recorded``, ``conflict``), ObjectMissing.
        """
        return await self._dead.resubmit(task)

    async def drop_letter(self, task: str) -> None:
        """Remove the letter of a task that was given up. Raises Refused (``unknown-letter``)."""
        await self._dead.drop(task)

    def cancel_soon(self, task: str) -> None:
        """Cancel without waiting; `close` waits for it."""
        sending = asyncio.create_task(self._cancel_quietly(task))
        self._cancels.add(sending)
        sending.add_done_callback(self._cancels.discard)

    async def _cancel_quietly(self, task: str) -> None:
        try:
            await self._api.cancel(task, self.submitter, "its submitter stopped waiting")
        except Refused as error:
            log.debug("task %s had ended already: %s", task, error)
        except FogError as error:
            log.warning("could not cancel task %s: %s", task, error)

    async def drain(self, node: str, *, deadline_s: float = 60.0, resume: bool = False) -> Done:
        """Give a node nothing new and let it finish or hand back by then; with `resume` take it back into service."""
        return await self._api.drain(check_id("node", node), deadline_s, resume)

    async def sleep(self, node: str, for_s: float = 0.0) -> Done:
        """Let a node announce a sleep of so many seconds (0: as its owner configured): it takes nothing new, hands back what
        waits, and is not called lost for its silence."""
        return await self._api.sleep(check_id("node", node), for_s, wake=False)

    async def wake(self, node: str) -> Done:
        """Let a node that sleeps take work again. One that is suspended does not hear it."""
        return await self._api.sleep(check_id("node", node), 0.0, wake=True)

    async def advise(self, node: str) -> AdviceReply:
        """What a running node should do now, by its readings of now."""
        return await self._api.advise(check_id("node", node))

    async def policy(self, node: str) -> PolicyReply:
        """The policy that an operator set for a node."""
        return await self._api.policy(check_id("node", node))

    async def set_policy(self, node: str, pairs: Mapping[str, str], *, reset: bool = False) -> PolicyReply:
        """Set fields of a node's policy (`schemas.advice.QosPolicy`), with `reset` after taking all away."""
        return await self._api.set_policy(check_id("node", node), dict(pairs), reset)

    async def events(
        self, *, follow: bool = False, since: float | None = None, after: int | None = None, kind: str = ""
    ) -> AsyncIterator[CloudEvent]:
        """Stored events from `since` (seconds since 1970) or `after` a sequence; of neither: all, or with `follow` new ones.

        `kind` is a type (``task.failed``) or its first word (``task``). Nobody waits for a reader: raises FellBehind, with
        the sequence to go on after, when the oldest that it had not read yet are no longer kept.
        """
        reading = Events(self._bus, kind=kind, since=since, after=after, follow=follow)
        try:
            async for event in reading:
                yield event
        finally:
            with contextlib.suppress(FogError):
                await reading.close()
