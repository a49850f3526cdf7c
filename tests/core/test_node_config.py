"""Where a node's settings come from, and how wrong ones are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import Settings, node_name, parser, read_share, settings
from node.offer import offer_of
from schemas.device import DeviceCapabilities
from schemas.errors import BadInput

FILE = """
name = "from-file"
import = ["a"]
cores = 2
labels = { room = "attic", floor = "2" }
[device]
device_type = "laptop"
"""


def of(*args: str, env: dict[str, str] | None = None) -> Settings:
    return settings(parser().parse_args(args), env or {})


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(FILE)
    env = {"FOG_NODE_CORES": "3", "FOG_NODE_NAME": "from-env"}
    assert of("--config", str(file)).cores == 2
    assert of("--config", str(file), env=env).cores == 3
    found = of("--config", str(file), "--cores", "4.5", env=env)
    assert (found.cores, found.name, found.imports) == (4.5, "from-env", ("a",))


def test_labels_and_signals_of_several_sources_are_put_together(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(FILE)
    env = {"FOG_NODE_DEVICE_BATTERY_PERCENT": "40", "FOG_NODE_CONFIG": str(file)}
    found = of("--label", "room=cellar", "--device", "has_gpu=true", env=env)
    assert found.labels == {"room": "cellar", "floor": "2"}
    assert found.device == {"device_type": "laptop", "battery_percent": 40, "has_gpu": True}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("colour = 1", "colour"),
        ("slots = 0", "slots"),
        ("slots = 'x'", "slots"),
        ("allow = ['sudo']", "allow"),
        ("x", "toml"),
    ],
)
def test_a_wrong_setting_in_the_file_is_named(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(BadInput) as error:
        of("--config", str(file))
    assert field in error.value.field


@pytest.mark.parametrize(
    ("args", "field"),
    [(("--cores", "many"), "cores"), (("--label", "room"), "labels"), (("--config", "/no/such.toml"), "/no/such.toml")],
)
def test_a_wrong_flag_is_named(args: tuple[str, ...], field: str) -> None:
    with pytest.raises(BadInput) as error:
        of(*args)
    assert error.value.field == field


def test_a_name_is_made_from_the_hosts_and_a_given_one_is_checked() -> None:
    assert node_name(Settings())
    assert node_name(Settings(name="pi-4")) == "pi-4"
    with pytest.raises(BadInput):
        node_name(Settings(name="a.b"))


def test_by_default_a_node_offers_all_cores_half_of_its_memory_and_a_slot_a_core() -> None:
    offer = offer_of(Settings(), DeviceCapabilities(cpu_cores=4, ram_total_mb=8000), ())
    assert (offer.cores, offer.memory_mb, offer.slots, offer.kinds) == (4.0, 4000, 4, ("function", "map"))
    offer = offer_of(Settings(cores=0.5, memory_mb=100, allow=("command",)), DeviceCapabilities(), ())
    assert (offer.cores, offer.memory_mb, offer.slots, offer.kinds) == (0.5, 100, 1, ("function", "map", "command"))


@pytest.mark.parametrize("name", ["FOG_NODE_LABLES", "FOG_NODE_IMPORTS", "FOG_NODE_"])
def test_a_variable_that_is_no_setting_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadInput) as error:
        of(env={name: "x"})
    assert name in error.value.message


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_a_number_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(BadInput) as error:
        of(f"--cores={number}")
    assert "cores" in error.value.message


@pytest.mark.parametrize(("text", "field"), [("labels = ['a']", "labels"), ("device = 5", "device")])
def test_a_table_of_the_file_that_is_none_is_named_whatever_is_added_to_it(
    tmp_path: Path, text: str, field: str
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(BadInput) as error:
        of("--config", str(file), "--label", "a=b", "--device", "has_gpu=true")
    assert field in error.value.message


def test_empty_places_in_a_list_of_the_environment_count_for_nothing() -> None:
    assert of(env={"FOG_NODE_IMPORT": "a, b,,"}).imports == ("a", "b")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("auto", ("auto", 0)),
        ("192.168.1.7", ("192.168.1.7", 0)),
        ("192.168.1.7:7422", ("192.168.1.7", 7422)),
        ("fd00::7", ("fd00::7", 0)),
        ("[fd00::7]:7422", ("fd00::7", 7422)),
    ],
)
def test_where_peers_are_served_is_one_address_of_the_device(said: str, meant: tuple[str, int]) -> None:
    assert read_share(of("--share", said).share) == meant


@pytest.mark.parametrize(
    "said", ["0.0.0.0", "0.0.0.0:7422", "::", "[::]:7422", "*", ":7422", "host:port", "host:70000"]
)
def test_peers_are_never_served_at_every_address_by_accident(said: str) -> None:
    with pytest.raises(BadInput) as error:
        of("--share", said)
    assert error.value.field == "share"
