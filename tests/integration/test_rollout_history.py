"""Old rollouts leave the bucket with all that was kept of them, and a successor finds none of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from coordinator.areas import Term
from coordinator.core.rollouts import garbage
from coordinator.inbound import Bad
from coordinator.rollouts import RolloutArea
from schemas import jetstream, streams
from schemas import rollout_api as api
from schemas.codec import encode
from schemas.eventlog import EventLog
from schemas.kv import Kv
from schemas.rollout import AppVersion, DataOnly
from schemas.rollout_state import Outcome, RolloutPhase, RolloutRecord, RolloutSpec, Stage
from schemas.target import Target
from tests.integration.stack import Stack, stack


def version_of(name: str) -> AppVersion:
    return AppVersion("app", name, "sha256-" + "0" * 64, 0, DataOnly())


async def kept(fleet: Stack) -> set[str]:
    return set(await Kv(fleet.bus, fleet.store, streams.ROLLOUTS).all())


async def test_what_is_beyond_the_kept_ones_goes_with_its_outcomes(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "HISTORY_KEPT", 1)
    async with stack(target, tmp_path) as fleet:
        await jetstream.ensure_streams(fleet.bus)
        bucket = Kv(fleet.bus, fleet.store, streams.ROLLOUTS)
        for i in (1, 2):
            spec = RolloutSpec(f"r{i}", version_of(f"v{i}"), created_at=float(i))
            await bucket.put(f"r{i}", encode(RolloutRecord(spec, RolloutPhase.FAILED)))
            await bucket.put(f"r{i}.n1", encode(Outcome("n1", Stage.FAILED, i)))
        events = EventLog(fleet.bus, fleet.store, "/test")
        area = RolloutArea(
            Term(
                fleet.bus, fleet.store, events, Bad(), time.time, 1, "c1", lambda: True, {}, lambda _event: None
            )
        )  # fmt: skip
        await area.start()
        await area.endpoints()["rollout.gc"][1](api.GcRequest())
        assert await kept(fleet) == {"r2", "r2.n1"}
        await area.stop()
        events.close()
