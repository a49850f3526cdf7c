"""The device as the node sees it: what is read, what the environment plays, what configuration says, and how it shows."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.ceilings import Ceilings
from node.core.eligible import Terms
from node.core.window import Window
from node.device import Device
from node.sensors.overlay import CAPABILITIES, STATE
from node.sensors.pretend import SOURCE
from node.show import Kept, as_json, show
from schemas import limits
from schemas.device import (
    DeviceCapabilities,
    DeviceState,
    DeviceType,
    NetworkQuality,
    NetworkType,
    SensorKind,
    ThermalState,
)
from schemas.errors import BadInput

NOTHING = Kept(0, None)
TERMS = Terms(Window(0, 0), enabled=False)
LAPTOP = {
    "sys/class/dmi/id/chassis_type": "10",
    "sys/class/power_supply/BAT0/type": "Battery",
    "sys/class/power_supply/BAT0/status": "Discharging",
    "sys/class/power_supply/BAT0/capacity": "64",
    "sys/class/power_supply/AC/type": "Mains",
    "sys/class/power_supply/AC/online": "0",
    "sys/class/hwmon/hwmon0/name": "coretemp",
    "sys/class/hwmon/hwmon0/temp1_input": "48000",
    "sys/class/hwmon/hwmon0/temp1_label": "Package id 0",
    "sys/class/net/wlan0/type": "1",
    "sys/class/net/wlan0/uevent": "DEVTYPE=wlan",
    "sys/class/net/wlan0/wireless/x": "",
    "sys/class/drm/card0/device/vendor": "0x8086",
    "sys/class/tpm/tpm0/tpm_version_major": "2",
    "sys/devices/system/cpu/online": "0-7",
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "3600000",
    "proc/sys/kernel/hostname": "thinkpad",
    "proc/stat": "cpu 100 0 100 800 0 0 0 0 0 0",
    "proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB",
    "proc/net/route": "Iface Destination Gateway Flags RefCnt Use Metric Mask\nwlan0 00000000 0 0003 0 0 600 00000000",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
}


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    plant(tmp_path, LAPTOP)
    return tmp_path


def plant(root: Path, files: dict[str, str]) -> None:
    """Each file is whole whenever it is read, as the kernel's are."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(text + "\n")
        fresh.replace(path)


def device(root: Path, env: dict[str, str] | None = None, **overrides: object) -> Device:
    return Device(root=root, env=env or {}, overrides=overrides, platform="linux")


def whole(message: DeviceCapabilities | DeviceState, fields: tuple[str, ...]) -> None:
    """Each field has a source or a reason, never both, and the message survives the wire."""
    assert isinstance(message.sources, dict) and isinstance(message.unknown, dict)
    assert sorted([*message.sources, *message.unknown]) == sorted(fields)
    assert all([*message.sources.values(), *message.unknown.values()])
    assert all(getattr(message, name) is not msgspec.UNSET for name in fields)
    assert all(getattr(message, name) is not None for name in message.sources)
    assert msgspec.json.decode(msgspec.json.encode(message), type=type(message)) == message


def test_a_laptop_is_discovered_without_any_configuration(laptop: Path) -> None:
    what = device(laptop).capabilities()
    whole(what, CAPABILITIES)
    assert (what.device_type, what.device_name, what.cpu_cores) == (DeviceType.LAPTOP, "thinkpad", 8)
    assert what.cpu_freq_ghz == pytest.approx(3.6)
    assert what.ram_total_mb == 16384
    assert (what.has_gpu, what.battery_powered, what.has_tpm, what.attestation_support) == (True, True, True, True)
    assert what.os_version == "Debian GNU/Linux 12 (bookworm)"
    assert what.unknown == {"gpu_memory_mb": "its driver does not tell"}
    assert what.pretending is False


def test_its_state_says_for_every_signal_where_it_comes_from(laptop: Path) -> None:
    mine = device(laptop)
    mine.state(0.0)
    plant(laptop, {"proc/stat": "cpu 150 0 100 850 0 0 0 0 0 0"})
    how = mine.state(5.0)
    whole(how, STATE)
    assert (how.cpu_utilization, how.ram_available_mb) == (0.5, 8192)
    assert (how.battery_percent, how.is_charging, how.mains) == (64, False, False)
    assert (how.temperature_c, how.thermal_state) == (48, ThermalState.NORMAL)
    assert how.network_type is NetworkType.WIFI
    assert isinstance(how.sources, dict) and isinstance(how.unknown, dict)
    assert how.sources["is_charging"] == "/sys/class/power_supply/BAT0/status: discharging"
    link = {"network_quality", "network_latency_ms", "network_goodput_mbps", "network_peers", "network_encrypted"}
    others = {"network_metered", "network_gateway", "temperature_critical_c", "user_idle_s", "screen_on"}
    assert set(how.unknown) == link | others


def test_plugging_in_shows_a_second_later(laptop: Path) -> None:
    mine = device(laptop)
    assert mine.state(0.0).is_charging is False
    plant(laptop, {"sys/class/power_supply/BAT0/status": "Charging", "sys/class/power_supply/AC/online": "1"})
    assert mine.state(0.5).is_charging is False, "power is read once a second at most"
    assert mine.state(1.5).is_charging is True


def test_a_clock_that_is_set_back_does_not_freeze_the_signals(laptop: Path) -> None:
    mine = device(laptop)
    assert mine.state(1_000_000.0).battery_percent == 64
    plant(laptop, {"sys/class/power_supply/BAT0/capacity": "63"})
    assert mine.state(500.0).battery_percent == 63


def test_an_empty_system_is_unknown_with_reasons_and_nothing_made_up(tmp_path: Path) -> None:
    mine = device(tmp_path)
    what, how = mine.capabilities(), mine.state(0.0)
    whole(what, CAPABILITIES)
    whole(how, STATE)
    assert isinstance(how.sources, dict)
    assert set(how.sources) == {"storage_free_mb"}
    assert what.unknown["cpu_cores"] == "there is no /sys/devices/system/cpu/online"


def test_the_measured_round_trip_names_the_network(laptop: Path) -> None:
    mine = device(laptop)
    assert mine.state(0.0).network_quality is None
    mine.set_latency(35.0)
    assert mine.state(0.0).network_quality is NetworkQuality.GOOD
    mine.set_latency(None)
    assert mine.state(0.0).network_quality is NetworkQuality.OFFLINE


def test_the_network_follows_the_broker_that_was_found(laptop: Path) -> None:
    mine = device(laptop)
    assert mine.state(0.0).network_type is NetworkType.WIFI
    mine.set_broker("127.0.0.1")
    assert mine.state(0.0).network_type is NetworkType.LOOPBACK


def test_this_machine_is_read_without_surprises_and_quickly() -> None:
    mine = Device(broker_host="127.0.0.1")
    whole(mine.capabilities(), CAPABILITIES)
    whole(mine.state(0.0), STATE)
    took = []
    for beat in range(1, 30):
        began = time.perf_counter()
        mine.state(beat * 5.0)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.002
    mine.close()


# Configuration


def test_configuration_wins_over_what_is_read_and_says_so(laptop: Path) -> None:
    mine = device(laptop, device_type="edge_server", cpu_cores="4", runtimes="docker, podman", temperature_c=70)
    what, how = mine.capabilities(), mine.state(0.0)
    assert (what.device_type, what.cpu_cores, what.runtimes) == (DeviceType.EDGE_SERVER, 4, ("docker", "podman"))
    assert {what.sources[name] for name in ("device_type", "cpu_cores", "runtimes")} == {"config"}
    assert (how.temperature_c, how.temperature_sensor, how.thermal_state) == (
        70,
        SensorKind.SKIN,
        ThermalState.CRITICAL,
    )
    assert what.pretending is False


def test_a_device_said_to_have_no_battery_is_on_mains(laptop: Path) -> None:
    how = device(laptop, battery_powered=False).state(0.0)
    assert (how.mains, how.battery_percent) == (True, None)
    assert isinstance(how.unknown, dict)
    assert "no battery" in how.unknown["is_charging"]


def test_no_more_memory_is_free_than_there_is_said_to_be(laptop: Path) -> None:
    assert device(laptop, ram_total_mb=1024).state(0.0).ram_available_mb == 1024


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_cors", 4),
        ("sources", {}),
        ("pretending", True),
        ("cpu_cores", "many"),
        ("cpu_cores", 0),
        ("cpu_cores", True),
        ("device_type", "toaster"),
        ("battery_percent", 101),
        ("battery_percent", float("nan")),
        ("battery_percent", None),
        ("has_gpu", "perhaps"),
        ("runtimes", 7),
        ("device_name", 7),
    ],
)
def test_configuration_that_does_not_fit_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(BadInput) as refused:
        Device(root=tmp_path, env={}, overrides={name: value})
    assert refused.value.field == name


# The environment plays the device


def test_the_environment_plays_a_phone_and_every_played_value_says_so(tmp_path: Path) -> None:
    played = {"BATTERY": "25", "THERMAL": "47", "MEMORY_GB": "3", "NETWORK_TYPE": "cellular"}
    mine = device(tmp_path, {**played, "DEVICE_TYPE": "smartphone", "CPU_CORES": "6"})
    what, how = mine.capabilities(), mine.state(0.0)
    whole(what, CAPABILITIES)
    whole(how, STATE)
    assert what.pretending is True
    assert (what.device_type, what.cpu_cores, what.ram_total_mb) == (DeviceType.SMARTPHONE, 6, 3072)
    assert what.battery_powered is True
    assert (how.battery_percent, how.is_charging, how.mains, how.ram_available_mb) == (25, False, False, 3072)
    assert (how.temperature_c, how.thermal_state) == (47, ThermalState.HOT)
    assert (how.network_type, how.network_metered) == (NetworkType.CELLULAR, True)
    assert isinstance(how.sources, dict)
    assert how.sources["battery_percent"] == what.sources["device_type"] == SOURCE
    assert mine.pretending[:2] == ["BATTERY=25", "THERMAL=47"]


@pytest.mark.parametrize(
    ("env", "percent", "charging", "mains"),
    [
        ({"BATTERY": "25+"}, 25, True, False),
        ({"BATTERY": "25", "CHARGING": "1"}, 25, True, False),
        ({"BATTERY": "25+", "CHARGING": "0"}, 25, False, False),
        ({"BATTERY": "60%"}, 60, False, False),
        ({"BATTERY": "60%+"}, 60, True, False),
        ({"BATTERY": "none"}, None, None, True),
        ({"BATTERY": "none", "CHARGING": "1"}, None, None, True),
        ({"AIV_MOBILE_PROFILE": "performance"}, 90, True, False),
        ({"AIV_MOBILE_PROFILE": "battery_save", "BATTERY": "9"}, 9, False, False),
    ],
)
def test_a_battery_is_played_with_or_without_a_charger(
    laptop: Path, env: dict[str, str], percent: float | None, charging: bool | None, mains: bool
) -> None:
    how = device(laptop, env).state(0.0)
    assert (how.battery_percent, how.is_charging, how.mains) == (percent, charging, mains)
    whole(how, STATE)


@pytest.mark.parametrize("word", ["normal", "warm", "hot", "throttled", "critical"])
def test_heat_is_played_by_a_word_with_a_temperature_that_fits(tmp_path: Path, word: str) -> None:
    assert device(tmp_path, {"THERMAL": word}).state(0.0).thermal_state is ThermalState(word)


def test_a_profile_plays_several_signals(tmp_path: Path) -> None:
    mine = device(tmp_path, {"AIV_MOBILE_PROFILE": "thermal_throttle"})
    assert mine.state(0.0).thermal_state is ThermalState.THROTTLED
    assert mine.pretending == ["AIV_MOBILE_PROFILE=thermal_throttle", "THERMAL=60"]
    assert device(tmp_path, {"AIV_MOBILE_PROFILE": "low_ram"}).state(0.0).ram_available_mb == 2048


def test_configuration_wins_over_a_played_value(tmp_path: Path) -> None:
    assert device(tmp_path, {"CPU_CORES": "6"}, cpu_cores=2).capabilities().cpu_cores == 2


def test_an_empty_variable_or_a_charger_alone_plays_nothing(laptop: Path) -> None:
    mine = device(laptop, {"BATTERY": "", "THERMAL": " ", "CHARGING": "1", "AIV_MOBILE_PROFILE": ""})
    assert mine.pretending == []
    assert mine.capabilities().pretending is False
    assert mine.state(0.0).battery_percent == 64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATTERY", "lots"),
        ("BATTERY", "101"),
        ("THERMAL", "tepid"),
        ("THERMAL", "nan"),
        ("MEMORY_GB", "0"),
        ("NETWORK_TYPE", "pigeon"),
        ("DEVICE_TYPE", "toaster"),
        ("CPU_CORES", "0"),
        ("AIV_MOBILE_PROFILE", "turbo"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadInput) as refused:
        device(tmp_path, {name: value})
    assert refused.value.field == name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NETWORK_TYPE", "offline", "ethernet, wifi, cellular"),
        ("DEVICE_TYPE", "toaster", "smartphone, tablet"),
        ("THERMAL", "tepid", "normal, warm, hot"),
    ],
)
def test_a_refused_word_is_told_with_those_that_there_are(tmp_path: Path, name: str, value: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        device(tmp_path, {name: value})


# What comes from the device is not trusted


GARBAGE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\n", b"-214748364.8", b"nan", b"inf", b"1e400", b"9" * 400, b"\xff\xfe", b"cpu x", b"-1"]),
    st.sampled_from(["folder", "loop", "pipe"]),
)


def plant_garbage(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "loop":
        path.symlink_to(path)
    else:
        os.mkfifo(path)


MORE = (
    "proc/self/status",
    "proc/self/cgroup",
    "proc/net/fib_trie",
    "proc/cpuinfo",
    "proc/device-tree/model",
    "proc/driver/nvidia/gpus/0/information",
    "sys/class/power_supply/BAT0/temp",
    "sys/class/power_supply/BAT0/energy_now",
    "sys/class/power_supply/BAT0/energy_full",
    "sys/class/hwmon/hwmon0/temp1_crit",
    "sys/class/thermal/thermal_zone0/type",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/cgroup.controllers",
)


@given(st.dictionaries(st.sampled_from([*LAPTOP, *MORE]), GARBAGE, min_size=1, max_size=12))
def test_whatever_the_files_hold_is_a_value_that_can_be_or_unknown_with_a_reason(files: dict[str, bytes | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plant(root, {name: text for name, text in LAPTOP.items() if name not in files})
        for name, content in files.items():
            plant_garbage(root / name, content)
        mine = device(root)
        whole(mine.capabilities(), CAPABILITIES)
        for now in (0.0, 5.0):
            whole(mine.state(now), STATE)


@given(st.sampled_from(sorted(set(LAPTOP) - {"sys/class/net/wlan0/wireless/x"})), st.binary(min_size=1, max_size=12))
def test_names_of_any_bytes_in_sysfs_do_no_harm(beside: str, name: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plant(root, LAPTOP)
        odd = os.path.join(
            os.fsencode(root / beside).rpartition(b"/")[0], name.replace(b"/", b"_").replace(b"\0", b"_")
        )
        if not os.path.lexists(odd):
            os.mkdir(odd)
        mine = device(root)
        whole(mine.capabilities(), CAPABILITIES)
        whole(mine.state(0.0), STATE)


def test_a_battery_with_a_name_that_is_no_text_is_read_and_its_source_can_be_sent(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"sys/class/power_supply/B\xff\nT")
    os.makedirs(folder)
    plant(Path(os.fsdecode(folder)), {"type": "Battery", "capacity": "70"})
    how = device(tmp_path).state(0.0)
    whole(how, STATE)
    assert how.battery_percent == 70


# Showing


def test_show_prints_each_value_with_its_source_or_the_reason_it_is_unknown(laptop: Path) -> None:
    lines = {line.split()[0]: line for line in show(device(laptop), Ceilings(), NOTHING, TERMS).splitlines() if line}
    assert set(lines) >= {*CAPABILITIES, *STATE}
    assert lines["ram_total_mb"].split(maxsplit=2)[1:] == ["16384", "/proc/meminfo MemTotal"]
    assert lines["has_tpm"].split()[1] == "yes"
    assert lines["network_metered"].split()[1] == "unknown"
    assert "nmcli" in lines["network_metered"]


def test_show_says_first_that_it_is_pretending(laptop: Path) -> None:
    first = show(device(laptop, {"BATTERY": "25"}), Ceilings(), NOTHING, TERMS).splitlines()[0]
    assert first == "PRETENDING, by the environment: BATTERY=25"


def test_as_json_is_one_document_with_a_value_and_source_or_reason_for_each(laptop: Path) -> None:
    document = json.loads(as_json(device(laptop, {"BATTERY": "25"}), Ceilings(), Kept(2, 7.0, 300), TERMS))
    assert document["pretending"] == ["BATTERY=25"]
    assert document["capabilities"]["device_type"] == {
        "value": "laptop",
        "source": "/sys/class/dmi/id/chassis_type (10)",
    }
    assert document["state"]["battery_percent"] == {"value": 25.0, "source": SOURCE}
    assert set(document["state"]["network_quality"]) == {"value", "unknown"}
    told = {"letters_max": limits.OUTBOX_LETTERS, "bytes_max": limits.OUTBOX_BYTES}
    assert document["outbox"] == {"letters": 2, "since": 7.0, "bytes": 300, **told}


def test_show_tells_what_the_outbox_holds(laptop: Path) -> None:
    assert "OUTBOX: 2 results" in show(device(laptop), Ceilings(), Kept(2, 7.0), TERMS).splitlines()[-1]
    assert "OUTBOX" not in show(device(laptop), Ceilings(), NOTHING, TERMS)


def test_elsewhere_psutil_reads_what_it_reads_right_and_the_rest_is_unknown(tmp_path: Path) -> None:
    mine = Device(root=tmp_path, env={}, platform="darwin")
    what, how = mine.capabilities(), mine.state(0.0)
    whole(what, CAPABILITIES)
    whole(how, STATE)
    assert what.os == "macos"
    assert what.sources["ram_total_mb"] == "psutil.virtual_memory"
    assert isinstance(how.unknown, dict)
    assert how.unknown["temperature_c"] == "not read on this system yet"


def test_on_android_what_is_closed_is_unknown_and_the_battery_is_asked_of_termux(tmp_path: Path) -> None:
    mine = Device(root=tmp_path, env={"ANDROID_ROOT": "/system"}, platform="linux")
    what, how = mine.capabilities(), mine.state(0.0)
    whole(what, CAPABILITIES)
    whole(how, STATE)
    assert (what.os, what.battery_powered, how.mains) == ("android", True, False)
    assert isinstance(how.unknown, dict)
    assert how.unknown["battery_percent"] == "termux-battery-status is not installed"
    mine.close()
