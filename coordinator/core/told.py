"""What nodes tell, cut to what may be passed on: an event or a placement that grew past the broker's limit would be refused."""

from __future__ import annotations

from msgspec import structs

from schemas import limits
from schemas.task import AttemptError, History

NAME_MAX = 63  # as long as an id may be
NODES_KEPT = 256  # nodes that one history names


def kept_errors(errors: tuple[AttemptError, ...]) -> tuple[AttemptError, ...]:
    """The last `limits.ERRORS_KEPT` errors, each cut to `limits.ERROR_MAX` characters."""
    return tuple(_cut(error) for error in errors[-limits.ERRORS_KEPT :])


def _cut(e: AttemptError) -> AttemptError:
    if len(e.error) <= limits.ERROR_MAX and len(e.node) <= NAME_MAX and len(e.kind) <= NAME_MAX:
        return e
    return structs.replace(e, error=e.error[: limits.ERROR_MAX], node=e.node[:NAME_MAX], kind=e.kind[:NAME_MAX])


def kept_history(h: History) -> History:
    """A history of which nothing is known here but what a node told."""
    return structs.replace(
        h, errors=kept_errors(h.errors), failed_on=_names(h.failed_on), avoid=_names(h.avoid)
    )  # fmt: skip


def _names(nodes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(node[:NAME_MAX] for node in nodes[-NODES_KEPT:])
