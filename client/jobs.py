"""Map jobs: their ids and secrets, and which of their chunks to take up again. How chunks are named: `schemas.chunks`."""

from __future__ import annotations

import secrets

from schemas.chunks import Span
from schemas.errors import BadInput
from schemas.names import check_id, new_id

JOB_ID_MAX = 24  # leaves a chunk's id within 63 characters


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
