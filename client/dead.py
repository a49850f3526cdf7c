"""Dead letters: tasks that were given up after their attempts. Read straight from FOG_DEAD, so also without a coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from msgspec import Struct, structs

from schemas import jetstream, streams, subjects
from schemas.bus import Bus
from schemas.codec import Decoder, encode
from schemas.dead import DeadLetter
from schemas.errors import BadInput, NoRoom, Refused, StoreRefused
from schemas.jetstream import StoredMessage
from schemas.kv import WRONG_LAST_SEQUENCE
from schemas.names import check_id, new_id
from schemas.objects import Objects
from schemas.store import Store
from schemas.task import Blob, CommandRun, FunctionRun, MapRun, ResultHead, Task

GIVE_UP_S = 60.0  # as patient as a submit

_letter: Decoder[DeadLetter] = Decoder(DeadLetter)
_task: Decoder[Task] = Decoder(Task)
_result: Decoder[ResultHead] = Decoder(ResultHead)


class DeadRow(Struct, frozen=True):
    """One line about a dead letter. `at` is when its task was given up, in seconds since 1970; `node` where it failed last."""

    task: str
    submitter: str
    at: float = 0.0
    kind: str = ""
    what: str = ""
    priority: str = ""
    job: str = ""
    node: str = ""
    attempts: int = 0
    reason: str = ""
    resubmitted_from: str = ""
    resubmitted_as: str = ""


class Letter(Struct, frozen=True):
    """A dead letter in full: its line, the task as it was submitted, and the letter as it is stored."""

    row: DeadRow
    task: Task
    letter: DeadLetter
    seq: int


class DeadLetters:
    """The dead letters of a fleet, of all its submitters."""

    def __init__(self, bus: Bus, store: Store, objects: Objects) -> None:
        self._bus, self._store, self._objects = bus, store, objects

    async def rows(self, *, submitter: str = "", limit: int | None = None) -> list[DeadRow]:
        """Those that are there, the oldest first. One that cannot be read says so as its reason."""
        found: list[DeadRow] = []
        async for row in self._rows(check_id("submitter", submitter) if submitter else "*"):
            found.append(row)
            if limit is not None and len(found) >= limit:
                break
        return found

    async def _rows(self, submitter: str) -> AsyncIterator[DeadRow]:
        """Without those that lie there though their tasks ended otherwise: the coordinator is about to remove them."""
        async for page in jetstream.read_pages(self._bus, streams.DEAD, subjects.dead(submitter, "*")):
            ended = await self._ended([name_of(message) for message in page])
            for message in page:
                result = ended.get(name_of(message))
                if result is None or result.dead_letter:
                    yield _row_of(message)

    async def _ended(self, names: list[tuple[str, str]]) -> dict[tuple[str, str], ResultHead]:
        wanted = [subjects.result(submitter, task) for submitter, task in names]
        messages = await jetstream.multi_last(self._bus, streams.RESULTS, wanted)
        return {name_of(message): _result(message.data) for message in messages}

    async def letter(self, task: str) -> Letter:
        """The letter of a task. Raises Refused (``unknown-letter``), BadInput when it cannot be read."""
        message = await self._stored(task)
        letter = _letter(message.data)
        submitted = _task(letter.task)
        return Letter(_row(letter, submitted), submitted, letter, message.seq)

    async def _stored(self, task: str) -> StoredMessage:
        wanted = subjects.dead("*", check_id("task", task))
        message = await jetstream.get_message(self._bus, streams.DEAD, next_by=wanted)
        if message is None:
            raise Refused("unknown-letter", f"there is no dead letter of {task}", hint="`fog dead` lists them")
        return message

    async def drop(self, task: str) -> None:
        """Remove the letter of a task. Raises Refused (``unknown-letter``)."""
        message = await self._stored(task)
        await jetstream.delete_message(self._bus, streams.DEAD, message.seq)

    async def resubmit(self, task: str) -> str:
        """Submit the task of a letter again, as a new task of the same submitter whose id is returned, and drop the letter.

        Of several who do it at a time one does. What was interrupted goes on when it is asked for again, under the same id.
        Raises Refused (``unknown-letter``, ``not-dead``, ``not-recorded``, ``conflict``), ObjectMissing when its input has
        aged out.
        """
        found = await self.letter(task)
        await self._check_end(found)
        await self._keep_input(found.task)
        new = found.letter.resubmitted_as or new_id()
        seq = found.seq if found.letter.resubmitted_as else await self._claim(found, new)
        name = (found.task.submitter, new)
        if not await self._ended([name]):
            await self._submit(structs.replace(found.task, id=new, resubmitted_from=task))
        await jetstream.delete_message(self._bus, streams.DEAD, seq)
        return new

    async def _check_end(self, found: Letter) -> None:
        """A letter is stored before the result that it is of."""
        name = (found.task.submitter, found.task.id)
        result = (await self._ended([name])).get(name)
        if result is None:
            raise Refused(
                "not-recorded", f"the end of {found.task.id} is not recorded yet",
                hint="it is once a coordinator acts; `fog status` tells whether one does",
            )  # fmt: skip
        if not result.dead_letter:
            raise Refused("not-dead", f"{found.task.id} was not given up: {result.state.value}")

    async def _claim(self, found: Letter, new: str) -> int:
        """Write into the letter what is to become of its task, unless somebody else did; its new sequence."""
        subject = subjects.dead(found.task.submitter, found.task.id)
        headers = b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % found.seq
        data = encode(structs.replace(found.letter, resubmitted_as=new))
        try:
            return (await self._store.put(subject, data, headers=headers, timeout_s=GIVE_UP_S)).seq
        except StoreRefused as error:
            if error.code in WRONG_LAST_SEQUENCE:
                words = f"the letter of {found.task.id} has just changed: somebody else is at it"
                raise Refused("conflict", words, hint="look again: `fog dead`") from None
            raise

    async def _submit(self, task: Task) -> None:
        subject = subjects.submit(task.priority, task.submitter, task.id)
        try:
            await self._store.put(subject, encode(task), msg_id=task.id, timeout_s=GIVE_UP_S)
        except StoreRefused as error:
            raise NoRoom(streams.TASKS, error) if "maximum" in error.description else error from None

    async def _keep_input(self, task: Task) -> None:
        """What it refers to was stored for the first task, and must outlive the second."""
        for blob in blobs_of(task):
            if blob.ref:
                await self._objects.refresh(blob.ref)


def blobs_of(task: Task) -> Iterator[Blob]:
    """All bytes that a task carries or refers to."""
    run = task.run
    if isinstance(run, FunctionRun):
        yield from (file.blob for file in run.files)
    elif isinstance(run, MapRun):
        yield from run.files
        yield from (run.packed,) if run.packed is not None else ()
    elif run.stdin is not None:
        yield run.stdin


def name_of(message: StoredMessage) -> tuple[str, str]:
    """The submitter and the task that a subject of FOG_DEAD or FOG_RESULTS names."""
    submitter, task = subjects.tail(message.subject, 1)
    return submitter, task


def _row_of(message: StoredMessage) -> DeadRow:
    try:
        letter = _letter(message.data)
        return _row(letter, _task(letter.task))
    except BadInput as error:
        submitter, task = name_of(message)
        return DeadRow(task, submitter, reason=f"its letter cannot be read: {error.message}")


def _row(letter: DeadLetter, task: Task) -> DeadRow:
    run, result = task.run, letter.result
    return DeadRow(
        task.id,
        task.submitter,
        letter.at,
        str(run.__struct_config__.tag),
        run.argv[0] if isinstance(run, CommandRun) else run.name,
        task.priority.name.lower(),
        run.job if isinstance(run, MapRun) else "",
        result.node,
        result.attempts,
        result.reason,
        task.resubmitted_from,
        letter.resubmitted_as,
    )
