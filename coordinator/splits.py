"""Splitting a map chunk: its items go on as tasks of their own, named as chunks of the same job.

Doing it twice is harmless: a part's id follows from its span, TASKS takes each id once, and a part that has its result
already is not stored again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec import Raw, structs

from coordinator.core.actions import Split
from coordinator.core.events import SplitEnded
from schemas import jetstream, limits, streams, subjects
from schemas.bus import Bus
from schemas.chunks import JobRecord, Span, chunk_id, read_chunk_id
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, FogError
from schemas.kv import Kv
from schemas.objects import ObjectMissing, Objects
from schemas.store import Store
from schemas.task import Blob, MapRun, Task

log = logging.getLogger("fog.coordinator")

GIVE_UP_S = 30.0  # twice this is well inside `limits.DUPLICATE_WINDOW_S`
AGAIN_S = 0.5

_task: Decoder[Task] = Decoder(Task)
_record: Decoder[JobRecord] = Decoder(JobRecord)
_NOTHING = MapRun("x", "x", 0, 1)  # its `items` and `files` are the very defaults that the wire leaves out


class Splitter:
    """Carries out `actions.Split`."""

    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus, self._store = bus, store
        self._jobs = Kv(bus, store, streams.JOBS)
        self._objects = Objects(bus)

    async def split(self, wanted: Split, read: Callable[[], Awaitable[bytes]]) -> SplitEnded:
        """Store the parts of the task whose submitted message `read` gives. Never raises: the core waits for the answer.

        What the broker does not do now is tried again, for `GIVE_UP_S`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + GIVE_UP_S
        while True:
            try:
                return SplitEnded(wanted.task, await self._store_parts(wanted, _task(await read())))
            except FogError as error:
                if isinstance(error, BadInput | ObjectMissing) or loop.time() >= until:
                    return SplitEnded(wanted.task, error=error.message)
            except Exception as error:
                log.exception("a chunk could not be split task=%s", wanted.task)
                return SplitEnded(wanted.task, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(AGAIN_S)

    async def _store_parts(self, wanted: Split, task: Task) -> tuple[str, ...]:
        run = task.run
        if not isinstance(run, MapRun):
            raise BadInput("run", "not a map chunk")
        secret = await self._secret(task, run)
        ids = [chunk_id(secret, run.job, part) for part in wanted.parts]
        done = await self._done(task.submitter, ids)
        runs = await self._cut(run, wanted.parts)
        todo = [
            encode(_part(task, name, part, size, wanted.deadline_s))
            for name, (part, size) in zip(ids, runs, strict=True)
        ]
        # The last first: each is older by its place in the whole than what is queued before it.
        stored = [
            self._store.put(
                subjects.submit(task.priority, task.submitter, name), data, msg_id=name, timeout_s=GIVE_UP_S
            )
            for name, data in reversed(list(zip(ids, todo, strict=True)))
            if name not in done
        ]
        for answer in await asyncio.gather(*stored, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
        return tuple(ids)

    async def _secret(self, task: Task, run: MapRun) -> str:
        """The job's secret, for a task that is the chunk that it says it is, of a job of its own submitter.

        Without this check anyone could have another's chunks named by submitting something under that job's id.
        """
        entry = await self._jobs.get(run.job)
        if entry is None:
            raise BadInput("job", f"{run.job} is not known (jobs are kept for {limits.OBJECT_AGE_S / 86_400:g} days)")
        record = _record(entry.value)
        named = read_chunk_id(record.secret, run.job, task.id)
        if named != Span(run.first, run.count) or record.submitter != task.submitter:
            raise BadInput("id", f"{task.id} is not that chunk of {run.job}")
        return record.secret

    async def _done(self, submitter: str, ids: Sequence[str]) -> set[str]:
        """Those of the parts that have a result: an earlier try got that far."""
        wanted = [subjects.result(submitter, name) for name in ids]
        found = await jetstream.multi_last(self._bus, streams.RESULTS, wanted)
        return {message.subject.rpartition(".")[2] for message in found}

    async def _cut(self, run: MapRun, parts: Sequence[Span]) -> list[tuple[MapRun, int]]:
        """The run of each part, and the bytes of its items."""
        slices = [slice(part.first - run.first, part.end - run.first) for part in parts]
        if run.files:
            _check_count(run, len(run.files))
            files = [run.files[at] for at in slices]
            return [
                (structs.replace(run, first=part.first, count=part.count, files=blobs), sum(b.size for b in blobs))
                for part, blobs in zip(parts, files, strict=True)
            ]
        if run.packed is None:
            items = _items(run, bytes(run.items))
        else:
            items = await asyncio.to_thread(_items, run, await self._objects.bytes_of(run.packed))
        arrays = [b"[" + b",".join(items[at]) + b"]" for at in slices]
        return [(await self._packed(run, part, data), len(data)) for part, data in zip(parts, arrays, strict=True)]

    async def _packed(self, run: MapRun, part: Span, data: bytes) -> MapRun:
        if len(data) <= limits.INLINE_MAX:
            return structs.replace(run, first=part.first, count=part.count, items=Raw(data), packed=None)
        blob = Blob(len(data), None, await self._objects.put(data))
        return structs.replace(run, first=part.first, count=part.count, items=_NOTHING.items, packed=blob)


def _items(run: MapRun, data: bytes) -> list[Raw]:
    try:
        items: list[Raw] = msgspec.json.decode(data, type=list[Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput("items", str(error)) from None
    _check_count(run, len(items))
    return items


def _check_count(run: MapRun, found: int) -> None:
    if found != run.count:
        raise BadInput("count", f"{run.count} items are told and {found} are there")


def _part(whole: Task, name: str, run: MapRun, size: int, deadline_s: float | None) -> Task:
    """The whole with other items. What is told of its duration is shared out."""
    assert isinstance(whole.run, MapRun)
    told = whole.estimated_duration_s
    return structs.replace(
        whole,
        id=name,
        run=run,
        deadline_s=deadline_s,
        estimated_duration_s=None if told is None else told * run.count / whole.run.count,
        input_bytes=size,
    )
