"""Letters: a result or an outcome as the node keeps it on disk, with all that its delivery may need, also by a later boot.

A letter is judged like any other message: a result counts if it is the first that is stored, whichever attempt it came
from; an outcome is judged by its placement. So the boot that it was written by does not matter when it is delivered.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from node.core.attempts import Attempt, Place
from node.core.endings import Ending, outcome_of
from schemas import limits
from schemas.codec import Decoder, encode
from schemas.errors import BadInput
from schemas.names import Id
from schemas.task import FunctionRun, History, Outcome, OutcomeKind, Result, ResultHead, Task, Work

MARK = b"fog-letter 1 "  # then the SHA-256 of what follows the line, in hex
NOTHING = Raw(b"{}")

Ref = Annotated[str, Meta(pattern=r"^sha256-[0-9a-f]{64}$")]


class Kind(StrEnum):
    """What a letter tells."""

    RESULT = "result"
    OUTCOME = "outcome"


RESULT, OUTCOME = Kind  # by themselves, see `attempts.QUEUED`


class Letter(Struct, frozen=True, gc=False, omit_defaults=True):
    """`message` is the encoded `Result` or `Outcome`, `blobs` the objects that it refers to and that are not stored yet.

    `work` comes with a result only: what is needed to tell an outcome instead, where the result is late or refused.
    `reply` acks the WORK message, as long as the node's consumer is the same.
    """

    kind: Kind
    task: Id
    submitter: Id
    placement: Annotated[int, Meta(ge=0)]
    message: Raw
    work: Raw = NOTHING
    blobs: tuple[Ref, ...] = ()
    made_at: float = 0.0
    result_by: float = 0.0
    reply: str = ""


_letter: Decoder[Letter] = Decoder(Letter)
_work: Decoder[Work] = Decoder(Work)
_result: Decoder[ResultHead] = Decoder(ResultHead)


def sealed(letter: Letter) -> bytes:
    """The letter as its file holds it."""
    body = encode(letter)
    return MARK + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def opened(data: bytes) -> Letter:
    """The letter that a file holds. Raises BadInput for one that is cut short, changed, or of another version."""
    head, _, body = data.partition(b"\n")
    if not head.startswith(MARK):
        raise BadInput("letter", "it does not begin as a letter does")
    if hashlib.sha256(body).hexdigest().encode() != head[len(MARK) :]:
        raise BadInput("letter", "it is cut short, or was changed")
    return _letter(body)


def letter_of(attempt: Attempt, kind: Kind, message: bytes, blobs: tuple[str, ...], made_at: float) -> Letter:
    """The letter that tells the end of an attempt."""
    task, work = attempt.task, attempt.work
    told = Raw(encode(work)) if kind is RESULT else NOTHING
    return Letter(
        kind, task.id, task.submitter, attempt.placement, Raw(message), told, blobs, made_at, work.result_by, attempt.reply
    )  # fmt: skip


def attempt_in(letter: Letter) -> Attempt:
    """The attempt that a kept letter is about, as the desk holds it until the letter is delivered."""
    history = History(placement=letter.placement)
    attempt = Attempt(
        Task(letter.task, letter.submitter, FunctionRun("kept")),
        Work(NOTHING, history, result_by=letter.result_by),
        seq=0,
        reply=letter.reply,
        rank=(0, 0.0, 0),
        pace="kept",
        place=Place.CLOSING,
    )
    attempt.final = letter.kind is RESULT
    return attempt


def unburden(attempt: Attempt) -> None:
    """Its letter holds everything now: what the task carries need not stay in memory."""
    task, work = attempt.task, attempt.work
    attempt.task = Task(task.id, task.submitter, FunctionRun("kept"))
    attempt.work = Work(NOTHING, History(placement=attempt.placement), work.term, None, work.result_by)


def outcome_instead(letter: Letter, attempt: Attempt, ending: Ending, node: str, boot: int, now: float) -> Outcome:
    """The outcome that is told in place of a kept result. A newer placement of the same task counts as the one that ended."""
    work, head = _work(letter.work), _result(letter.message)
    newest = max(attempt.placement, work.history.placement)
    ended = attempt_in(letter)
    ended.work = replace(work, history=replace(work.history, placement=newest))
    ended.started_at = head.started_at
    return outcome_of(ended, ending, node, boot, now)


def late() -> Ending:
    """How an attempt ended whose result can no longer be recorded unjudged."""
    return Ending(OutcomeKind.RETURNED, "returned", "finished later than its result could count", True)


def is_late(result_by: float, now: float) -> bool:
    """Whether it is too late for a result to be recorded unjudged."""
    return 0 < result_by < now


def fitted_result(result: Result, limit: int) -> bytes | None:
    """The result encoded in at most `limit` bytes, with fewer of the earlier errors if need be; None when it cannot be."""
    data = encode(result)
    if len(data) > limit and result.errors:
        data = encode(replace(result, errors=result.errors[-1:]))
    return data if len(data) <= limit else None


def fitted_outcome(outcome: Outcome, limit: int) -> bytes:
    """The outcome encoded, without its output and with the last error only where it would not fit otherwise."""
    data = encode(outcome)
    if len(data) > limit:
        history = replace(outcome.history, errors=outcome.history.errors[-1:])
        data = encode(replace(outcome, history=history, stdout="", stderr=""))
    return data


def is_full(letters: int, size: int) -> bool:
    """Whether so many letters of so many bytes are as much as a node keeps: it takes and starts no more work then."""
    return letters >= limits.OUTBOX_LETTERS or size >= limits.OUTBOX_BYTES
