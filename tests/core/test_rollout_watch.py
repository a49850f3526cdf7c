"""When `fog rollout … --watch` ends, and as what: over every phase and every stage of a device."""

from __future__ import annotations

import pytest

from client.rollouts import settled, went_well
from schemas.rollout import AppVersion, DataOnly
from schemas.rollout_api import RolloutInfo, RolloutRow
from schemas.rollout_state import RolloutPhase, RolloutRecord, RolloutSpec, Stage

SPEC = RolloutSpec("r1", AppVersion("web", "2.0", "sha256-" + "0" * 64, 1000, DataOnly()))


def info(phase: RolloutPhase, *stages: Stage) -> RolloutInfo:
    row = RolloutRow("r1", "web", "2.0", phase, "rolling", 0, 1.0, 1.0, {stage.value: 1 for stage in stages})
    return RolloutInfo(row, RolloutRecord(SPEC, phase), ())


@pytest.mark.parametrize("stage", [None, *Stage])
@pytest.mark.parametrize(
    "phase", [RolloutPhase.ROLLING, RolloutPhase.GATED, RolloutPhase.PAUSED, RolloutPhase.GOING_BACK]
)
def test_a_rollout_under_way_is_watched_on_whatever_its_devices_do(phase: RolloutPhase, stage: Stage | None) -> None:
    assert not settled(info(phase, *([stage] if stage else [])))


@pytest.mark.parametrize("stage", [Stage.WAITING, Stage.TOLD, Stage.RETURNING])
def test_nor_does_it_end_while_a_device_that_came_late_is_on_its_way(stage: Stage) -> None:
    assert not settled(info(RolloutPhase.CATCHING_UP, Stage.HEALTHY, stage))
    assert settled(info(RolloutPhase.CATCHING_UP, Stage.HEALTHY, Stage.DEFERRED))


@pytest.mark.parametrize(
    ("phase", "well"),
    [
        (RolloutPhase.SUCCEEDED, True),
        (RolloutPhase.FAILED, False),
        (RolloutPhase.ABORTED, False),
        (RolloutPhase.SUPERSEDED, False),
    ],
)
def test_it_ends_with_the_rollout_and_well_only_with_its_success(phase: RolloutPhase, well: bool) -> None:
    found = info(phase, Stage.HEALTHY, Stage.FAILED)
    assert settled(found)
    assert went_well(found.row) == well
