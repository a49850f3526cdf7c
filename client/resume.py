"""Opening a map job: making its record, or finding what there is of it already."""

from __future__ import annotations

import time

import msgspec

from client.jobs import disjoint, new_secret
from schemas import jetstream, streams, subjects
from schemas.bus import Bus
from schemas.chunks import JobRecord, Span, read_chunk_id
from schemas.codec import Decoder
from schemas.errors import BadInput, Conflict, Refused
from schemas.kv import Kv
from schemas.task import TaskPriority

_decode: Decoder[JobRecord] = Decoder(JobRecord)
_SAME = "resume a job with the same function and the same items, or choose another job id"


async def open_job(
    kv: Kv, job: str, function: str, submitter: str, total: int | None, mark: str
) -> tuple[JobRecord, bool]:
    """The job's record, and whether it was there before. Raises Refused when that one is another job."""
    record = JobRecord(new_secret(), function, time.time(), submitter, total, mark)
    try:
        await kv.create(job, msgspec.json.encode(record))
    except Conflict:
        entry = await kv.get(job)
        if entry is None:
            raise
        there = _decode(entry.value)
        _check_same(job, there, record)
        return there, True
    return record, False


def _check_same(job: str, there: JobRecord, wanted: JobRecord) -> None:
    if there.submitter != wanted.submitter:
        raise Refused("job-taken", f"the job id {job} belongs to {there.submitter}", hint="choose another job id")
    if there.function != wanted.function:
        raise BadInput("job", f"{job} maps {there.function}, not {wanted.function}", hint=_SAME)
    if None not in (there.total, wanted.total) and there.total != wanted.total:
        raise BadInput("job", f"{job} has {there.total} items, not {wanted.total}", hint=_SAME)
    if there.mark != wanted.mark and there.mark and wanted.mark:
        raise BadInput("job", f"{job} was begun with other items, or a file of it has changed since", hint=_SAME)


async def chunks_of(bus: Bus, job: str, record: JobRecord, timeout_s: float) -> list[tuple[Span, str]]:
    """The chunks of a job that the broker holds, finished or not, in order and without those that others cover.

    Raises Unreachable when the broker does not answer for `timeout_s`."""
    found: dict[str, Span] = {}
    # In the order in which a task moves, WORK twice: so none slips from a place not yet read into one read already.
    places = [(streams.TASKS, subjects.submit(priority, record.submitter, "*")) for priority in TaskPriority]
    places += [
        (streams.WORK, subjects.work("*", "*")),
        (streams.OUTCOMES, subjects.outcome("*", "*")),
        (streams.WORK, subjects.work("*", "*")),
        (streams.RESULTS, subjects.result(record.submitter, "*")),
    ]
    for stream, wanted in places:
        for subject in await jetstream.subjects(bus, stream, wanted, timeout_s):
            task = subject.rpartition(".")[2]
            span = read_chunk_id(record.secret, job, task)
            if span is not None:
                found[task] = span
    return disjoint(found)
