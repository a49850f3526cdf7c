"""Map jobs: their record, and the names of their chunks.

A chunk's task id is ``<job>-<first>-<count>-<mark>``: a resumed job finds its chunks by it, and the mark, keyed by the
job's secret that nodes never see, keeps a node from naming another's chunk.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from msgspec import Struct

from schemas.errors import BadInput
from schemas.names import Id, Word, check_id, new_id

JOB_ID_MAX = 24  # leaves a chunk's id within 63 characters
MARK_HEX = 16


class JobRecord(Struct, frozen=True, omit_defaults=True):
    """What the bucket `streams.JOBS` keeps of a job, under its id. `total` is the number of items, where it was known."""

    secret: str
    function: Word
    created: float
    submitter: Id
    total: int | None = None


class Span(Struct, frozen=True, order=True):
    """Items `first` up to `first + count` of a job."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """The item after the last."""
        return self.first + self.count


def new_job() -> str:
    """A fresh job id."""
    return new_id("job")[:JOB_ID_MAX]


def new_secret() -> str:
    """A fresh secret for a job, 128 bits in hex."""
    return secrets.token_hex(16)


def check_job(job: str) -> str:
    """Return `job` if it may name a job, else raise BadInput."""
    check_id("job", job)
    if len(job) > JOB_ID_MAX:
        raise BadInput("job", f"{job!r} is longer than {JOB_ID_MAX} characters", hint="choose a shorter one")
    return job


def mark(secret: str, job: str, span: Span) -> str:
    """The first 16 hex digits of HMAC-SHA256(secret, ``<job>-<first>-<count>``)."""
    text = f"{job}-{span.first}-{span.count}".encode()
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()[:MARK_HEX]


def chunk_id(secret: str, job: str, span: Span) -> str:
    """The task id of a job's chunk."""
    return f"{job}-{span.first}-{span.count}-{mark(secret, job, span)}"


def read_chunk_id(secret: str, job: str, task: str) -> Span | None:
    """The span that a chunk's id names, or None when it is not one of this job's (a foreign name, a wrong mark)."""
    if not task.startswith(job + "-"):
        return None
    parts = task[len(job) + 1 :].split("-")
    if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    span = Span(int(parts[0]), int(parts[1]))
    return span if span.count > 0 and hmac.compare_digest(chunk_id(secret, job, span), task) else None


def disjoint(spans: dict[str, Span]) -> list[tuple[Span, str]]:
    """The chunks to take when resuming, in order: where one covers another (it was split) only the larger one.

    `spans` maps chunk ids to what they name.
    """
    taken: list[tuple[Span, str]] = []
    end = 0
    for task, span in sorted(spans.items(), key=lambda entry: (entry[1].first, -entry[1].count)):
        if span.first >= end:
            taken.append((span, task))
            end = span.end
    return taken
