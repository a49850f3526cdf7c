"""When a device serves its peers, and how what it has is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from node.core.advice import advise
from node.core.serving import why_not_serve, why_too_far
from schemas.advice import PowerMode, Profile, QosPolicy
from schemas.device import DeviceState, NetworkType, ThermalState
from schemas.errors import BadInput
from schemas.peer import bits_of, held_by
from schemas.peer_link import is_proof, key_of, proof, read_address, read_greeting, read_size

WELL = advise(Profile(has_battery=False), QosPolicy(), None, 0.0)


@pytest.mark.parametrize(
    ("advice", "state", "refuses", "why"),
    [
        ({}, DeviceState(), "", ""),
        ({}, DeviceState(network_metered=False, network_type=NetworkType.WIFI), "", ""),
        ({}, DeviceState(network_metered=None), "", ""),
        ({}, DeviceState(), "the node sleeps", "the node sleeps"),
        ({"power_mode": PowerMode.BALANCED}, DeviceState(), "", ""),
        ({"power_mode": PowerMode.POWER_SAVE}, DeviceState(), "", "its power mode is power_save"),
        ({"power_mode": PowerMode.CRITICAL}, DeviceState(), "", "its power mode is critical"),
        ({"thermal_state": ThermalState.WARM}, DeviceState(), "", ""),
        ({"thermal_state": ThermalState.HOT}, DeviceState(), "", "it is hot"),
        ({}, DeviceState(network_metered=True), "", "its network is metered"),
        ({}, DeviceState(network_type=NetworkType.CELLULAR), "", "its network is metered"),
    ],
)
def test_a_device_serves_only_while_it_costs_its_owner_nothing(
    advice: dict[str, object], state: DeviceState, refuses: str, why: str
) -> None:
    assert why_not_serve(structs.replace(WELL, **advice), state, refuses) == why


def test_only_who_is_known_to_be_behind_another_gateway_is_too_far() -> None:
    assert why_too_far("gw1", "gw2")
    assert not why_too_far("gw1", "gw1") and not why_too_far("", "gw2") and not why_too_far("gw1", "")


@given(st.lists(st.booleans(), max_size=100))
def test_what_is_held_is_understood_as_it_was_told(held: list[bool]) -> None:
    names = [f"c{number}" for number in range(len(held))]
    assert held_by(bits_of(held), names) == {name for name, one in zip(names, held, strict=True) if one}
    assert held_by(None, names) == set(names)


@given(st.binary(max_size=50), st.integers(0, 100))
def test_any_bits_name_only_chunks_that_there_are(bits: bytes, count: int) -> None:
    names = [f"c{number}" for number in range(count)]
    assert held_by(bits, names) <= set(names)


def test_a_proof_is_for_one_key_and_one_connection() -> None:
    key = key_of(b"secret", "c1", "n1")
    assert is_proof(proof(key, "nonce"), key, "nonce")
    assert not is_proof(proof(key, "nonce"), key, "other")
    assert not is_proof(proof(key_of(b"secret", "c1", "n2"), "nonce"), key, "nonce")
    assert key_of(b"secret", "c2", "n1") != key != key_of(b"other", "c1", "n1")


@pytest.mark.parametrize("line", [b"", b"HTTP/1.1 400 Bad Request\n", b"FOG-CHUNKS 2 aa\n", b"\xff\xfe\n"])
def test_what_is_no_server_of_chunks_is_noticed(line: bytes) -> None:
    with pytest.raises(BadInput):
        read_greeting(line)


def test_a_size_is_that_of_the_chunk_or_none() -> None:
    assert read_size(b"-\n", 7) is None and read_size(b"7\n", 7) == 7
    for line in (b"8\n", b"7", b"-7\n", b"999999999999\n", b""):
        with pytest.raises(BadInput):
            read_size(line, 7)


@pytest.mark.parametrize(
    "at",
    ["", "127.0.0.1", ":1", "::1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x",
     "a.name:80", "[fe80::1%\0]:80", f"{'x' * 64}:80", "127.0.0.1:" + "1" * 5000],
)  # fmt: skip
def test_an_address_has_a_host_that_is_not_to_be_looked_up_and_a_port(at: str) -> None:
    with pytest.raises(BadInput):
        read_address(at)


def test_addresses_of_both_kinds_are_read() -> None:
    assert read_address("127.0.0.1:80") == ("127.0.0.1", 80) and read_address("[fd00::1]:80") == ("fd00::1", 80)
