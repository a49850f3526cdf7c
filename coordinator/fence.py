"""The mark of a term in FOG_RESULTS, under which a coordinator's own results are stored: with the mark they end, too.

A message may be on its way for longer than its sender's lease lasts: a process that is stopped just before it writes, a
connection that stalls. So the broker compares each of our results with the mark as it stores it, and a successor deletes
the marks before its own. Nodes' results know no term.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from schemas import jetstream, streams, subjects
from schemas.bus import Bus
from schemas.errors import FogError, StoreRefused, Unreachable
from schemas.kv import WRONG_LAST_SEQUENCE
from schemas.logs import fields
from schemas.store import Store

NONE = 1 << 53  # no message has this sequence: what compares with it is refused, and looks at the mark again
log = logging.getLogger("fog.coordinator")

# One token more than a result has, so that no one who reads or hears results meets it; and `_term` is no submitter.
_of_term = re.compile(rf"{re.escape(subjects.result('_term', ''))}(\d+)\.mark").fullmatch


def mark(term: int) -> str:
    """The subject of a term's mark."""
    return subjects.result("_term", f"{term}.mark")


def outdated(answer: object) -> bool:
    """Whether the broker refused a result since the mark is not as it was (or, of several servers, is being compared)."""
    return isinstance(answer, StoreRefused) and answer.code in WRONG_LAST_SEQUENCE


class Fence:
    """The mark of one term. `may` says whether the lease is valid: without it no mark is made."""

    def __init__(self, bus: Bus, store: Store, term: int, may: Callable[[], bool]) -> None:
        self._bus, self._store, self._term, self._may = bus, store, term, may
        self._seq = NONE

    async def take(self) -> None:
        """Delete the marks of earlier terms: nothing that they still say is stored from now on. Then set ours."""
        for subject in await jetstream.subjects(self._bus, streams.RESULTS, subjects.result("_term", "*.mark")):
            found = _of_term(subject)
            if found and int(found[1]) < self._term:
                message = await jetstream.get_message(self._bus, streams.RESULTS, last_by=subject)
                if message is not None:
                    await jetstream.delete_message(self._bus, streams.RESULTS, message.seq)
        try:
            await self.renew()
        except FogError as error:  # a full stream: the first result of ours tries again
            log.warning("the term's mark was not set", extra=fields(term=self._term, error=error.message))

    async def renew(self) -> None:
        """Look at our mark, and set it when it is not there: it ages like a result. Raises FogError when that fails."""
        message = await jetstream.get_message(self._bus, streams.RESULTS, last_by=mark(self._term))
        if message is not None:
            self._seq = message.seq
            return
        if not self._may():
            raise Unreachable("the lease is over: no mark is set")
        try:
            self._seq = (await self._store.put(mark(self._term), b"")).seq
        except StoreRefused as error:
            if not error.exists:
                raise
            raise FogError("the mark was just set by an earlier try") from None

    def headers(self) -> bytes:
        """The condition under which the broker may store a result of this term."""
        return (
            b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % self._seq
            + b"Nats-Expected-Last-Subject-Sequence-Subject: %b\r\n" % mark(self._term).encode()
        )
