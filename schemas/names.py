"""Ids: what a node, submitter, job or task may be called.

An id is one token of a subject, so it must hold nothing that NATS reads as structure (``.``, ``*``, ``>``, blanks).
Checked wherever an id enters: registration, submission, API requests, configuration.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from msgspec import Meta

from schemas.errors import BadInput

# In Python `$` also matches before a newline at the end; the look-ahead means the same there and in JSON Schema.
ID_PATTERN = r"^[a-z0-9-]{1,63}(?!\n)$"
WORD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}(?!\n)$"
_ID = re.compile(r"[a-z0-9-]{1,63}")

Id = Annotated[str, Meta(pattern=ID_PATTERN, description="lower-case letters, digits and -, at most 63")]
# A node's connection is called this and its id: the broker's disconnect events carry the name.
NODE_CONNECTION = "fog-node-"
COORDINATOR_CONNECTION = "fog-coordinator-"

# An id that stands in the message's subject as well: it is checked there, once, and held against it (a pattern costs as
# much as decoding the rest of a small message). The JSON Schemas say it all the same.
Named = Annotated[
    str,
    Meta(
        max_length=63,
        description="lower-case letters, digits and -, as in the subject",
        extra_json_schema={"pattern": ID_PATTERN},
    ),
]
Word = Annotated[str, Meta(pattern=WORD_PATTERN, description="a name such as a function's")]
# The same where it is only looked up among those that are offered, whose form was checked.
Called = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        description="a name such as a function's",
        extra_json_schema={"pattern": WORD_PATTERN},
    ),
]


def check_id(field: str, value: str) -> str:
    """Return `value` if it may stand in a subject, else raise BadInput that names `field`."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise BadInput(
            field, f"{value!r:.80} is not an id", hint="use lower-case letters, digits and -, at most 63 characters"
        )
    return value


def as_id(text: str, fallback: str = "x") -> str:
    """The nearest valid id to a free text such as a host or user name: ``Jo's Mac.local`` becomes ``jo-s-mac-local``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or fallback


def new_id(prefix: str = "") -> str:
    """A fresh unguessable id of 80 random bits: knowing a task's id is the right to write its result."""
    mark = secrets.token_hex(10)
    return f"{prefix}-{mark}" if prefix else mark
