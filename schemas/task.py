"""Tasks on the wire: what is asked (`Task`), one placement of it (`Work`), and what came of it (`Outcome`, `Result`).

A *task* is one unit of dispatch, an *attempt* one start of it on one node, a *placement* one move of it to a place
(a node's queue or the waiting place). All times are seconds since 1970 unless they end in ``_s``, which are durations.

These are trees, never cycles, and come by the ten thousand a second: the garbage collector need not look at them (`gc=False`).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated

from msgspec import Meta, Raw, Struct

from schemas import limits
from schemas.names import Called, Id, Named


class TaskPriority(IntEnum):
    """Higher goes first. The number is also the token of the submit subject."""

    LOW = 1
    NORMAL = 3
    HIGH = 7
    CRITICAL = 10


class TaskType(StrEnum):
    """What the guide calls a task's type; a task may carry the user's own word instead."""

    INFERENCE = "inference"
    TRAINING = "training"
    EMBEDDING = "embedding"
    PREPROCESSING = "preprocessing"
    OPTIMIZATION = "optimization"
    VALIDATION = "validation"


class ResultState(StrEnum):
    """How a task ended. Exactly one of these is ever recorded for a task."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


SUCCEEDED = ResultState.SUCCEEDED  # by itself: CPython 3.11 finds a member by a function in Python, 0.3 µs each time


class OutcomeKind(StrEnum):
    """Why an attempt ended without a result."""

    FAILED = "failed"  # counts against the retries
    RETURNED = "returned"  # the node must stop (drain, battery, its user): no failure
    REFUSED = (
        "refused"  # the node cannot run it at all (kind not allowed, unknown function): no failure, never there again
    )


Cores = Annotated[float, Meta(gt=0, le=4096)]
Seconds = Annotated[float, Meta(gt=0, le=limits.TIMEOUT_MAX_S)]


class Needs(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a node must have. Empty means no demand. `memory_mb` and `storage_mb` are MiB."""

    cores: Cores = 1.0
    memory_mb: Annotated[int, Meta(ge=0, le=1 << 24)] = 64
    storage_mb: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    gpu: bool = False
    arch: Annotated[str, Meta(max_length=32)] = ""
    frameworks: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=16)] = ()
    labels: Annotated[dict[str, str], Meta(max_length=limits.LABELS_MAX)] = {}
    node: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,63}$")] = ""
    cluster: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,63}$")] = ""


class Blob(Struct, frozen=True, gc=False, omit_defaults=True):
    """Bytes: inline in `data` when small, else the object `ref` (``sha256-<hex>``) of the artifacts store."""

    size: Annotated[int, Meta(ge=0)] = 0
    data: bytes | None = None
    ref: Annotated[str, Meta(max_length=80)] = ""


class FileArg(Struct, frozen=True, gc=False):
    """Argument number `index` is bytes, `blob`; `args` holds null in its place."""

    index: Annotated[int, Meta(ge=0, le=255)]
    blob: Blob


class FunctionRun(Struct, frozen=True, gc=False, omit_defaults=True, tag="function", tag_field="kind"):
    """Call a function that the node offers. `args` is a JSON array."""

    name: Called
    args: Raw = Raw(b"[]")
    files: Annotated[tuple[FileArg, ...], Meta(max_length=256)] = ()


class MapRun(Struct, frozen=True, gc=False, omit_defaults=True, tag="map", tag_field="kind"):
    """Call a function once for each item: a chunk of the map job `job`, its items `first` up to `first + count`.

    The items are one of: `items`, a JSON array; `files`, a blob an item; `packed`, a blob that holds the JSON array.
    """

    name: Called
    job: Id
    first: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=1, le=limits.CHUNK_ITEMS_MAX)]
    items: Raw = Raw(b"")
    files: tuple[Blob, ...] = ()
    packed: Blob | None = None


class CommandRun(Struct, frozen=True, gc=False, omit_defaults=True, tag="command", tag_field="kind"):
    """Run a program of the node, without a shell. Needs the owner's explicit yes (``--allow command``)."""

    argv: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.ARGV_MAX)]
    env: Annotated[dict[str, str], Meta(max_length=256)] = {}
    stdin: Blob | None = None


# A WebAssembly module (``kind: wasm``) will be the fourth.
Run = FunctionRun | MapRun | CommandRun


class Retry(Struct, frozen=True, gc=False, omit_defaults=True):
    """How a failed attempt is tried again: after ``backoff_s × 2^n`` with jitter, at most `backoff_max_s`, `limit` times."""

    limit: Annotated[int, Meta(ge=0, le=limits.RETRIES_MAX)] = 2
    backoff_s: Annotated[float, Meta(ge=0, le=3600)] = 0.5
    backoff_max_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0


class Task(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a client submits, on ``task.submit.<priority>.<submitter>.<id>``. Never changed after that.

    `deadline_s` counts from the broker's timestamp of the submission; `timeout_s` limits one attempt.
    `input_bytes` is the size of all that the task carries or refers to. `resubmitted_from` is the task whose dead letter
    it was made from.
    """

    id: Named
    submitter: Named
    run: Run
    type: Annotated[str, Meta(max_length=64)] = ""
    priority: TaskPriority = TaskPriority.NORMAL
    needs: Needs = Needs()
    retry: Retry = Retry()
    timeout_s: Seconds = 3600.0
    deadline_s: Seconds | None = None
    estimated_duration_s: Seconds | None = None
    exclusive: bool = False
    wait_for_node: bool = False
    input_bytes: Annotated[int, Meta(ge=0)] = 0
    traceparent: Annotated[str, Meta(max_length=64)] = ""
    resubmitted_from: Annotated[str, Meta(max_length=63)] = ""


class FunctionHead(Struct, frozen=True, gc=False, tag="function", tag_field="kind"):
    """The part of `FunctionRun` that placing needs; decoding it skips the arguments."""

    name: Called


class MapHead(Struct, frozen=True, gc=False, tag="map", tag_field="kind"):
    """The part of `MapRun` that placing needs."""

    name: Called
    job: Id
    first: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=1, le=limits.CHUNK_ITEMS_MAX)]


class CommandHead(Struct, frozen=True, gc=False, tag="command", tag_field="kind"):
    """The part of `CommandRun` that placing needs."""

    argv: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.ARGV_MAX)]


class TaskHead(Struct, frozen=True, gc=False, omit_defaults=True):
    """A `Task` without what it carries: all that the coordinator decides by. Decodes from the same bytes.

    Its ids are not checked again here: whoever decodes it holds them against those of the subject, which are.
    """

    id: str
    submitter: str
    run: FunctionHead | MapHead | CommandHead
    type: Annotated[str, Meta(max_length=64)] = ""
    priority: TaskPriority = TaskPriority.NORMAL
    needs: Needs = Needs()
    retry: Retry = Retry()
    timeout_s: Seconds = 3600.0
    deadline_s: Seconds | None = None
    estimated_duration_s: Seconds | None = None
    exclusive: bool = False
    wait_for_node: bool = False
    input_bytes: Annotated[int, Meta(ge=0)] = 0
    traceparent: str = ""


class AttemptError(Struct, frozen=True, gc=False, omit_defaults=True):
    """One attempt that did not succeed: where, when, and what it said (cut to `limits.ERROR_MAX`)."""

    node: str
    attempt: int
    at: float
    error: str
    kind: str = "failed"  # failed, returned, refused, lost, timeout, memory, died (with its runner), arguments
    exit_code: int | None = None  # of a command


class History(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a task has been through. Travels with it, so that the streams alone are enough to go on.

    `placement` grows by one with every move; `attempts` counts starts on nodes; `lost` how often it went with its node.
    """

    placement: int = 0
    attempts: int = 0
    retries_used: int = 0
    lost: int = 0
    submitted_at: float = 0.0  # the broker's timestamp of the TASKS message
    errors: tuple[AttemptError, ...] = ()
    failed_on: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()  # nodes that refused it


class Work(Struct, frozen=True, gc=False, omit_defaults=True):
    """One placement, on ``work.<node>.<task>``. `task` is the submitted message as it came.

    Under the node ``_waiting`` it is the place of a task that fits nowhere or backs off: `not_before`, `reason`.
    """

    task: Raw
    history: History
    term: int = 0
    deadline_at: float | None = None
    result_by: float = 0.0
    not_before: float = 0.0
    reason: str = ""


class Outcome(Struct, frozen=True, gc=False, omit_defaults=True):
    """An attempt that ended without a result, on ``outcome.<node>.<task>``: carries the whole task on, as `Work` does.

    A command that failed has `exit_code`, `stdout`, `stderr` as a `Result` has them.
    """

    task: Raw
    history: History
    kind: OutcomeKind
    node: Id
    boot: int
    error: str = ""
    retry_after_s: float = 0.0
    started: bool = True
    duration_ms: float = 0.0
    deadline_at: float | None = None
    result_by: float = 0.0
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""


class ItemError(Struct, frozen=True, gc=False):
    """Item `index` of the job (not of the chunk) raised `error`; its place in the values holds null."""

    index: int
    error: str


class Result(Struct, frozen=True, gc=False, omit_defaults=True):
    """The one recorded end of a task, on ``result.<submitter>.<task>``, republished as ``done.<submitter>.<task>``.

    `value` is the returned JSON value (of a map chunk: the array of its items' values); bytes come in `blob`, and so does
    a value too large to be inline (`packed` tells: the blob then holds its JSON). A map chunk of bytes results has them
    as `blobs`. Commands have `exit_code`, `stdout`, `stderr` (the last `limits.OUTPUT_TAIL` bytes of each).
    `started_at` and `duration_ms` are those of the attempt that ended it: of a failed task, the last one. `dead_letter`: the
    whole task is kept in FOG_DEAD.
    """

    task: Named
    submitter: Named
    state: ResultState
    node: str = ""
    placement: int = 0
    attempts: int = 0
    value: Raw = Raw(b"")
    blob: Blob | None = None
    packed: bool = False
    blobs: tuple[Blob | None, ...] = ()
    item_errors: tuple[ItemError, ...] = ()
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    reason: str = ""
    errors: tuple[AttemptError, ...] = ()
    started_at: float = 0.0
    duration_ms: float = 0.0
    items: int = 0
    input_bytes: int = 0
    parts: tuple[str, ...] = ()  # the chunks that this chunk was split into: its items' values are theirs
    dead_letter: bool = False


class ResultHead(Struct, frozen=True, gc=False):
    """A `Result` without what it carries: what the coordinator needs for its accounts. Ids as in `TaskHead`."""

    task: str
    submitter: str
    state: ResultState
    node: str = ""
    placement: int = 0
    attempts: int = 0
    reason: str = ""
    started_at: float = 0.0
    duration_ms: float = 0.0
    items: int = 0
    input_bytes: int = 0
    exit_code: int | None = None
    errors: tuple[AttemptError, ...] = ()
    parts: tuple[str, ...] = ()
    dead_letter: bool = False


class Output(Struct, frozen=True, gc=False, omit_defaults=True):
    """A piece of what a running task prints, or its progress (0..1), on ``output.<submitter>.<task>``; not kept."""

    task: Id
    attempt: int
    stream: str  # stdout, stderr, progress
    text: str = ""
    progress: float | None = None
