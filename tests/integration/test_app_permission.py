"""A device's owner has the last word: what would start a process there is refused by the device itself."""

from __future__ import annotations

from pathlib import Path

import msgspec

from schemas import streams, subjects
from schemas.codec import encode
from schemas.kv import Kv
from schemas.rollout import AppReport, Assignment, CommandCheck, DataOnly, Health, Phase, Told
from schemas.target import Target
from tests.integration.stack import stack
from tests.integration.test_apps_on_nodes import stored, version_of
from tests.until import eventually


async def test_a_command_that_comes_as_a_check_of_data_is_never_run_without_the_owners_yes(
    target: Target, tmp_path: Path
) -> None:
    """Told directly, past the coordinator, which would not have."""
    mark = tmp_path / "mark"
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        await fleet.node("n1")
        reports: list[AppReport] = []

        def heard(_subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
            reports.append(msgspec.json.decode(data, type=AppReport))

        await fleet.bus.subscribe(subjects.app_report("n1", "app"), heard)
        health = Health(CommandCheck(("touch", str(mark))), interval_s=0.1, healthy_deadline_s=2.0)
        version = version_of("1.0", await stored(fleet, {"f": b"f"}), DataOnly(), health)
        told = encode(Assignment("app", 1, Told.RUN, "r1", version=version))
        await Kv(fleet.bus, fleet.store, streams.ASSIGNED).put("n1.app", told)
        fleet.bus.publish(subjects.command("n1", "app"), told)
        await eventually(lambda: any(said.phase is Phase.FAILED for said in reports))
        assert "does not allow" in reports[-1].reason
        assert not mark.exists()
