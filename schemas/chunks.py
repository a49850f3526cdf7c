"""The chunks of a map job and their names: the client makes them, and the coordinator those of the chunks that it splits.

A chunk's task id is ``<job>-<first>-<count>-<mark>``: a resumed job finds its chunks by it, and the mark, keyed by the
job's secret that nodes never see, keeps a node from naming another's chunk.
"""

from __future__ import annotations

import hashlib
import hmac

from msgspec import Struct

from schemas.names import Id, Word

MARK_HEX = 16


class JobRecord(Struct, frozen=True, omit_defaults=True):
    """What the bucket `streams.JOBS` keeps of a job, under its id. `total` is the number of items, `mark` what tells others
    from them, where that was known."""

    secret: str
    function: Word
    created: float
    submitter: Id
    total: int | None = None
    mark: str = ""


class Span(Struct, frozen=True, order=True):
    """Items `first` up to `first + count` of a job."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """The item after the last."""
        return self.first + self.count


def mark(secret: str, job: str, span: Span) -> str:
    """The first 16 hex digits of HMAC-SHA256(secret, ``<job>-<first>-<count>``)."""
    text = f"{job}-{span.first}-{span.count}".encode()
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()[:MARK_HEX]


def chunk_id(secret: str, job: str, span: Span) -> str:
    """The task id of a job's chunk."""
    return f"{job}-{span.first}-{span.count}-{mark(secret, job, span)}"


def read_chunk_id(secret: str, job: str, task: str) -> Span | None:
    """The span that a chunk's id names, or None when it is not one of this job's (a foreign name, a wrong mark)."""
    if not task.startswith(job + "-") or not task.isascii():
        return None
    parts = task[len(job) + 1 :].split("-")
    if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    span = Span(int(parts[0]), int(parts[1]))
    return span if span.count > 0 and hmac.compare_digest(chunk_id(secret, job, span), task) else None


def tile(span: Span, parts: list[Span]) -> bool:
    """Whether the parts, in any order, hold each item of the span once and no other."""
    end = span.first
    for part in sorted(parts):
        if part.first != end or part.count < 1:
            return False
        end = part.end
    return end == span.end
