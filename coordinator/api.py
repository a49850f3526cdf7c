"""The API: requests on ``api.<noun>.<verb>``, answered by the acting coordinator alone (no queue group: see DESIGN 4).

Each endpoint is a row of a table: what it takes, and the function that answers. Reading ones answer from the core's state;
for a task that the core does not hold, the streams are asked. A refusal is an `ApiError` under the header of NATS
micro services, ``Nats-Service-Error-Code``.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from collections.abc import Callable
from itertools import islice
from typing import Any

from msgspec import Struct, structs

from coordinator import dead
from coordinator.areas import Answer, Endpoints
from coordinator.core import events as ev
from coordinator.core import tune, views
from coordinator.core.machine import Coordinator
from coordinator.core.record import TaskRecord
from coordinator.core.trouble import Look
from coordinator.core.why import explain
from coordinator.inbound import Bad
from coordinator.refusal import Refusal
from schemas import api, jetstream, streams, subjects
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, FogError
from schemas.logs import fields
from schemas.task import Needs, ResultHead, TaskHead

log = logging.getLogger("fog.api")

AT_ONCE = 200  # requests under way; more are refused with ``busy``
CODES = {
    "bad-request": 400,
    "unknown-task": 404,
    "unknown-node": 404,
    "unknown-cluster": 404,
    "unknown-proposal": 404,
    "not-here": 409,
    "done": 409,
    "not-ready": 503,
    "busy": 503,
}


class Api:
    """Answers requests by the core's state; what must change it is handed on as an event. `more`: those of the areas."""

    def __init__(
        self,
        bus: Bus,
        state: Coordinator,
        hand_on: Callable[[ev.Event], None],
        bad: Bad,
        clock: Callable[[], float],
        more: Endpoints,
    ) -> None:
        self._bus, self._state, self._hand_on, self._bad, self._clock = bus, state, hand_on, bad, clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._result = Decoder(ResultHead)
        self._task = Decoder(TaskHead)
        table: Endpoints = {
            "fleet.status": (api.Empty, self._status),
            "fleet.functions": (api.Empty, self._functions),
            "fleet.trouble": (api.Empty, self._trouble),
            "node.list": (api.ListRequest, self._node_list),
            "node.info": (api.NodeRequest, self._node_info),
            "node.drain": (api.DrainRequest, self._node_drain),
            "node.sleep": (api.SleepRequest, self._node_sleep),
            "task.list": (api.ListRequest, self._task_list),
            "task.info": (api.TaskRequest, self._task_info),
            "task.cancel": (api.CancelRequest, self._task_cancel),
            **more,
        }
        self._endpoints: dict[str, tuple[Decoder[Any], Answer]] = {
            name: (Decoder(kind), answer) for name, (kind, answer) in table.items()
        }

    def heard(self, subject: str, reply: str, data: bytes, _headers: bytes) -> None:
        """A request."""
        if not reply:
            self._bad.add("api", subject, "no reply subject: nobody to answer")
            return
        if len(self._tasks) >= AT_ONCE:
            self._refuse(reply, api.ApiError("busy", "too many requests at once", "try again in a moment"))
            return
        task = asyncio.get_running_loop().create_task(self._answer(subject, reply, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, subject: str, reply: str, data: bytes) -> None:
        name = ".".join(subjects.tail(subject, 1))
        try:
            endpoint = self._endpoints.get(name)
            if endpoint is None:
                known = ", ".join(sorted(self._endpoints))
                self._bad.add("api", subject, "there is no such request")
                raise Refusal("bad-request", f"there is no {name}", f"there are {known}")
            decode, answer = endpoint
            self._bus.publish(reply, encode(await answer(decode(data or b"{}"))))
        except Refusal as refusal:
            self._refuse(reply, refusal.error)
        except BadInput as error:
            self._bad.add("api", subject, str(error))
            self._refuse(reply, api.ApiError("bad-request", error.problem, error.hint, error.field))
        except FogError as error:
            self._refuse(reply, api.ApiError("not-ready", error.message, error.hint))
        except Exception:
            log.exception("a request failed", extra=fields(subject=subject[:200]))
            self._refuse(reply, api.ApiError("failed", "the coordinator could not answer this", "its log says why"))

    def _refuse(self, reply: str, error: api.ApiError) -> None:
        code = CODES.get(error.code, 500)
        message = " ".join(error.message.split())[:200].encode("ascii", "replace")
        headers = b"Nats-Service-Error: " + message + b"\r\nNats-Service-Error-Code: %d\r\n" % code
        self._bus.publish(reply, encode(error), headers=headers)

    def stop(self) -> None:
        """This term is over."""
        for task in self._tasks:
            task.cancel()

    async def _status(self, _: api.Empty) -> Struct:
        info = await jetstream.stream_info(self._bus, streams.TASKS)
        status = views.status(self._state, self._clock())
        beyond = int(info["state"]["messages"]) - sum(self._state.window.values())
        letters = await dead.count(self._bus)
        refused = {**self._bad.counts, **status.bad}
        return structs.replace(
            status,
            broker=f"nats-server {self._bus.server_version}",
            version=importlib.metadata.version("fogfleet"),
            tasks={**status.tasks, **({"stored": beyond} if beyond > 0 else {})},
            bad=refused,
            dead_letters=letters,
            notes=(*status.notes, *(f"refused {bad.subject}: {bad.problem}" for bad in list(self._bad.last)[-5:])),
        )

    async def _functions(self, _: api.Empty) -> Struct:
        return views.functions(self._state)

    async def _trouble(self, _: api.Empty) -> Struct:
        look = Look(self._state, self._clock())
        tasks = iter(list(self._state.tasks.values()))
        while some := list(islice(tasks, tune.LOOKED_AT)):
            look.at(some)
            await asyncio.sleep(0)
        return look.told(tuple(self._bad.last))

    async def _node_list(self, request: api.ListRequest) -> Struct:
        return views.nodes(self._state, request, self._clock())

    async def _node_info(self, request: api.NodeRequest) -> Struct:
        info = views.node_info(self._state, request.node, self._clock())
        if info is None:
            raise self._unknown_node(request.node)
        return info

    async def _node_drain(self, request: api.DrainRequest) -> Struct:
        if request.node not in self._state.nodes:
            raise self._unknown_node(request.node)
        self._hand_on(ev.DrainAsked(request.node, request.deadline_s, request.resume))
        return api.Done("taken back into service" if request.resume else "draining")

    async def _node_sleep(self, request: api.SleepRequest) -> Struct:
        if request.node not in self._state.nodes:
            raise self._unknown_node(request.node)
        self._hand_on(ev.SleepAsked(request.node, request.for_s, request.wake))
        return api.Done("told to wake" if request.wake else "told to sleep")

    def _unknown_node(self, node: str) -> Refusal:
        return Refusal("unknown-node", f"there is no node {node}", "`fog nodes` lists them", "node")

    async def _task_list(self, request: api.ListRequest) -> Struct:
        return views.tasks(self._state, request)

    async def _task_info(self, request: api.TaskRequest) -> Struct:
        info = views.task_info(self._state, request.task, self._clock())
        if info is not None:
            return info
        ended, stored = await self._look_up(request.task)
        if ended is not None:
            return _ended_info(ended, self._state.done_why.get(request.task), explain(self._state, request.task))
        if stored is not None:
            return _stored_info(*stored)
        raise Refusal(
            "unknown-task", f"there is no task {request.task}", "`fog tasks` lists those without a result", "task"
        )

    async def _task_cancel(self, request: api.CancelRequest) -> Struct:
        if request.task in self._state.tasks or request.task in self._state.parts:
            self._hand_on(ev.CancelAsked(request.task, request.submitter, request.reason))
            return api.Done("cancelled")
        ended, stored = await self._look_up(request.task)
        if ended is not None and await self._cancel_parts(ended, request.reason):
            return api.Done("cancelled")
        if ended is not None:
            raise Refusal("done", f"{request.task} has ended already: {ended.state.value}", field="task")
        if stored is None:
            raise Refusal(
                "unknown-task", f"there is no task {request.task}", "`fog tasks` lists those without a result", "task"
            )
        head, source, _ = stored
        self._hand_on(ev.CancelAsked(request.task, head.submitter, request.reason, source))
        return api.Done("cancelled")

    async def _cancel_parts(self, whole: ResultHead, reason: str, seen: set[str] | None = None) -> bool:
        """Cancel what a chunk was split into, where that was another coordinator's doing. False when none of it is left.

        Its parts may be split again. A node may have stored that result, and named as parts what is none: each name is
        looked at once, and only tasks of the same submitter are cancelled.
        """
        seen = {whole.task} if seen is None else seen
        any_left = False
        for part in whole.parts:
            if part in seen:
                continue
            seen.add(part)
            held = self._state.tasks.get(part)
            if part in self._state.parts or (held is not None and held.submitter == whole.submitter):
                self._hand_on(ev.CancelAsked(part, whole.submitter, reason))
                any_left = True
                continue
            ended, stored = await self._look_up(part)
            if stored is not None and stored[0].submitter == whole.submitter:
                self._hand_on(ev.CancelAsked(part, whole.submitter, reason, stored[1]))
                any_left = True
            elif ended is not None and ended.submitter == whole.submitter:
                any_left |= await self._cancel_parts(ended, reason, seen)
        return any_left

    async def _look_up(self, task: str) -> tuple[ResultHead | None, tuple[TaskHead, ev.Source, str] | None]:
        """Where a task is that the core does not hold: its result, or its message in FOG_TASKS."""
        results = await jetstream.multi_last(self._bus, streams.RESULTS, [subjects.result("*", task)])
        if results:
            return self._result(results[0].data), None
        messages = await jetstream.multi_last(self._bus, streams.TASKS, [subjects.submitted(task)])
        if not messages:
            return None, None
        message = messages[0]
        head = self._task(message.data)
        if subjects.submitted_by(message.subject) != (head.submitter, task) or head.id != task:
            raise Refusal(
                "unknown-task", f"what is stored as {task} is not a task", "it fails once it is taken in", "task"
            )
        return None, (head, ev.Source("tasks", message.seq), message.time)


def _ended_info(result: ResultHead, kept: TaskRecord | None, why: api.Why | None) -> api.TaskInfo:
    """A task that has its result; what it was is known while the core still keeps it (the last few thousand)."""
    row = api.TaskRow(result.task, result.submitter, "", "", "", "") if kept is None else views.task_row(kept)
    row = structs.replace(
        row,
        state=result.state.value,
        node=result.node,
        placement=result.placement,
        attempts=result.attempts,
        reason=result.reason,
    )
    why = why or api.Why(f"it ran on {result.node}" if result.node else "it never ran")
    needs = Needs() if kept is None else kept.head.needs
    return api.TaskInfo(row, needs, why, errors=result.errors)


def _stored_info(head: TaskHead, _source: ev.Source, _time: str) -> api.TaskInfo:
    kind = head.run.__struct_config__.tag
    what = head.run.argv[0] if hasattr(head.run, "argv") else head.run.name
    row = api.TaskRow(head.id, head.submitter, "queued", head.priority.name.lower(), str(kind), what)
    why = api.Why("it is stored, and waits behind others of its priority")
    return api.TaskInfo(row, head.needs, why, retry_limit=head.retry.limit)
