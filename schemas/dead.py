"""Dead letters: tasks that were given up after their attempts, kept whole so that they can be looked at and submitted again.

A letter is stored before the task's result, and counts only where that result says `Result.dead_letter`: what else lies in
FOG_DEAD was written by a coordinator that was stopped before it could record the end, or after another end was first.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw, Struct

from schemas.task import Result


class DeadLetter(Struct, frozen=True, omit_defaults=True):
    """A task that was given up, on ``dead.<submitter>.<task>``. `task` is the submitted message as it came (what it refers
    to in the object store ages as ever), `result` its result, whose `reason` and `errors` say why. `at`: when, in seconds
    since 1970. `resubmitted_as`: the task that somebody is making of it."""

    task: Raw
    result: Result
    at: float
    resubmitted_as: Annotated[str, Meta(max_length=63)] = ""
