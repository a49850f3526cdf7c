"""Asking the coordinator: requests on ``api.<noun>.<verb>``, asked again until the one that acts answers."""

from __future__ import annotations

import asyncio
import random
from typing import Any, TypeVar

from schemas import subjects
from schemas.api import (
    ApiError,
    CancelRequest,
    Done,
    DrainRequest,
    Empty,
    FunctionsReply,
    ListRequest,
    NodeInfo,
    NodeRequest,
    NodeRow,
    NodesReply,
    SleepRequest,
    StatusReply,
    TaskInfo,
    TaskRequest,
    TaskRow,
    TasksReply,
)
from schemas.bus import Bus, header, is_no_responders
from schemas.codec import Decoder, convert, encode
from schemas.errors import Refused, Unreachable
from schemas.policy import AdviceReply, PolicyReply, PolicyRequest

T = TypeVar("T")

ANSWER_S = 6.0  # more than a takeover takes (`limits.LEASE_S` and its work)
TRY_S = 1.5  # one request; a coordinator that has lost its lease stays silent
AGAIN_S = (0.05, 0.25)  # pause before the next request, drawn anew each time
ERROR_HEADER = b"Nats-Service-Error-Code"
NOT_READY = "not-ready"

_error: Decoder[ApiError] = Decoder(ApiError)
_decoders: dict[Any, Decoder[Any]] = {}


class Api:
    """Requests to the acting coordinator over one bus. Each may be sent more than once; all are safe to repeat."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def call(self, noun: str, verb: str, request: object, kind: type[T], timeout_s: float = ANSWER_S) -> T:
        """One question and its answer. Raises Refused with the coordinator's words, Unreachable when none answers."""
        subject, data = subjects.api(noun, verb), encode(request)
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        while True:
            answer = await self._once(subject, data, min(TRY_S, max(0.05, ends - loop.time())))
            refused = _refusal(*answer) if answer is not None else None
            if answer is not None and (refused is None or refused.code != NOT_READY):
                if refused is not None:
                    raise refused
                return _decoder(kind)(answer[0])
            if loop.time() + AGAIN_S[0] >= ends:
                raise _nobody(refused)
            await asyncio.sleep(random.uniform(*AGAIN_S))

    async def _once(self, subject: str, data: bytes, timeout_s: float) -> tuple[bytes, bytes] | None:
        came: asyncio.Future[tuple[bytes, bytes] | None] = asyncio.get_running_loop().create_future()

        def on_reply(reply: bytes, headers: bytes) -> None:
            if not came.done():
                came.set_result(None if is_no_responders(reply, headers) else (reply, headers))

        token = self._bus.call(subject, data, on_reply)
        try:
            async with asyncio.timeout(timeout_s):
                return await came
        except TimeoutError:
            return None
        finally:
            self._bus.hang_up(token)

    async def status(self) -> StatusReply:
        """The fleet at a glance."""
        return await self.call("fleet", "status", Empty(), StatusReply)

    async def functions(self, timeout_s: float = ANSWER_S) -> FunctionsReply:
        """What is offered now."""
        return await self.call("fleet", "functions", Empty(), FunctionsReply, timeout_s)

    async def nodes(self, *, state: str = "", label: str = "") -> list[NodeRow]:
        """Every node, all pages."""
        rows: list[NodeRow] = []
        while True:
            request = ListRequest(page=len(rows) // PAGE_SIZE, state=state, label=label)
            reply = await self.call("node", "list", request, NodesReply)
            rows += reply.nodes
            if len(reply.nodes) < PAGE_SIZE or len(rows) >= reply.total:
                return rows

    async def tasks(self, *, limit: int | None = None, **filters: str) -> list[TaskRow]:
        """Tasks without a result, all pages, or the first `limit`. `filters`: state, priority, submitter, node, job."""
        rows: list[TaskRow] = []
        while True:
            request = convert({"page": len(rows) // PAGE_SIZE, **filters}, ListRequest)
            reply = await self.call("task", "list", request, TasksReply)
            rows += reply.tasks
            enough = limit is not None and len(rows) >= limit
            if enough or len(reply.tasks) < PAGE_SIZE or len(rows) >= reply.total:
                return rows[:limit]

    async def node(self, node: str) -> NodeInfo:
        """Everything about a node."""
        return await self.call("node", "info", NodeRequest(node), NodeInfo)

    async def advise(self, node: str) -> AdviceReply:
        """What a node should do now."""
        return await self.call("node", "advise", NodeRequest(node), AdviceReply)

    async def policy(self, node: str) -> PolicyReply:
        """An operator's policy for a node."""
        return await self.call("policy", "show", NodeRequest(node), PolicyReply)

    async def set_policy(self, node: str, pairs: dict[str, str], reset: bool) -> PolicyReply:
        """Set fields of it, or take all away first."""
        return await self.call("policy", "set", PolicyRequest(node, pairs, reset), PolicyReply)

    async def task(self, task: str) -> TaskInfo:
        """Everything about a task."""
        return await self.call("task", "info", TaskRequest(task), TaskInfo)

    async def cancel(self, task: str, submitter: str, reason: str) -> Done:
        """End a task."""
        return await self.call("task", "cancel", CancelRequest(task, submitter, reason), Done)

    async def drain(self, node: str, deadline_s: float, resume: bool) -> Done:
        """Take a node out of service, or back."""
        return await self.call("node", "drain", DrainRequest(node, deadline_s, resume), Done)

    async def sleep(self, node: str, for_s: float, wake: bool) -> Done:
        """Let a node sleep, or wake it."""
        return await self.call("node", "sleep", SleepRequest(node, for_s, wake), Done)


PAGE_SIZE = ListRequest().size


def _decoder(kind: type[T]) -> Decoder[T]:
    if kind not in _decoders:
        _decoders[kind] = Decoder(kind)
    return _decoders[kind]


def _refusal(data: bytes, headers: bytes) -> Refused | None:
    if not header(headers, ERROR_HEADER):
        return None
    error = _error(data)
    message = f"{error.field}: {error.message}" if error.field else error.message
    return Refused(error.code, message, hint=error.hint)


def _nobody(refused: Refused | None) -> Unreachable:
    message = f"no coordinator answers: {refused.message}" if refused else "no coordinator answers"
    return Unreachable(
        message,
        hint="`fog up` starts one, `fog coordinator` one for an outside broker; `fog doctor` tells what is wrong",
    )
