"""Answering for harvesting devices: figures from the book and the nodes' beats; of one device, what it says itself."""

from __future__ import annotations

import logging

from coordinator.areas import Term
from coordinator.core.ledger import figures
from coordinator.core.ledger.book import Book
from coordinator.refusal import Refusal
from schemas import subjects
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, NoResponders, Unreachable
from schemas.harvest import HarvestInfo, HarvestReport
from schemas.membership import NodeAnswer, NodeCommand

log = logging.getLogger("fog.ledger")

ASK_S = 1.0  # for a device to say how it stands
_answer: Decoder[NodeAnswer] = Decoder(NodeAnswer)


async def info(term: Term, book: Book, node: str) -> HarvestInfo:
    """One device in full. Raises Refusal for one that nobody knows."""
    view = term.nodes.get(node)
    if view is None and node not in book.accounts:
        raise Refusal("unknown-node", f"there is no node {node}", "`fog harvest` lists those that harvest", "node")
    row = figures.row(node, view, book)
    if not row.state:
        return HarvestInfo(row, problem="it does not harvest: its owner starts it with `fog node --harvest`")
    try:
        return HarvestInfo(row, await _ask(term, node))
    except NoResponders:
        return HarvestInfo(row, problem="it is not connected")
    except (Unreachable, BadInput) as error:
        return HarvestInfo(row, problem=f"it does not answer: {error.message}")


async def _ask(term: Term, node: str) -> HarvestReport:
    said = await term.bus.request(subjects.command(node, "harvest"), encode(NodeCommand(term.number)), ASK_S)
    answer = _answer(said)
    if answer.harvest is None:
        raise BadInput("harvest", answer.error or "nothing is said of it")
    return answer.harvest
