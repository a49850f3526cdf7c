"""Which way a message takes: the table of preferences, what is never held, and what the device's state makes of it."""

from __future__ import annotations

import itertools
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.core.advice import advise
from node.core.transport import HOLD_S, LARGE_BYTES, NEVER_HELD, TABLE, URGENT_PRIORITY, Message, Way, decide, way_of
from schemas.advice import PowerMode, Profile, QosPolicy, TransportPreference, policy_of
from schemas.device import NetworkQuality, NetworkType
from schemas.transport import Routing, Transport, What

T, B, C = TransportPreference, Transport.BETANET, Transport.BITCHAT
ORDER = list(T)  # directest first
RESULT = Message(What.RESULT, 300, 3)
LOW = "battery 15 % is at most 40 % and not charging"


@pytest.mark.parametrize(
    ("preference", "small", "large", "urgent"),
    [
        (T.BETANET_ONLY, B, B, B),
        (T.BETANET_PREFERRED, B, B, B),
        (T.BALANCED, C, B, B),
        (T.BITCHAT_PREFERRED, C, C, C),
        (T.BITCHAT_ONLY, C, C, C),
    ],
)
def test_every_preference_and_both_sides_of_both_thresholds(
    preference: T, small: Transport, large: Transport, urgent: Transport
) -> None:
    way = Way(preference, LOW)

    def of(size: int, priority: int) -> Transport:
        return decide(Message(What.RESULT, size, priority), way).transport

    assert of(LARGE_BYTES, URGENT_PRIORITY - 1) is small
    assert of(LARGE_BYTES + 1, URGENT_PRIORITY - 1) is large
    assert of(LARGE_BYTES, URGENT_PRIORITY) is urgent


def test_the_reason_names_what_decided() -> None:
    assert decide(Message(What.RESULT, 20_000, 3), Way(T.BALANCED)).reason == (
        "balanced: more than 10 KiB, priority under 8"
    )
    held = decide(RESULT, Way(T.BITCHAT_PREFERRED, LOW))
    assert held.reason == f"bitchat_preferred; with the next heartbeat, in 60 s at most: {LOW}"
    assert (held.fallback, held.hold_s) == (B, HOLD_S)


def test_a_device_whose_link_and_battery_allow_it_holds_nothing() -> None:
    plugged = Profile(has_battery=True, battery_percent=15, is_charging=True, network_type=NetworkType.WIFI)
    mains = Profile(has_battery=False)
    for profile, preference in itertools.product((plugged, mains), T):
        advice = replace(advise(profile, QosPolicy(), None, 0.0), transport=preference)
        assert decide(RESULT, way_of(advice, profile, QosPolicy())).hold_s == 0


@pytest.mark.parametrize(
    ("profile", "policy", "wanted"),
    [
        (Profile(has_battery=True, battery_percent=9, is_charging=False), {}, (T.BITCHAT_ONLY, 60)),
        (Profile(has_battery=True, battery_percent=20, is_charging=False), {}, (T.BITCHAT_PREFERRED, 60)),
        (Profile(has_battery=True, battery_percent=21, is_charging=False), {}, (T.BALANCED, 1)),
        (Profile(has_battery=True, battery_percent=41, is_charging=False), {}, (T.BALANCED, 0)),
        (Profile(has_battery=True), {}, (T.BITCHAT_PREFERRED, 60)),  # nothing is known of it: counts as low
        (Profile(has_battery=False, network_type=NetworkType.CELLULAR), {}, (T.BITCHAT_PREFERRED, 60)),
        (Profile(has_battery=False, latency_ms=300), {}, (T.BALANCED, 0)),
        (Profile(has_battery=False, latency_ms=301), {}, (T.BITCHAT_PREFERRED, 60)),
        (Profile(has_battery=False, network_quality=NetworkQuality.POOR), {}, (T.BITCHAT_PREFERRED, 60)),
        (Profile(has_battery=False), {"transport": "bitchat_only"}, (T.BITCHAT_ONLY, 60)),
        (Profile(has_battery=False), {"priority": "battery_save"}, (T.BITCHAT_PREFERRED, 60)),
        (Profile(has_battery=False), {"priority": "performance"}, (T.BETANET_PREFERRED, 0)),
        (Profile(has_battery=False, latency_ms=301), {"transport": "betanet_only"}, (T.BETANET_ONLY, 0)),
        (Profile(has_battery=True, battery_percent=55, is_charging=False), {"battery_save_threshold": "60"},
         (T.BITCHAT_PREFERRED, 60)),
        # Battery and heat have the last word, but never make it more direct than the operator wants it.
        (Profile(has_battery=True, battery_percent=20, is_charging=False), {"transport": "betanet_only"},
         (T.BITCHAT_PREFERRED, 60)),
        (Profile(has_battery=True, battery_percent=9, is_charging=False), {"transport": "betanet_only"},
         (T.BITCHAT_ONLY, 60)),
        (Profile(has_battery=True, battery_percent=20, is_charging=False), {"transport": "bitchat_only"},
         (T.BITCHAT_ONLY, 60)),
    ],
)  # fmt: skip
def test_a_devices_state_gives_its_preference_and_how_long_a_small_result_may_wait(
    profile: Profile, policy: dict[str, str], wanted: tuple[T, int]
) -> None:
    rules = policy_of(policy)
    advice = advise(profile, rules, None, 0.0)
    assert (advice.transport, decide(RESULT, way_of(advice, profile, rules)).hold_s) == wanted


@pytest.mark.parametrize(
    "message",
    [
        Message(What.OUTCOME, 300, 3),
        Message(What.RESULT, 300, 3, leased=True),
        Message(What.RESULT, 300, 3, left_s=HOLD_S),
    ],
)
def test_what_must_not_wait_goes_directly_or_takes_the_batch_along(message: Message) -> None:
    first = decide(message, Way(T.BITCHAT_PREFERRED, LOW))
    only = decide(message, Way(T.BITCHAT_ONLY, LOW))
    assert (first.transport, first.hold_s, first.fallback) == (B, 0, C)
    assert (only.transport, only.hold_s, only.fallback) == (C, 0, None)
    assert "; now: " in first.reason


def test_nothing_stays_on_a_node_that_goes_or_whose_outbox_is_full() -> None:
    for way in (Way(T.BITCHAT_ONLY, LOW, room=False), Way(T.BITCHAT_ONLY, LOW, parting="the node is going down")):
        assert decide(RESULT, way).hold_s == 0


def test_without_a_link_everything_waits_for_it_and_only_a_preference_changes_its_way() -> None:
    down = {preference: decide(RESULT, Way(preference, connected=False)) for preference in T}
    assert [down[preference].transport for preference in T] == [B, C, C, C, C]
    assert all(routing.hold_s == 0 and "the link is down" in routing.reason for routing in down.values())


def test_what_keeps_leases_what_is_asked_for_and_what_is_on_no_disk_is_never_held() -> None:
    assert set(What) == {*NEVER_HELD, What.RESULT, What.OUTCOME, What.CLAIM}
    for what, preference in itertools.product(NEVER_HELD, T):
        assert decide(Message(what), Way(preference, LOW)) == Routing(B, NEVER_HELD[what])


MESSAGES = st.builds(
    Message,
    st.sampled_from(What),
    st.integers(0, 1 << 20),
    st.integers(0, 10),
    st.booleans(),
    st.just(inf) | st.floats(-10, 1000),
)
WAYS = st.builds(
    Way,
    st.sampled_from(T),
    st.just("") | st.just(LOW),
    st.booleans(),
    st.booleans(),
    st.just("") | st.just("x"),
)


@given(MESSAGES, WAYS)
def test_a_decision_is_whole_and_what_is_held_goes_by_bitchat_with_time_to_spare(message: Message, way: Way) -> None:
    routing = decide(message, way)
    assert routing.reason and routing.fallback is not routing.transport
    assert 0 <= routing.hold_s <= HOLD_S
    if routing.hold_s:
        assert routing.transport is C and message.what in (What.RESULT, What.CLAIM)
        assert way.connected and way.room and way.spares and not way.parting
        assert not message.leased and routing.hold_s < message.left_s
    if way.preference is T.BITCHAT_ONLY:
        assert routing.transport is C or message.what in NEVER_HELD
    if way.preference is T.BETANET_ONLY:
        assert routing.transport is B


@given(MESSAGES, WAYS)
def test_a_preference_further_from_direct_never_makes_a_message_more_direct(message: Message, way: Way) -> None:
    """Where nothing forces it: `_urgent` sends bitchat_preferred's by its fallback, and bitchat_only has none."""
    found = [decide(message, replace(way, preference=one)) for one in ORDER]
    holds = [routing.hold_s for routing in found]
    assert holds == sorted(holds)
    if not any("; now: " in routing.reason for routing in found):
        ranks = [list(Transport).index(routing.transport) for routing in found]
        assert ranks == sorted(ranks)


@given(st.sampled_from(T), st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_less_battery_never_holds_for_a_shorter_time(preference: T, one: float, other: float, charging: bool) -> None:
    low, high = sorted((one, other))

    def hold_s(level: float) -> float:
        profile = Profile(has_battery=True, battery_percent=level, is_charging=charging)
        advice = replace(advise(profile, QosPolicy(), None, 0.0), transport=preference)
        return decide(RESULT, way_of(advice, profile, QosPolicy())).hold_s

    assert hold_s(low) >= hold_s(high)


@pytest.mark.parametrize(
    ("saving", "near", "over"),
    [
        ({"battery_percent": 40}, {"battery_percent": 43}, {"battery_percent": 44}),
        ({"latency_ms": 301}, {"latency_ms": 252}, {"latency_ms": 249}),
    ],
)
def test_batches_end_by_the_same_margin_as_the_preference_so_that_neither_flaps(
    saving: dict[str, float], near: dict[str, float], over: dict[str, float]
) -> None:
    usual = Profile(has_battery=True, battery_percent=90, is_charging=False, latency_ms=20)
    advice, rules, held = None, QosPolicy(), []
    for readings in (saving, near, saving, near, over):
        profile = replace(usual, **readings)  # type: ignore[arg-type]
        advice = advise(profile, rules, advice, 0.0)
        held.append(bool(way_of(advice, profile, rules).spares))
    assert held == [True, True, True, True, False]


def test_every_preference_is_in_the_table_and_critical_means_bitchat_only() -> None:
    assert set(TABLE) == set(T)
    empty = advise(Profile(has_battery=True, battery_percent=5, is_charging=True), QosPolicy(), None, 0.0)
    assert (empty.power_mode, empty.transport) == (PowerMode.CRITICAL, T.BITCHAT_ONLY)
