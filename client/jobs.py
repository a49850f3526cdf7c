"""Map jobs: their ids and secrets, and which of their chunks to take up again. How chunks are named: `schemas.chunks`."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncIterable, Iterable, Iterator, Sized
from typing import Any

from client.arguments import as_content, encode_values
from schemas.chunks import Span
from schemas.device import Parameter
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


def mark_of(items: Iterable[Any] | AsyncIterable[Any], kind: Parameter | None) -> str:
    """What tells other items from these: SHA-256, in hex, over their values; over path, size and time of change of files.

    "" for items that can be read only once (and are to be read no further than needed), or that nobody could send.
    """
    if not isinstance(items, Iterable) or not isinstance(items, Sized) or isinstance(items, Iterator):
        return ""
    digest = hashlib.sha256()
    try:
        for item in items:
            content = as_content(item, kind)
            if content is None:
                digest.update(encode_values((item,)))
            elif isinstance(content, bytes):
                digest.update(b"%d:" % len(content) + content)
            else:
                there = content.stat() if content.exists() else None
                seen = (there.st_size, there.st_mtime_ns) if there else None
                digest.update(os.fsencode(content) + f"\0{seen}\0".encode())
    except (BadInput, OSError):
        return ""  # the map itself says what is wrong with it
    return digest.hexdigest()


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
