"""Claims on their way to the ledger: on the disk first, held for a batch, one after the other, also over a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from node.claims import Claims
from node.core.transport import Way
from node.transports import Transports
from schemas.advice import TransportPreference
from schemas.errors import BadInput, FogError, StoreRefused
from schemas.ledger import Claim, claim_of
from schemas.store import Ack
from tests.until import eventually


class World:
    """A broker that takes a message when the test says so."""

    def __init__(self, folder: Path, spares: str) -> None:
        self.folder = folder
        self.posts: list[tuple[str, Callable[[Ack | FogError], None]]] = []
        context: Any = SimpleNamespace(
            node="n1", bus=SimpleNamespace(connected=True), store=self, leaving=False, closed_to="", sleep=None, full=""
        )
        self.transports = Transports(context, lambda: Way(TransportPreference.BITCHAT_PREFERRED, spares))
        self.claims = Claims(context, folder, self.transports)
        context.outbox_held = 0

    def post(self, _subject: str, data: bytes, msg_id: str, on_answer: Callable[[Ack | FogError], None]) -> None:
        assert claim_of(data).id == msg_id
        self.posts.append((msg_id, on_answer))

    @property
    def said(self) -> list[str]:
        return [claim for claim, _ in self.posts]

    def kept(self) -> int:
        return len(list(self.folder.glob("*.claim")))


def claim(number: int) -> Claim:
    return Claim(f"h1.{number}", "n1", "h1", 1_000, ((1_000 * number, 1_000 * number + 500),))


async def test_held_claims_go_with_the_batch_each_after_the_broker_has_the_one_before(tmp_path: Path) -> None:
    w = World(tmp_path / "claims", "battery 15 %")
    for number in (9, 10, 11):
        w.claims.finished(claim(number))
    await eventually(lambda: w.transports.held == 3)
    assert (w.kept(), w.said, w.transports.claims()) == (3, [], 3)
    w.transports.on_beat()
    assert w.said == ["h1.9"]
    w.posts[0][1](Ack("FOG_LEDGER", 1))
    assert w.said == ["h1.9", "h1.10"]
    await w.claims.close()

    w = World(tmp_path / "claims", "battery 15 %")  # killed before the broker's word of the second
    await w.claims.open()
    assert w.said == ["h1.10"], "at once: who has just started has its radio awake"
    w.posts[0][1](Ack("FOG_LEDGER", 2, duplicate=True))
    w.posts[1][1](Ack("FOG_LEDGER", 3))
    assert w.said == ["h1.10", "h1.11"]
    await eventually(lambda: not w.kept())
    await w.claims.close()


@pytest.mark.parametrize(
    "refusal",
    [StoreRefused("ledger", 10077, "maximum bytes exceeded"), BadInput("data", "the broker takes less at a time")],
)
async def test_a_claim_that_is_refused_for_now_keeps_those_behind_it_waiting(
    tmp_path: Path, monkeypatch: Any, refusal: FogError
) -> None:
    monkeypatch.setattr("node.claims.AGAIN_S", 0.01)
    w = World(tmp_path / "claims", "")
    w.claims.finished(claim(1))
    w.claims.finished(claim(2))
    await eventually(lambda: w.said)
    w.posts[0][1](refusal)
    await eventually(lambda: len(w.posts) == 2)
    assert w.said == ["h1.1", "h1.1"]
    w.posts[1][1](Ack("FOG_LEDGER", 1))
    await eventually(lambda: w.said == ["h1.1", "h1.1", "h1.2"])
    await w.claims.close()
