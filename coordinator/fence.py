"""The mark of a term in a stream, under which a coordinator's own results (and dead letters) are stored: with the mark they
end, too.

A message may be on its way for longer than its sender's lease lasts: a process that is stopped just before it writes, a
connection that stalls. So the broker compares each of our messages with the mark as it stores it, and a successor deletes
the marks before its own. Nodes' results know no term.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from schemas import jetstream, streams, subjects
from schemas.bus import Bus
from schemas.errors import FogError, StoreRefused, Unreachable
from schemas.kv import WRONG_LAST_SEQUENCE
from schemas.logs import fields
from schemas.store import Store

NONE = 1 << 53  # no message has this sequence: what compares with it is refused, and looks at the mark again
log = logging.getLogger("fog.coordinator")

# By stream, what makes its subjects. A mark's has one token more than theirs, so that no one who reads or hears them meets
# it; and `_term` is no submitter.
SUBJECTS = {streams.RESULTS: subjects.result, streams.DEAD: subjects.dead}


def mark(term: int | str, stream: str = streams.RESULTS) -> str:
    """The subject of a term's mark; of all terms' with ``*``."""
    return SUBJECTS[stream]("_term", f"{term}.mark")


def outdated(answer: object) -> bool:
    """Whether the broker refused a result since the mark is not as it was (or, of several servers, is being compared)."""
    return isinstance(answer, StoreRefused) and answer.code in WRONG_LAST_SEQUENCE


class Fence:
    """The mark of one term in one stream. `may` says whether the lease is valid: without it no mark is made."""

    def __init__(
        self, bus: Bus, store: Store, term: int, may: Callable[[], bool], stream: str = streams.RESULTS
    ) -> None:
        self._bus, self._store, self.term, self._may, self._stream = bus, store, term, may, stream
        self._mark = mark(term, stream)
        self._seq = NONE

    @property
    def one_at_a_time(self) -> bool:
        """Whether the broker refuses what compares with the mark while another such message is being stored."""
        return self._bus.clustered

    async def take(self) -> None:
        """Delete the marks of earlier terms: nothing that they still say is stored from now on. Then set ours."""
        for subject in await jetstream.subjects(self._bus, self._stream, mark("*", self._stream)):
            term = subjects.tail(subject, 2)[0]
            if term.isdigit() and int(term) < self.term:
                message = await jetstream.get_message(self._bus, self._stream, last_by=subject)
                if message is not None:
                    await jetstream.delete_message(self._bus, self._stream, message.seq)
        try:
            await self.renew()
        except FogError as error:  # a full stream: the first result of ours tries again
            where = fields(term=self.term, stream=self._stream, error=error.message)
            log.warning("the term's mark was not set", extra=where)

    async def renew(self) -> None:
        """Look at our mark, and set it when it is not there: it ages like a result. Raises FogError when that fails."""
        message = await jetstream.get_message(self._bus, self._stream, last_by=self._mark)
        if message is not None:
            self._seq = message.seq
            return
        if not self._may():
            raise Unreachable("the lease is over: no mark is set")
        try:
            self._seq = (await self._store.put(self._mark, b"")).seq
        except StoreRefused as error:
            if not error.exists:
                raise
            raise FogError("the mark was just set by an earlier try") from None

    def headers(self) -> bytes:
        """The condition under which the broker may store a message of this term."""
        return (
            b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % self._seq
            + b"Nats-Expected-Last-Subject-Sequence-Subject: %b\r\n" % self._mark.encode()
        )
