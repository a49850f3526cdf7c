"""What an attempt came to, as the messages say it: the history that travels on, the outcome, the result."""

from __future__ import annotations

from msgspec import Raw, Struct
from msgspec.structs import replace

from node.core.attempts import Attempt
from schemas import limits
from schemas.task import SUCCEEDED, AttemptError, Blob, History, ItemError, MapRun, Outcome, OutcomeKind, Result

# Why what runs is stopped; any other reason hands it back.
CANCELLED, DROPPED, TIMEOUT = "cancelled", "dropped", "timeout"
MEMORY_EXCEEDED = "Memory allocation exceeded"  # operators look for these words (SPEC 8.7)
LEASE_OVER = "it is exclusive, and its lease ended: the coordinator could not renew it in time"

# An empty Raw is no JSON: msgspec leaves a field out only when it holds the default itself.
NO_VALUE = Result("", "", SUCCEEDED).value


class Ending(Struct, frozen=True):
    """Why an attempt ended without a result.

    `word` is the error's kind as `AttemptError` has it (failed, died, timeout, memory, returned, refused); `started` whether it
    had begun.
    """

    kind: OutcomeKind
    word: str
    error: str
    started: bool
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""


def exceeded(seen_mb: int, limit_mb: int) -> str:
    """What is said of an attempt that is stopped since running work takes more memory than this node lets it."""
    return f"{MEMORY_EXCEEDED}: all that runs here takes {seen_mb} MiB, and {limit_mb} MiB is the limit; this took the most"


def exceeded_by_kernel(limit_mb: int) -> str:
    """The same, where the kernel was quicker: it does not tell how much that was."""
    return (
        f"{MEMORY_EXCEEDED}: the kernel ended it, since all that runs here took more than the limit of {limit_mb} MiB"
    )


def cut(error: str) -> str:
    """The end of an error, which says most, within `limits.ERROR_MAX`."""
    return error if len(error) <= limits.ERROR_MAX else "…" + error[1 - limits.ERROR_MAX :]


def history_after(history: History, ending: Ending, node: str, at: float) -> History:
    """The history with this attempt in it.

    A start counts as an attempt; a failure marks the node as one that it failed on, a refusal as one to avoid. An attempt
    that was handed back before it began leaves no trace. What retries that costs is the coordinator's to say.
    """
    failed, refused = ending.kind is OutcomeKind.FAILED, ending.kind is OutcomeKind.REFUSED
    if not (ending.started or failed or refused):
        return history
    attempts = history.attempts + (1 if ending.started else 0)
    error = AttemptError(node, attempts, at, cut(ending.error), ending.word, ending.exit_code)
    return replace(
        history,
        attempts=attempts,
        errors=(*history.errors, error)[-limits.ERRORS_KEPT :],
        failed_on=_with(history.failed_on, node) if failed else history.failed_on,
        avoid=_with(history.avoid, node) if refused else history.avoid,
    )


def _with(nodes: tuple[str, ...], node: str) -> tuple[str, ...]:
    return nodes if node in nodes else (*nodes, node)


def outcome_of(attempt: Attempt, ending: Ending, node: str, boot: int, now: float) -> Outcome:
    """The outcome that carries the task on."""
    work = attempt.work
    began = attempt.started_at if ending.started else 0.0
    return Outcome(
        task=work.task,
        history=history_after(work.history, ending, node, now),
        kind=ending.kind,
        node=node,
        boot=boot,
        error=cut(ending.error),
        started=ending.started,
        duration_ms=round(1000 * max(0.0, now - began), 3) if began else 0.0,
        deadline_at=work.deadline_at,
        result_by=work.result_by,
        exit_code=ending.exit_code,
        stdout=ending.stdout,
        stderr=ending.stderr,
    )


class Done(Struct, frozen=True):
    """What a successful attempt gave, its large parts already stored: the fields are those of `Result`."""

    duration_s: float
    value: bytes = b""
    blob: Blob | None = None
    packed: bool = False
    blobs: tuple[Blob | None, ...] = ()
    errors: tuple[tuple[int, str], ...] = ()
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""


def result_of(attempt: Attempt, done: Done, node: str) -> Result:
    """The task's result."""
    task, history = attempt.task, attempt.work.history
    return Result(  # in the order of its fields: by name it costs twice as much, for every task
        task.id,
        task.submitter,
        SUCCEEDED,
        node,
        history.placement,
        history.attempts + 1,
        Raw(done.value) if done.value else NO_VALUE,
        done.blob,
        done.packed,
        done.blobs,
        tuple([ItemError(index, error) for index, error in done.errors]) if done.errors else (),
        done.exit_code,
        done.stdout,
        done.stderr,
        "",
        history.errors,
        attempt.started_at,
        round(1000 * done.duration_s, 3),
        attempt.items if isinstance(task.run, MapRun) else 0,
        task.input_bytes,
    )
