"""The generated contract: it says what our messages are, and tools that know nothing of us can use it."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from schemas import api, asyncapi, cluster, decision, generate, subjects
from schemas.device import DeviceCapabilities, DeviceState
from schemas.event import (
    EVENTS,
    AppEvent,
    CloudEvent,
    ClusterEvent,
    CoordinatorEvent,
    DecisionEvent,
    HarvestEvent,
    HoldEvent,
    LeaderEvent,
    NodeEvent,
    NodePolicy,
    NodePower,
    NodeRegistered,
    PeerEvent,
    RolloutEvent,
    TaskEnded,
    TaskEvent,
    rfc3339,
)
from schemas.membership import Heartbeat, Held
from schemas.task import (
    AttemptError,
    Blob,
    CommandRun,
    FileArg,
    FunctionRun,
    History,
    MapRun,
    Result,
    ResultState,
    Task,
    Work,
)

SCHEMAS = generate.json_schemas()
DOCUMENT = generate.asyncapi()
SAMPLES: dict[type, Any] = {
    NodeEvent: NodeEvent("n1", boot=2, reason="three beats missed"),
    NodeRegistered: NodeRegistered("n1", 1, DeviceCapabilities(cpu_cores=8), {"room": "attic"}, ("echo",)),
    NodePower: NodePower("n1", 2, "power_save", "balanced", "warm"),
    NodePolicy: NodePolicy("n1", {"max_cpu_percent": "30"}),
    TaskEvent: TaskEvent("t1", "jo", node="n1", placement=1, attempt=1, moved_from="n2"),
    TaskEnded: TaskEnded("t1", "jo", attempts=1, exit_code=3, errors=(AttemptError("n1", 1, 1.5, "it broke"),)),
    CoordinatorEvent: CoordinatorEvent("c1", 7),
    HoldEvent: HoldEvent("c1", 7, 4, 10, 1000.0, "4 of 10 nodes fell silent"),
    HarvestEvent: HarvestEvent("n1", "h-1", "user_active", "the screen is on", 12.5),
    RolloutEvent: RolloutEvent("r1", "model", "1.2.0", "gated", 1, 4, 1, 2, "1 of 5 failed"),
    AppEvent: AppEvent("n1", "model", "1.2.0", "r1", 3, "not healthy in time"),
    DecisionEvent: DecisionEvent("c1", "p1", "update?", "accepted", ("n1",), (), ("n2",), 12),
    ClusterEvent: ClusterEvent("c1", 3, ("n1",), reason="n1 joined"),
    PeerEvent: PeerEvent("c1", "n1", "n2", "sha256-" + "a" * 64, "sha256-" + "b" * 64, "other bytes"),
    LeaderEvent: LeaderEvent("c1", "n1", 12, "n2", 0.7, "n2 was lost"),
}


@cache
def validator(name: str) -> jsonschema.Validator:
    cls = jsonschema.validators.validator_for(SCHEMAS[name])
    cls.check_schema(SCHEMAS[name])
    return cls(SCHEMAS[name])


def on_the_wire(message: Any) -> Any:
    return json.loads(msgspec.json.encode(message))


def event(kind: str) -> dict[str, Any]:
    made = CloudEvent(
        f"x.{kind}", "/coordinator/c1", f"fog.{kind}", rfc3339(1.25), SAMPLES[EVENTS[kind][0]], subject="x"
    )
    found: dict[str, Any] = on_the_wire(made)
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_a_valid_schema_with_its_parts_inside(name: str) -> None:
    validator(name)
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(SCHEMAS[name])):
        assert reference.removeprefix("#/$defs/") in SCHEMAS[name]["$defs"]


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_as_we_encode_it_fits_the_schema_of_its_type(kind: str) -> None:
    validator(f"event.{kind}").validate(event(kind))


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_fits_the_schema_of_no_other_type(kind: str) -> None:
    others = [name for name in SCHEMAS if name.startswith("event.") and name != f"event.{kind}"]
    assert not any(validator(name).is_valid(event(kind)) for name in others)


@pytest.mark.parametrize(
    "damage",
    [
        {"time": "yesterday"},
        {"surprise": 1},
        {"specversion": "0.3"},
        {"subject": "a.*"},
        {"fogterm": -1},
        {"source": ""},
    ],
)
def test_an_event_with_a_wrong_part_is_noticed(damage: dict[str, Any]) -> None:
    assert not validator("event.task.failed").is_valid(event("task.failed") | damage)


@pytest.mark.parametrize("missing", CloudEvent.__struct_fields__)
def test_an_event_without_a_required_part_is_noticed(missing: str) -> None:
    broken = {key: value for key, value in event("task.failed").items() if key != missing}
    assert not validator("event.task.failed").is_valid(broken)


def test_a_field_that_the_contract_does_not_name_is_noticed_deep_inside_an_event() -> None:
    broken = event("task.failed")
    broken["data"]["errors"][0]["colour"] = "red"
    assert not validator("event.task.failed").is_valid(broken)


def test_messages_with_everything_in_them_fit_their_schemas() -> None:
    call = FunctionRun("sha256", msgspec.Raw(b"[null,1]"), (FileArg(0, Blob(3, b"abc")),))
    chunk = MapRun("wordcount", "job", 0, 2, files=(Blob(1, ref="sha256-00"),))
    for run in (call, chunk, CommandRun(("true",), {"A": "b"})):
        task = Task("t1", "jo", run, deadline_s=4.0)
        validator("Task").validate(on_the_wire(task))
        work = Work(msgspec.Raw(msgspec.json.encode(task)), History(1, 1))
        validator("Work").validate(on_the_wire(work))
    result = Result("t1", "jo", ResultState.SUCCEEDED, value=msgspec.Raw(b'{"a":1}'))
    validator("Result").validate(on_the_wire(result))


def test_a_beat_fits_its_schema_whether_a_reading_is_unset_unknown_or_there() -> None:
    for state in (DeviceState(), DeviceState(battery_percent=None), DeviceState(battery_percent=3.5, mains=False)):
        beat = Heartbeat("n1", 1, 0, 1.0, held=(Held("t1", 1, True),), state=state)
        validator("Heartbeat").validate(on_the_wire(beat))


def test_messages_are_open_and_still_checked() -> None:
    task = on_the_wire(Task("t1", "jo", FunctionRun("echo")))
    check = validator("Task")
    assert check.is_valid(task | {"from_the_future": 1})
    assert not check.is_valid(task | {"id": "a.b"})
    assert not check.is_valid(task | {"run": {"kind": "function"}})
    assert not check.is_valid(task | {"run": {"kind": "function", "name": "echo", "args": "not an array"}})


# -- the AsyncAPI document, by the rules of AsyncAPI 3.0.0 that a reader depends on


def resolve(reference: str) -> Any:
    assert reference.startswith("#/"), reference
    found: Any = DOCUMENT
    for token in reference[2:].split("/"):
        found = found[token]
    return found


def refs(operation: dict[str, Any]) -> list[str]:
    return [message["$ref"] for message in operation["messages"]]


def references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [ref for item in part for ref in references(item)]
    if not isinstance(part, dict):
        return []
    return ([part["$ref"]] if "$ref" in part else []) + [ref for item in part.values() for ref in references(item)]


def test_the_document_has_what_asyncapi_3_requires_and_nothing_unknown() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    known = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    assert DOCUMENT.keys() <= known
    for server in DOCUMENT["servers"].values():
        assert server["protocol"] == "nats"
        assert set(re.findall(r"{(\w+)}", server["host"])) == server["variables"].keys()


def test_every_reference_in_the_document_leads_somewhere() -> None:
    found = references(DOCUMENT)
    assert found
    for reference in found:
        resolve(reference)


def test_every_channel_names_its_parameters_and_messages() -> None:
    for channel in DOCUMENT["channels"].values():
        assert channel.keys() <= {"address", "summary", "messages", "parameters"}
        in_address = set(re.findall(r"{(\w+)}", channel["address"] or ""))
        assert in_address == channel.get("parameters", {}).keys()
        assert all(message.keys() == {"$ref"} for message in channel["messages"].values())


def test_every_operation_refers_to_messages_of_its_own_channel() -> None:
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        for part in (operation, operation.get("reply", operation)):
            channel = part["channel"]["$ref"]
            assert channel.startswith("#/channels/")
            assert all(message["$ref"].startswith(f"{channel}/messages/") for message in part["messages"])


def test_component_names_are_those_that_asyncapi_allows() -> None:
    for kind in DOCUMENT["components"].values():
        assert all(re.fullmatch(r"[a-zA-Z0-9.\-_]+", name) for name in kind)


def test_every_event_type_has_a_channel_on_its_documented_subject_with_a_closed_payload() -> None:
    for kind in EVENTS:
        channel = DOCUMENT["channels"][f"event.{kind}"]
        assert channel["address"] == subjects.event(kind, "{id}")
        payload = resolve(resolve(channel["messages"][f"event.{kind}"]["$ref"])["payload"]["$ref"])
        assert payload["properties"]["type"] == {"const": f"fog.{kind}"}
        assert payload["additionalProperties"] is False


def test_every_request_says_what_may_answer_it() -> None:
    """Those of the API are answered by a refusal as well."""
    calls = {name: op for name, op in DOCUMENT["operations"].items() if "reply" in op}
    assert {"receive.register", "send.node.command", "receive.api.fleet.status"} <= calls.keys()
    for name, operation in calls.items():
        channel = resolve(operation["reply"]["channel"]["$ref"])
        assert channel["address"] is None
        answers = {resolve(message["$ref"])["name"] for message in map(resolve, refs(operation["reply"]))}
        assert answers and ("ApiError" in answers) == name.startswith("receive.api.")


def test_the_documented_calls_are_those_that_the_contract_lists() -> None:
    listed = re.findall(
        r"\| ``api\.([a-z.]+)`` \| `(\w+)` \| `(\w+)` \|", f"{api.__doc__}{cluster.__doc__}{decision.__doc__}"
    )
    assert {call: (asked, answered) for call, asked, answered in listed} == asyncapi.API


def test_payloads_are_valid_in_asyncapis_own_dialect_and_accept_our_messages() -> None:
    """AsyncAPI's default is draft 7 with additions; the pointers only resolve inside the whole document."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft7Validator.check_schema(schema)
        assert "prefixItems" not in json.dumps(schema), name
    whole = {**DOCUMENT, "$ref": "#/components/schemas/event.task.failed"}
    check = jsonschema.Draft7Validator(whole)
    check.validate(event("task.failed"))
    assert not check.is_valid(event("task.expired"))


def test_write_leaves_one_readable_file_for_each_schema_and_the_document(tmp_path: Path) -> None:
    written = generate.write(tmp_path / "new" / "folder")
    assert {path.name for path in written} == {f"{name}.schema.json" for name in SCHEMAS} | {"asyncapi.json"}
    assert json.loads((tmp_path / "new" / "folder" / "asyncapi.json").read_text()) == DOCUMENT
    assert json.loads((tmp_path / "new" / "folder" / "Task.schema.json").read_text()) == SCHEMAS["Task"]
