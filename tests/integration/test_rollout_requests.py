"""The coordinator's side of rollouts, asked as a client asks, on a real broker with a real node."""

from __future__ import annotations

import base64
import signal
from pathlib import Path

import nkeys
import pytest
from msgspec import structs

from schemas import rollout_api as api
from schemas import subjects
from schemas.artifact import Chunk, File, Manifest, digest_of, name_of, signed_text
from schemas.codec import encode
from schemas.creds import new_seed
from schemas.errors import Refused
from schemas.keys import is_signed
from schemas.rollout import AppNeeds, AppVersion, DataOnly, Health, Strategy
from schemas.rollout_state import RolloutPhase, Stage
from schemas.target import Target
from tests.integration.stack import stack
from tests.until import eventually

CONTENT = b"0123456789"
MANIFEST = Manifest((File("f", (Chunk(digest_of(CONTENT), len(CONTENT)),)),))
DIGEST = name_of(MANIFEST)


def signed(version: str = "1.0", needs: AppNeeds = AppNeeds(), health: Health = Health()) -> AppVersion:  # noqa: B008 - frozen
    pair = nkeys.from_seed(bytearray(new_seed().encode()))
    key = pair.public_key.decode()
    signature = base64.b64encode(pair.sign(signed_text("model", version, DIGEST))).decode()
    return AppVersion("model", version, DIGEST, 10, DataOnly(), needs, health, key, signature)


async def test_a_plan_changes_nothing_and_shows_every_target_with_its_reasons(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        await fleet.node("n1")
        much = AppNeeds(cores=4000.0, attestation=True, encrypted_link=True)
        plan = await fleet.api.call("rollout", "plan", api.PlanRequest(signed(needs=much)), api.PlanReply)
        assert plan.counts == {"yes": 0, "deferred": 0, "rejected": 1}
        assert "4000 are needed" in plan.rows[0].reasons[0]
        assert plan.rows[0].reasons[-1] == "its link to the broker is not encrypted"  # a fleet on one machine
        assert (await fleet.api.call("rollout", "list", api.RolloutsRequest(), api.RolloutsReply)).rows == ()


async def test_a_rollout_is_kept_over_the_coordinators_death_and_what_a_device_is_told_with_it(
    target: Target, tmp_path: Path
) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        node = await fleet.node("n1")
        node.send_signal(signal.SIGSTOP)  # it is told, and does nothing about it yet
        for data in (CONTENT, encode(MANIFEST)):
            await fleet.store.put(subjects.chunk(digest_of(data)), data)
        request = api.CreateRequest("r1", signed(), strategy=Strategy(promote=False), by="jo")
        await fleet.api.call("rollout", "create", request, api.RolloutRow)

        async def told() -> bool:
            info = await fleet.api.call("rollout", "info", api.RolloutRequest("model"), api.RolloutInfo)
            return [device.stage for device in info.devices] == [Stage.TOLD]

        await eventually(told)
        fleet.kill("c1")
        await fleet.coordinator("c2")
        await eventually(told)
        again = await fleet.api.call("rollout", "create", request, api.RolloutRow)
        assert (again.id, again.by, again.phase) == ("r1", "jo", RolloutPhase.ROLLING)
        await fleet.api.call("rollout", "do", api.DoRequest("model", api.Do.ABORT), api.RolloutRow)
        await fleet.event("rollout.going-back", "r1")


async def test_a_rollout_of_what_is_not_whole_in_the_store_never_begins(target: Target, tmp_path: Path) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()

        async def refused(version: AppVersion) -> str:
            with pytest.raises(Refused) as error:
                await fleet.api.call("rollout", "create", api.CreateRequest("r1", version), api.RolloutRow)
            return f"{error.value.code}: {error.value.message}"

        assert (
            await refused(signed()) == "incomplete: version.artifact: 1 of the artifact's chunks are not in the store"
        )
        await fleet.store.put(subjects.chunk(DIGEST), encode(MANIFEST))
        assert (await refused(signed())).startswith("incomplete: version.artifact: 1 of")
        await fleet.store.put(subjects.chunk(digest_of(CONTENT)), CONTENT)
        assert "it has 10" in await refused(structs.replace(signed(), artifact_bytes=11))
        created = await fleet.api.call("rollout", "create", api.CreateRequest("r1", signed()), api.RolloutRow)
        assert created.phase is RolloutPhase.ROLLING


@pytest.mark.parametrize(
    ("version", "field"),
    [
        (AppVersion("model", "1.0", DIGEST, 10, DataOnly()), "signature"),
        (signed(health=Health(min_healthy_s=400.0)), "health.healthy_deadline_s"),
        (signed(health=Health(healthy_deadline_s=601.0)), "health.progress_deadline_s"),
    ],
)
async def test_what_no_device_should_be_told_is_refused_by_the_name_of_the_field(
    target: Target, tmp_path: Path, version: AppVersion, field: str
) -> None:
    async with stack(target, tmp_path) as fleet:
        await fleet.coordinator()
        with pytest.raises(Refused) as refused:
            await fleet.api.call("rollout", "create", api.CreateRequest("r1", version), api.RolloutRow)
        assert field in str(refused.value) or getattr(refused.value, "field", "") == field


def test_the_signature_is_over_app_version_and_content() -> None:
    version = signed()
    assert is_signed(version.key, signed_text("model", "1.0", DIGEST), version.signature)
    assert not is_signed(version.key, signed_text("model", "1.1", DIGEST), version.signature)
