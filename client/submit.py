"""Making tasks and handing them to the broker. A submit returns, or starts to wait, once TASKS has stored it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypedDict

import msgspec

from client.waiting import Waiting
from schemas import limits, streams, subjects
from schemas.codec import convert, encode
from schemas.errors import BadInput, FogError, NoRoom, StoreRefused, Unreachable
from schemas.names import check_id, new_id
from schemas.store import Ack, Store
from schemas.task import CommandRun, Needs, Result, Retry, Run, Task, TaskPriority

GIVE_UP_S = 60.0  # well inside `limits.DUPLICATE_WINDOW_S`, so that a repeated post is stored once
_NOTHING = CommandRun(("true",))


class TaskOptions(TypedDict, total=False):
    """What may be said of any task; see `schemas.task.Task` and `Needs` for units and meanings.

    `priority` is a name (``"high"``), a number, or a TaskPriority; `retries` how often a failed attempt is tried again.
    """

    priority: TaskPriority | int | str
    type: str
    cores: float
    memory_mb: int
    storage_mb: int
    gpu: bool
    arch: str
    frameworks: tuple[str, ...] | list[str]
    labels: dict[str, str]
    node: str
    cluster: str
    needs: Needs
    timeout_s: float
    deadline_s: float
    retries: int
    retry: Retry
    estimated_duration_s: float
    exclusive: bool
    wait_for_node: bool


_NEEDS = set(Needs.__struct_fields__)


def priority_of(value: TaskPriority | int | str) -> TaskPriority:
    """A priority by name or number. Raises BadInput that lists them."""
    try:
        return (
            TaskPriority[value.upper()] if isinstance(value, str) and not value.isdigit() else TaskPriority(int(value))
        )
    except (KeyError, ValueError):
        known = ", ".join(f"{p.name.lower()} ({p.value})" for p in TaskPriority)
        raise BadInput("priority", f"{value!r} is none of {known}") from None


def template(submitter: str, options: TaskOptions) -> Task:
    """A task with everything that `options` say, still without its id and what to run. Raises BadInput by field."""
    fields: dict[str, Any] = {"id": "x", "submitter": submitter, "run": msgspec.to_builtins(_NOTHING)}
    needs: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        if name == "priority":
            fields[name] = int(priority_of(value))  # type: ignore[arg-type]
        elif name == "retries":
            fields["retry"] = {**fields.get("retry", {}), "limit": value}
        elif name in ("needs", "retry"):
            (needs if name == "needs" else fields.setdefault("retry", {})).update(msgspec.to_builtins(value))
        elif name in _NEEDS:
            needs[name] = check_id(f"needs.{name}", str(value)) if name in ("node", "cluster") else value
        elif name in Task.__struct_fields__:
            fields[name] = value
        else:
            raise BadInput(name, "no such option", hint=f"known: {', '.join(sorted(TaskOptions.__annotations__))}")
    return convert({**fields, "needs": needs} if needs else fields, Task)


class Submitter:
    """Posts tasks of one submitter."""

    def __init__(self, store: Store, waiting: Waiting, name: str) -> None:
        self.name = name
        self._store, self._waiting = store, waiting
        self._plain = template(name, {})

    def make(self, run: Run, options: TaskOptions, input_bytes: int = 0, task: str = "") -> Task:
        """A task for `run`."""
        base = template(self.name, options) if options else self._plain
        return self.fill(base, run, input_bytes, task or new_id())

    def fill(self, base: Task, run: Run, input_bytes: int, task: str) -> Task:
        """`base` made into the task `task` that runs `run`."""
        return Task(
            task, base.submitter, run, base.type, base.priority, base.needs, base.retry, base.timeout_s, base.deadline_s,
            base.estimated_duration_s, base.exclusive, base.wait_for_node, input_bytes, base.traceparent,
        )  # fmt: skip

    async def start(self, task: Task) -> asyncio.Future[Result]:
        """Submit, and return after the broker's ack with the future of the result."""
        result = self._waiting.watch(task.id)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._post(task, _acked, stored)
            await stored
        except BaseException:
            self._waiting.forget(task.id)
            raise
        return result

    def post(self, task: Task) -> asyncio.Future[Result]:
        """Submit without waiting; the future is of the result, whatever it is, or fails when the broker refuses the task."""
        future = self._waiting.watch(task.id)
        try:
            self._post(task, _told, future)
        except BadInput:
            self._waiting.forget(task.id)
            raise
        return future

    def _post(self, task: Task, on_answer: Callable[..., None], about: object) -> None:
        data = encode(task)
        if len(data) > limits.TASK_MAX:
            raise BadInput(
                "arguments", f"the task has {len(data):,} bytes, more than {limits.TASK_MAX:,}",
                hint="put the data into a file and pass that (a pathlib.Path, or bytes): it travels by the object store",
            )  # fmt: skip
        subject = subjects.submit(task.priority, task.submitter, task.id)
        self._store.post(subject, data, task.id, on_answer, about=about, give_up_s=GIVE_UP_S, in_row=True)


def _told(result: asyncio.Future[Result], answer: Ack | FogError) -> None:
    if isinstance(answer, FogError) and not result.done():
        result.set_exception(_plainly(answer))


def _acked(stored: asyncio.Future[None], answer: Ack | FogError) -> None:
    if stored.done():
        return
    if isinstance(answer, FogError):
        stored.set_exception(_plainly(answer))
    else:
        stored.set_result(None)


def _plainly(error: FogError) -> FogError:
    if isinstance(error, Unreachable):
        return Unreachable(
            f"the broker did not confirm the task within {GIVE_UP_S:g} s",
            hint="it may be stored all the same: see `fog tasks`; whether the broker has a full disk: `fog doctor`",
        )
    if isinstance(error, StoreRefused) and "maximum" in error.description:
        return NoRoom(streams.TASKS, error)
    return error
