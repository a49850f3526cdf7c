"""What running tasks print, on its way to whoever watches: gathered for a moment, sent in pieces, never kept."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from node.context import Context
from node.core.attempts import Attempt
from node.runners.frames import Printed, Progressed
from schemas import limits, subjects
from schemas.codec import encode
from schemas.task import Output

GATHER_S = 0.02  # output waits no longer than this
PIECES_MAX = 50  # pieces of one attempt within GATHER_S; more are put together, each stream in its order
BURST_MAX = 8 * limits.OUTPUT_FRAME  # characters of one stream within GATHER_S; what is beyond is left out, and said so


class _Piece(Struct):
    stream: str
    texts: list[str]
    size: int = 0
    left_out: int = 0


def _piece_for(pieces: list[_Piece], stream: str) -> _Piece:
    """The last piece if it is of that stream; of many small ones, the last of that stream."""
    if pieces and pieces[-1].stream == stream:
        return pieces[-1]
    if len(pieces) >= PIECES_MAX:
        return pieces[-1] if pieces[-1].stream == stream else pieces[-2]
    pieces.append(_Piece(stream, []))
    return pieces[-1]


class Outputs:
    """Gathers by attempt. Order is kept within an attempt; between its two streams as far as PIECES_MAX allows."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: dict[Attempt, list[_Piece]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, attempt: Attempt, message: Printed | Progressed) -> None:
        """Take in what a runner said of the attempt."""
        if isinstance(message, Progressed):
            self._send_of(attempt)
            self._publish(attempt, "progress", message.text[: limits.REASON_MAX], message.fraction)
            return
        pieces = self._waiting.setdefault(attempt, [])
        piece = _piece_for(pieces, message.stream)
        if piece.size > BURST_MAX:
            piece.left_out += len(message.text)
        else:
            piece.texts.append(message.text)
            piece.size += len(message.text)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._send_all)

    def end(self, attempt: Attempt) -> None:
        """The attempt is over: what it said goes out before its result."""
        if attempt in self._waiting:
            self._send_of(attempt)

    def _send_all(self) -> None:
        self._timer = None
        for attempt in list(self._waiting):
            self._send_of(attempt)

    def _send_of(self, attempt: Attempt) -> None:
        for piece in self._waiting.pop(attempt, ()):
            text = "".join(piece.texts)
            if piece.left_out:
                text += f"\n[{piece.left_out} characters left out: more than can be streamed]\n"
            step = limits.OUTPUT_FRAME if text.isascii() else limits.OUTPUT_FRAME // 4
            for at in range(0, len(text), step):
                self._publish(attempt, piece.stream, text[at : at + step], None)

    def _publish(self, attempt: Attempt, stream: str, text: str, progress: float | None) -> None:
        task = attempt.task
        number = attempt.work.history.attempts + 1
        subject = subjects.output(task.submitter, task.id)
        self._context.bus.publish(subject, encode(Output(task.id, number, stream, text, progress)))
