"""The figures of harvesting (SPEC 6.6), of each device and of the network: states by the nodes' beats, the rest by the book."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from coordinator.core.ledger.book import Book
from coordinator.core.nodeview import NodeView
from coordinator.core.score import score
from schemas import limits
from schemas.harvest import HarvestReply, HarvestRow, HarvestState
from schemas.membership import NodeState

AWAY = (NodeState.LOST, NodeState.LEAVING, NodeState.ASLEEP)


def row(node: str, view: NodeView | None, book: Book) -> HarvestRow:
    """One device's."""
    account = book.row(node)
    return HarvestRow(
        node,
        "" if view is None else view.harvest_state,
        view is None or view.state in AWAY,
        account.sessions,
        account.paid_ms,
        account.micro,
        0.0 if view is None else round(score(view)[0], 4),
    )


def network(nodes: Mapping[str, NodeView], book: Book, page: int) -> HarvestReply:
    """A page of devices, and the sums over all of them."""
    names = sorted({*book.accounts, *(node for node, view in nodes.items() if view.harvest_state)})
    rows = [row(node, nodes.get(node), book) for node in names]
    here = [one for one in rows if one.state and not one.away]
    return HarvestReply(
        tuple(rows[page * limits.PAGE : (page + 1) * limits.PAGE]),
        len(rows),
        page,
        active=sum(one.state == HarvestState.HARVESTING for one in here),
        sessions=sum(one.sessions for one in rows),
        paid_ms=sum(one.paid_ms for one in rows),
        micro=sum(one.micro for one in rows),
        states=dict(Counter(one.state for one in here)),
        compute_score=round(sum(one.score for one in here), 4),
    )
