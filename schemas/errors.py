"""The errors a user of fogfleet can meet: a small tree that carries the facts as fields and says what to do next."""

from __future__ import annotations


class FogError(Exception):
    """Anything fogfleet refuses or cannot do. `hint` says what the reader can do about it (may be empty)."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class BadInput(FogError):
    """A value that was refused at the edge. `field` is its path (``needs.cores``), `problem` what is wrong with it."""

    def __init__(self, field: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{field}: {problem}", hint=hint)
        self.field = field
        self.problem = problem


class Unreachable(FogError):
    """Nobody answered: no broker at that address, or no coordinator behind it. Trying again later may help."""


class NoResponders(Unreachable):
    """The broker is there, and nobody listens on that subject."""


class FellBehind(FogError):
    """A reader of events was slower than they come: the oldest went before it had read them. Reading ends here.

    `missed` events are gone (with a filter: at most so many), `behind` was all that it had not read, these included.
    `after` is the sequence of the last one that is gone: reading on after it misses nothing more.
    """

    def __init__(self, missed: int, behind: int, after: int, *, exact: bool = True) -> None:
        most = "" if exact else "up to "
        super().__init__(
            f"reading was too slow: {behind:,} events behind, and {most}{missed:,} of them are no longer kept",
            hint=f"go on with what is still there: fog events --follow --after {after}, or fleet.events(after={after}, …)",
        )
        self.missed, self.behind, self.after = missed, behind, after


class Conflict(FogError):
    """A compare-and-set lost: somebody wrote first. Read again and decide anew."""


class BrokerUnfit(FogError):
    """A broker answers, but is too old, has no JetStream, or refuses what we need. Trying again will not help."""


class StoreRefused(FogError):
    """JetStream refused a message. `code` is the server's err_code, `description` its words."""

    def __init__(self, subject: str, code: int, description: str) -> None:
        super().__init__(f"the broker refused {subject}: {description} ({code})")
        self.subject = subject
        self.code = code
        self.description = description

    @property
    def exists(self) -> bool:
        """Whether it was refused since the one message that its subject may hold is there already (a result is recorded).

        The code alone does not tell: 10077 is the server's word for every failure to store, a full stream among them.
        """
        return self.code == 10077 and "per subject" in self.description


# nats-server (2.15) answers nothing to what it cannot write, and goes on so when there is room again, until it is started anew.
STORES_NOTHING = (
    "is its disk full? Make room; `fog up` then starts its broker again by itself, any other nats-server has to be started "
    "again. What was acknowledged is kept"
)


class NoRoom(StoreRefused):
    """A stream is at a limit of its own: nothing was stored. `stream` is its name, `description` the limit's."""

    def __init__(self, stream: str, refusal: StoreRefused) -> None:
        super().__init__(refusal.subject, refusal.code, refusal.description)
        self.stream = stream
        self.message = f"nothing was submitted: the stream {stream} is full ({refusal.description})"
        limit = "--max-msgs" if "messages" in refusal.description else "--max-bytes"
        self.hint = f"submit again once tasks have ended, or give it more room: nats stream edit {stream} {limit} …"


class Refused(FogError):
    """The coordinator or a node answered with a refusal. `code` is a stable word for scripts (``unknown-function``)."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class TaskFailed(FogError):
    """A task ended without success. `result` is its recorded `schemas.task.Result`."""

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result
