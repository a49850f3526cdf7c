"""The readers of the device, on trees of the form that real machines have."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from node.core.heat import ladder, thermal_state
from node.core.link import quality
from node.sensors.ask import Ask
from node.sensors.cgroup import Cgroup
from node.sensors.chassis import device_type
from node.sensors.gateway import gateway
from node.sensors.graphics import graphics
from node.sensors.network import Broker, Metered, network, network_type
from node.sensors.power import power, supplies
from node.sensors.processor import Utilization, clock, cores
from node.sensors.reading import known
from node.sensors.security import security
from node.sensors.temperature import sensors, temperature
from node.sensors.termux import battery as termux_battery
from node.sensors.tree import Tree
from schemas.device import DeviceType, NetworkQuality, NetworkType, SensorKind, ThermalState
from tests.until import until

BAT, AC = "sys/class/power_supply/BAT0", "sys/class/power_supply/AC"
LAPTOP = {f"{BAT}/type": "Battery", f"{BAT}/capacity": "80", f"{BAT}/status": "Discharging"}


def plant(root: Path, files: Mapping[str, str]) -> Tree:
    """Write files of a device's tree; a name that ends in / is a folder."""
    for name, text in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
    return Tree(root)


def program(folder: Path, name: str, script: str) -> dict[str, str]:
    """A program of the device, and the environment that finds it."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin"}


# Battery and charging


@pytest.mark.parametrize(
    ("story", "files", "charging"),
    [
        ("unplugged", {f"{AC}/online": "0"}, False),
        ("plugged in", {f"{BAT}/status": "Charging", f"{AC}/online": "1"}, True),
        ("held at its charge limit", {f"{BAT}/status": "Not charging", f"{AC}/online": "1"}, True),
        ("a weak charger that drains", {f"{BAT}/status": "Discharging", f"{AC}/online": "1"}, False),
        ("unclear status, but plugged in", {f"{BAT}/status": "Unknown", f"{AC}/online": "1"}, True),
        ("a charger wrongly told offline", {f"{BAT}/status": "Charging", f"{AC}/online": "0"}, True),
        ("full, just unplugged", {f"{BAT}/status": "Full", f"{AC}/online": "0"}, False),
        ("full, no charger tells", {f"{BAT}/status": "Full"}, True),
        ("nothing tells", {f"{BAT}/status": "Unknown"}, None),
    ],
)
def test_charging_means_running_on_outside_power(
    tmp_path: Path, story: str, files: dict[str, str], charging: bool | None
) -> None:
    chargers = {f"{AC}/type": "Mains"} if f"{AC}/online" in files else {}
    tree = plant(tmp_path, {**LAPTOP, **chargers, **files})
    look = power(tree, supplies(tree))
    assert look["is_charging"].value is charging, story
    assert look["battery_percent"].value == 80
    assert look["battery_powered"].value is True
    assert look["mains"].value is False
    assert bool(look["is_charging"].reason) == (charging is None)


def test_the_battery_of_a_wireless_mouse_is_not_the_machines(tmp_path: Path) -> None:
    mouse = "sys/class/power_supply/hidpp_battery_0"
    tree = plant(
        tmp_path,
        {f"{mouse}/type": "Battery", f"{mouse}/scope": "Device", f"{mouse}/capacity": "12", f"{AC}/type": "Mains"},
    )
    look = power(tree, supplies(tree))
    assert look["battery_powered"].value is False
    assert look["mains"].value is True
    assert look["battery_percent"].value is None
    assert "no battery" in look["battery_percent"].reason


def test_without_power_supplies_in_sysfs_the_device_is_on_mains(tmp_path: Path) -> None:
    tree = plant(tmp_path, {"sys/class/net/lo/type": "772"})
    assert power(tree, supplies(tree))["mains"].value is True


def test_without_sysfs_power_is_unknown(tmp_path: Path) -> None:
    look = power(Tree(tmp_path), supplies(Tree(tmp_path)))
    assert {name: read.value for name, read in look.items()} == dict.fromkeys(look)
    assert all("power_supply" in read.reason for read in look.values())


def test_an_empty_battery_bay_is_no_battery(tmp_path: Path) -> None:
    tree = plant(tmp_path, {f"{BAT}/type": "Battery", f"{BAT}/present": "0"})
    assert power(tree, supplies(tree))["battery_powered"].value is False


def test_two_batteries_count_by_their_size(tmp_path: Path) -> None:
    second = BAT.replace("0", "1")
    sizes = {f"{BAT}/energy_full": "60000000", f"{BAT}/energy_now": "60000000"}
    sizes |= {f"{second}/type": "Battery", f"{second}/energy_full": "20000000", f"{second}/energy_now": "0"}
    tree = plant(tmp_path, {**LAPTOP, **sizes})
    assert power(tree, supplies(tree))["battery_percent"].value == 75


# Heat


@pytest.mark.parametrize("kind", [SensorKind.SKIN, SensorKind.BATTERY])
def test_skin_and_battery_are_judged_by_the_figures_of_the_specification(kind: SensorKind) -> None:
    states = [thermal_state(celsius, kind) for celsius in (34.9, 35, 45, 45.1, 55, 55.1, 64.9, 65)]
    n, w, h, t, c = ThermalState
    assert states == [n, w, w, h, h, t, t, c]


def test_a_cpu_runs_hotter_and_its_own_critical_trip_moves_its_thresholds() -> None:
    assert ladder(SensorKind.CPU) == ladder(SensorKind.CPU, 100) == (60, 75, 85, 95)
    assert ladder(SensorKind.CPU, 80) == (40, 55, 65, 75)
    assert ladder(SensorKind.CPU, 0) == ladder(SensorKind.CPU), "a trip of 0 °C is a placeholder"
    assert thermal_state(50, SensorKind.CPU) is ThermalState.NORMAL
    assert thermal_state(78, SensorKind.CPU, 80) is ThermalState.CRITICAL


CHIP = "sys/class/hwmon/hwmon3"


def test_the_package_of_an_intel_processor_is_chosen_among_its_cores(tmp_path: Path) -> None:
    files = {"name": "coretemp", "temp1_input": "62000", "temp1_label": "Package id 0", "temp1_crit": "100000"}
    cores_too = {"temp2_input": "99000", "temp2_label": "Core 0"}
    tree = plant(tmp_path, {f"{CHIP}/{name}": text for name, text in {**files, **cores_too}.items()})
    look = temperature(tree, sensors(tree, supplies(tree)))
    assert look["temperature_c"] == known(62.0, "/sys/class/hwmon/hwmon3 (coretemp)")
    assert look["temperature_sensor"].value is SensorKind.CPU
    assert look["thermal_state"].value is ThermalState.WARM


def test_the_sensor_that_is_worst_for_its_kind_speaks(tmp_path: Path) -> None:
    """A battery at 50 °C is worse than a processor at 58."""
    tree = plant(tmp_path, {f"{CHIP}/name": "k10temp", f"{CHIP}/temp1_input": "58000", **LAPTOP, f"{BAT}/temp": "500"})
    look = temperature(tree, sensors(tree, supplies(tree)))
    assert look["temperature_c"].value == 50
    assert look["temperature_sensor"].value is SensorKind.BATTERY
    assert look["thermal_state"].value is ThermalState.HOT


ZONE = "sys/class/thermal/thermal_zone0"


def test_a_thermal_zone_tells_its_critical_trip(tmp_path: Path) -> None:
    trips = {"trip_point_0_type": "passive", "trip_point_0_temp": "70000"}
    trips |= {"trip_point_1_type": "critical", "trip_point_1_temp": "80000"}
    zone = {"type": "cpu-thermal", "temp": "66000", **trips}
    tree = plant(tmp_path, {f"{ZONE}/{name}": text for name, text in zone.items()})
    assert temperature(tree, sensors(tree, supplies(tree)))["thermal_state"].value is ThermalState.THROTTLED


def test_a_chassis_sensor_has_no_thresholds_and_is_left_out_by_name(tmp_path: Path) -> None:
    tree = plant(tmp_path, {f"{ZONE}/type": "acpitz", f"{ZONE}/temp": "27800"})
    read = temperature(tree, sensors(tree, supplies(tree)))["temperature_c"]
    assert read.value is None
    assert "acpitz" in read.reason


@pytest.mark.parametrize("text", ["-214748364800", "", "hot", "9e9", "nan", "200000"])
def test_a_broken_sensor_is_unknown_with_what_it_said(tmp_path: Path, text: str) -> None:
    tree = plant(tmp_path, {f"{ZONE}/type": "cpu_thermal", f"{ZONE}/temp": text})
    look = temperature(tree, sensors(tree, supplies(tree)))
    assert {name: read.value for name, read in look.items()} == dict.fromkeys(look)
    assert "/sys/class/thermal/thermal_zone0/temp" in look["thermal_state"].reason


@pytest.mark.parametrize(
    ("bits", "state"), [("8", "throttled"), ("4", "throttled"), ("5", "normal"), ("50000", "normal")]
)
def test_a_raspberry_pis_firmware_tells_that_it_throttles_by_heat(tmp_path: Path, bits: str, state: str) -> None:
    throttled = {"sys/devices/platform/soc/soc:firmware/get_throttled": bits}
    tree = plant(tmp_path, {f"{ZONE}/type": "cpu-thermal", f"{ZONE}/temp": "50000", **throttled})
    assert temperature(tree, sensors(tree, supplies(tree)))["thermal_state"].value == state


# Network


@pytest.mark.parametrize(
    ("round_trip_ms", "name"),
    [
        (0.2, "excellent"),
        (19.9, "excellent"),
        (20, "good"),
        (80, "fair"),
        (199, "fair"),
        (200, "poor"),
        (None, "offline"),
    ],
)
def test_the_round_trip_names_the_link(round_trip_ms: float | None, name: str) -> None:
    assert quality(round_trip_ms) is NetworkQuality(name)


def routes4(*rows: tuple[str, str, str, int]) -> str:
    """/proc/net/route with rows of interface, network, mask, metric, as this machine's kernel prints it."""

    def printed(address: str) -> str:
        return f"{int.from_bytes(bytes(map(int, address.split('.'))), sys.byteorder):08X}"

    lines = [
        f"{name}\t{printed(net)}\t00000000\t0001\t0\t0\t{metric}\t{printed(mask)}" for name, net, mask, metric in rows
    ]
    return "\n".join(["Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask", *lines])


ROUTES = routes4(
    ("wwan0", "0.0.0.0", "0.0.0.0", 700),
    ("wlan0", "0.0.0.0", "0.0.0.0", 600),
    ("eth0", "10.1.0.0", "255.255.0.0", 100),
)
DEVICES = {
    "proc/net/route": ROUTES,
    "sys/class/net/wlan0/wireless/": "",
    "sys/class/net/wlan0/type": "1",
    "sys/class/net/eth0/device/": "",
    "sys/class/net/eth0/type": "1",
    "sys/class/net/wwan0/uevent": "DEVTYPE=wwan\nINTERFACE=wwan0",
    "sys/class/net/wwan0/type": "519",
    "sys/class/net/br0/lower_eth0/": "",
    "sys/class/net/br0/type": "1",
    "sys/class/net/veth1/type": "1",
}


@pytest.mark.parametrize(
    ("broker", "kind"),
    [
        ("10.1.2.3", NetworkType.ETHERNET),
        ("203.0.113.9", NetworkType.WIFI),
        ("", NetworkType.WIFI),
        ("127.0.0.1", NetworkType.LOOPBACK),
        ("localhost", NetworkType.LOOPBACK),
        ("::1", NetworkType.LOOPBACK),
        ("192.168.7.7", NetworkType.LOOPBACK),
        ("fd00::5", NetworkType.CELLULAR),
    ],
)
def test_the_network_is_the_one_that_leads_to_the_broker(tmp_path: Path, broker: str, kind: NetworkType) -> None:
    own = {"proc/net/fib_trie": "Local:\n  |-- 192.168.7.7\n     /32 host LOCAL"}
    six = {"proc/net/ipv6_route": f"fd{'0' * 30} 40 {'0' * 32} 00 {'0' * 32} 00000100 00000001 00000000 00000001 wwan0"}
    tree = plant(tmp_path, {**DEVICES, **own, **six})
    look = network(tree, Broker(broker), Metered({}), 0.0)
    assert look["network_type"].value is kind
    if kind is NetworkType.LOOPBACK:
        assert look["network_metered"].value is False
    else:
        assert "nmcli" in look["network_metered"].reason


ARP = "IP address       HW type     Flags       HW address            Mask     Device"


def with_gateway(address: str, name: str, *neighbours: tuple[str, str, str]) -> dict[str, str]:
    by = f"{int.from_bytes(bytes(map(int, address.split('.'))), sys.byteorder):08X}"
    route = f"Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n{name}\t00000000\t{by}\t0003\t0\t0\t600\t00000000"
    rows = [f"{ip} 0x1 0x2 {mac} * {dev}" for ip, mac, dev in neighbours]
    return {"proc/net/route": route, "proc/net/arp": "\n".join([ARP, *rows])}


def test_devices_behind_the_same_gateway_have_the_same_mark_which_does_not_tell_its_address(tmp_path: Path) -> None:
    one = with_gateway("192.168.1.1", "wlan0", ("192.168.1.1", "a0:b1:c2:d3:e4:f5", "wlan0"))
    other = with_gateway("192.168.1.1", "eth0", ("192.168.1.1", "A0:B1:C2:D3:E4:F5", "eth0"))
    elsewhere = with_gateway("192.168.1.1", "wlan0", ("192.168.1.1", "a0:b1:c2:d3:e4:f6", "wlan0"))
    marks = [gateway(plant(tmp_path / str(n), files)).value for n, files in enumerate((one, other, elsewhere))]
    assert marks[0] == marks[1] != marks[2]
    assert marks[0] is not None and len(marks[0]) == 8 and "a0" not in marks[0][:2]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"proc/net/route": ROUTES}, "no default route with a gateway"),
        (with_gateway("10.0.0.1", "eth0", ("10.0.0.1", "a0:b1:c2:d3:e4:f5", "wlan0")), "does not tell"),
        (with_gateway("10.0.0.1", "eth0", ("10.0.0.1", "00:00:00:00:00:00", "eth0")), "does not tell"),
        (with_gateway("10.0.0.1", "eth0", ("10.0.0.1", "02:42:0a:00:00:01", "eth0")), "made up"),
        ({}, "there is no /proc/net/route"),
    ],
)
def test_a_gateway_that_tells_nothing_of_its_own_is_unknown(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    read = gateway(plant(tmp_path, files))
    assert read.value is None and reason in read.reason


def test_without_a_route_the_network_is_unknown(tmp_path: Path) -> None:
    tree = plant(tmp_path, {"proc/net/route": routes4(("eth0", "10.1.0.0", "255.255.0.0", 100))})
    look = network(tree, Broker("203.0.113.9"), Metered({}), 0.0)
    assert look["network_type"].value is None
    assert look["network_type"].reason == "no route to 203.0.113.9"


def test_a_bridge_is_what_lies_below_it_and_a_virtual_cable_is_other(tmp_path: Path) -> None:
    tree = plant(tmp_path, DEVICES)
    assert network_type(tree, "br0").value is NetworkType.ETHERNET
    assert network_type(tree, "veth1").value is NetworkType.OTHER
    assert network_type(tree, "gone0").value is None


def test_a_name_that_does_not_resolve_never_holds_up_a_look(tmp_path: Path) -> None:
    broker = Broker("no-such-host.invalid")
    first = network(plant(tmp_path, DEVICES), broker, Metered({}), 0.0)["network_type"]
    assert first.value is None
    assert "no-such-host.invalid" in first.reason


@pytest.mark.parametrize(
    ("said", "metered"),
    [("yes", True), ("yes (guessed)", True), ("no", False), ("no (guessed)", False), ("unknown", None), ("", None)],
)
def test_networkmanager_tells_whether_traffic_is_paid_for(tmp_path: Path, said: str, metered: bool | None) -> None:
    env = program(tmp_path, "nmcli", f'[ "$6" = wlan0 ] && echo "GENERAL.METERED:{said}"')
    asked = Metered(env)
    assert asked.look("wlan0", 0.0).value is None, "the answer is not waited for"
    until(lambda: not asked.look("wlan0", 1.0).reason.endswith("not answered yet"))
    assert asked.look("wlan0", 1.0).value is metered
    asked.close()


# Programs


def test_a_program_that_hangs_is_killed_and_its_answer_unknown(tmp_path: Path) -> None:
    ask = Ask(("hang",), program(tmp_path, "hang", "exec sleep 600"), every_s=60, keep_s=90, timeout_s=5)
    assert ask.answer(100.0).value is None
    assert ask.waiting
    assert ask.answer(105.0).reason == "hang did not answer within 5 s"
    until(lambda: (ask.answer(106.0), not ask.waiting)[1])
    assert ask.answer(106.0).reason == "hang did not answer within 5 s"


def test_an_old_answer_is_unknown_when_no_newer_one_comes(tmp_path: Path) -> None:
    env = program(tmp_path, "say", f"[ -e {tmp_path}/once ] && exec sleep 600; touch {tmp_path}/once; echo yes")
    ask = Ask(("say",), env, every_s=60, keep_s=90, timeout_s=1000)
    until(lambda: ask.answer(0.0).value == "yes")
    assert ask.answer(80.0).value == "yes", "asked again, and the last answer still counts"
    assert "more than 90 s ago" in ask.answer(91.0).reason
    ask.close()
    assert not ask.waiting


@pytest.mark.parametrize(
    ("script", "reason"),
    [("exit 10", "say failed (exit code 10)"), ("true", "say said nothing"), ("", "say said nothing")],
)
def test_a_program_that_fails_or_says_nothing_is_unknown(tmp_path: Path, script: str, reason: str) -> None:
    ask = Ask(("say",), program(tmp_path, "say", script), every_s=60, keep_s=90)
    until(lambda: ask.answer(0.0).reason == reason)


def test_termux_tells_the_battery_and_a_missing_temperature_is_no_temperature() -> None:
    whole = '{"percentage": 71, "plugged": "UNPLUGGED", "status": "DISCHARGING", "temperature": 38.2}'
    look = termux_battery(known(whole, "termux-battery-status"))
    assert (look["battery_percent"].value, look["is_charging"].value) == (71, False)
    assert (look["temperature_sensor"].value, look["thermal_state"].value) == (SensorKind.BATTERY, ThermalState.WARM)
    missing = termux_battery(known('{"percentage": 71, "temperature": -214748364.8}', "termux-battery-status"))
    assert missing["temperature_c"].value is None
    assert missing["is_charging"].value is None
    assert termux_battery(known("[1]", "x"))["battery_percent"].reason == "x did not answer in JSON"


# Processor and memory


def test_utilization_is_the_busy_share_between_two_looks(tmp_path: Path) -> None:
    tree = plant(tmp_path, {"proc/stat": "cpu  100 0 100 800 0 0 0 0 50 0\ncpu0 1 1 1 1"})
    load = Utilization(tree)
    assert "two readings" in load.look().reason
    plant(tmp_path, {"proc/stat": "cpu  120 0 110 860 10 0 0 0 90 0"})
    assert load.look() == known(0.3, "/proc/stat"), (
        "30 busy of 100; waiting for a disk is idle, guests are in user time"
    )
    plant(tmp_path, {"proc/stat": "cpu  5 0 5 5 0 0 0 0 0 0"})
    assert load.look().reason == "/proc/stat ran backwards"


def test_cores_are_those_that_this_process_may_use(tmp_path: Path) -> None:
    tree = plant(tmp_path, {"sys/devices/system/cpu/online": "0-15"})
    assert cores(tree, Cgroup(tree)).value == 16
    plant(tmp_path, {"proc/self/status": "Name:\tx\nCpus_allowed_list:\t0-3,8"})
    assert cores(tree, Cgroup(tree)).value == 5


def test_a_container_has_what_its_cgroup_leaves_it(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/work.slice/node.service"
    tree = plant(
        tmp_path,
        {
            "sys/devices/system/cpu/online": "0-15",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory",
            "proc/self/cgroup": "0::/work.slice/node.service",
            "sys/fs/cgroup/work.slice/cpu.max": "250000 100000",
            f"{group}/cpu.max": "max 100000",
            f"{group}/memory.max": str(2048 * 2**20),
            f"{group}/memory.current": str(1024 * 2**20),
            f"{group}/memory.stat": f"anon 1\ninactive_file {512 * 2**20}",
        },
    )
    cgroup = Cgroup(tree)
    assert cores(tree, cgroup) == known(2, "/sys/fs/cgroup/work.slice/cpu.max")
    assert cgroup.memory_total_mb().value == 2048
    assert cgroup.memory_free_mb().value == 1536


def test_the_clock_is_that_of_the_fastest_core(tmp_path: Path) -> None:
    base = "sys/devices/system/cpu/cpufreq"
    tree = plant(
        tmp_path, {f"{base}/policy0/cpuinfo_max_freq": "1800000", f"{base}/policy4/cpuinfo_max_freq": "2400000"}
    )
    assert clock(tree).value == pytest.approx(2.4)


# What the device is


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"sys/class/dmi/id/chassis_type": "10"}, DeviceType.LAPTOP),
        ({"sys/class/dmi/id/chassis_type": "3"}, DeviceType.DESKTOP),
        ({"sys/class/dmi/id/chassis_type": "23"}, DeviceType.EDGE_SERVER),
        ({"sys/class/dmi/id/chassis_type": "30"}, DeviceType.TABLET),
        ({"sys/class/dmi/id/chassis_type": "3", **LAPTOP}, DeviceType.DESKTOP),
        ({"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0"}, DeviceType.IOT_DEVICE),
        ({"sys/firmware/devicetree/base/chassis-type": "handset\0", **LAPTOP}, DeviceType.SMARTPHONE),
        (LAPTOP, DeviceType.LAPTOP),
        ({"sys/class/dmi/id/chassis_type": "1"}, None),
        ({}, None),
    ],
)
def test_the_type_of_device_is_known_by_evidence_only(
    tmp_path: Path, files: dict[str, str], kind: DeviceType | None
) -> None:
    tree = plant(tmp_path, files)
    read = device_type(tree, {}, supplies(tree), android=False)
    assert read.value is kind
    assert bool(read.source) != bool(read.reason)


@pytest.mark.parametrize(("said", "kind"), [("nosdcard,tablet", DeviceType.TABLET), ("default", None)])
def test_android_is_a_tablet_where_it_says_so(tmp_path: Path, said: str, kind: DeviceType | None) -> None:
    env = program(tmp_path, "getprop", f"echo {said}")
    assert device_type(Tree(tmp_path), env, supplies(Tree(tmp_path)), android=True).value is kind


def test_a_graphics_card_is_known_by_its_vendor(tmp_path: Path) -> None:
    card = "sys/class/drm/card1/device"
    tree = plant(tmp_path, {f"{card}/vendor": "0x1002", f"{card}/mem_info_vram_total": str(8 * 2**30)})
    look = graphics(tree, {})
    assert (look["has_gpu"].value, look["gpu_memory_mb"].value) == (True, 8192)


def test_a_display_adapter_without_an_engine_is_no_gpu(tmp_path: Path) -> None:
    tree = plant(tmp_path, {"sys/class/drm/card0/device/vendor": "0x1a03"})
    assert graphics(tree, {})["has_gpu"].value is False


def test_a_graphics_card_that_no_driver_serves_is_unknown(tmp_path: Path) -> None:
    slot = "sys/bus/pci/devices/0000:01:00.0"
    tree = plant(tmp_path, {f"{slot}/class": "0x030000", f"{slot}/vendor": "0x10de", "sys/class/net/": ""})
    assert "no driver" in graphics(tree, {})["has_gpu"].reason


def test_nvidias_driver_tells_model_and_memory(tmp_path: Path) -> None:
    env = program(tmp_path, "nvidia-smi", "echo 24564")
    tree = plant(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA RTX 4090\nIRQ: 1"})
    look = graphics(tree, env)
    assert (look["gpu_model"].value, look["gpu_memory_mb"].value) == ("NVIDIA RTX 4090", 24564)


def test_a_tpm_can_attest(tmp_path: Path) -> None:
    look = security(plant(tmp_path, {"sys/class/tpm/tpm0/tpm_version_major": "2"}))
    assert (look["has_tpm"].value, look["has_secure_enclave"].value) == (True, False)
    assert look["attestation_support"].value is True


def test_without_sysfs_security_is_unknown(tmp_path: Path) -> None:
    assert security(Tree(tmp_path))["has_tpm"].value is None
