"""What the services of a desktop tell, over a real D-Bus connection to services that are played; and who is at the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.core.link import ENOUGH_BYTES, FRESH_S, Goodput, Trips, quality
from node.device import Device
from node.sensors import dbus
from node.sensors.dbus import MessageBus, Question
from node.sensors.desktop import IDLE_KEEP_S, Desktop, IdleUnit
from node.sensors.reading import Reading, known, unknown
from node.sensors.screen import screen
from node.sensors.termux import wifi
from node.sensors.tree import Tree
from schemas.device import NetworkQuality, NetworkType, ThermalState
from tests.core.test_device import plant
from tests.dbus_server import DbusServer
from tests.until import until

NM, UPOWER, LOGIND = "org.freedesktop.NetworkManager", "org.freedesktop.UPower", "org.freedesktop.login1"
MUTTER, SAVER = "org.gnome.Mutter.IdleMonitor", "org.freedesktop.ScreenSaver"


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[DbusServer]:
    server = DbusServer(tmp_path / "bus")
    yield server
    server.close()


@pytest.fixture
def desktop(bus: DbusServer, tmp_path: Path) -> Iterator[Desktop]:
    made = Desktop(Tree(tmp_path), both(bus))
    yield made
    made.close()


def both(bus: DbusServer) -> dict[str, str]:
    return {"DBUS_SYSTEM_BUS_ADDRESS": bus.address, "DBUS_SESSION_BUS_ADDRESS": bus.address}


def settled(desktop: Desktop, look: Callable[[], object]) -> object:
    """What `look` gives once all that it asks was answered."""
    for _ in range(3):  # an answer may lead to the next question
        look()
        until(lambda: not desktop.waiting, 5.0, "the answers came")
    return look()


@pytest.mark.parametrize(("said", "metered"), [(0, None), (1, True), (2, False), (3, True), (4, False), (9, None)])
def test_networkmanager_tells_whether_a_network_is_metered_and_its_guess_of_yes_counts(
    bus: DbusServer, desktop: Desktop, said: int, metered: bool | None
) -> None:
    bus.answers = {(NM, "GetDeviceByIpIface"): ("o", ("/nm/Devices/3",)), (NM, "Metered"): ("u", (said,))}
    found = settled(desktop, lambda: desktop.metered("wlan0", 0.0))
    assert isinstance(found, Reading)
    assert found.value is metered
    assert bool(found.source) is (metered is not None) and bool(found.reason) is (metered is None)


@pytest.mark.parametrize(
    ("state", "charging"), [(1, True), (2, False), (3, False), (4, True), (5, True), (6, False), (0, None)]
)
def test_upower_tells_of_a_battery_that_sysfs_does_not_show(
    bus: DbusServer, desktop: Desktop, state: int, charging: bool | None
) -> None:
    bus.answers = {
        (UPOWER, "Percentage"): ("d", (61.5,)), (UPOWER, "State"): ("u", (state,)), (UPOWER, "IsPresent"): ("b", (True,)),
    }  # fmt: skip
    look = settled(desktop, lambda: desktop.power(0.0))
    assert isinstance(look, dict)
    assert (look["battery_percent"].value, look["is_charging"].value) == (61.5, charging)


def test_upower_on_a_machine_without_a_battery_says_so(bus: DbusServer, desktop: Desktop) -> None:
    bus.answers = {(UPOWER, "IsPresent"): ("b", (False,)), (UPOWER, "Percentage"): ("d", (0.0,))}
    look = settled(desktop, lambda: desktop.power(0.0))
    assert isinstance(look, dict)
    assert look["battery_percent"] == unknown("UPower knows of no battery")


def test_the_last_input_is_told_by_mutter_then_the_screen_saver_then_logind(bus: DbusServer, desktop: Desktop) -> None:
    now = 1_700_000_000.0
    bus.answers = {
        (MUTTER, "GetIdletime"): ("t", (312_000,)),
        (SAVER, "GetSessionIdleTime"): ("u", (90_000,)),
        (LOGIND, "ListSessions"): ("a(susso)", ([("1", 1000, "jo", "seat0", "/s/1")],)),
        (LOGIND, "IdleHint"): ("b", (True,)),
        (LOGIND, "IdleSinceHint"): ("t", (int((now - 700) * 1e6),)),
    }
    clock = iter(range(1000))

    def idle() -> object:
        return settled(desktop, lambda: desktop.user_idle(now + next(clock)))

    assert idle() == known(312.0, f"{MUTTER} GetIdletime")
    del bus.answers[MUTTER, "GetIdletime"]
    found = idle()
    assert isinstance(found, Reading)
    assert (found.value, found.source) == (90.0, f"{SAVER} GetSessionIdleTime"), "taken for milliseconds"
    del bus.answers[SAVER, "GetSessionIdleTime"]
    found = idle()
    assert isinstance(found, Reading) and found.value is not None
    assert found.value == pytest.approx(700, abs=60)
    bus.answers[LOGIND, "IdleHint"] = ("b", (False,))
    found = idle()
    assert isinstance(found, Reading)
    assert found.value == 0.0
    bus.answers.clear()
    found = idle()
    assert isinstance(found, Reading)
    assert found.value is None and MUTTER in found.reason and LOGIND in found.reason


def test_where_nobody_is_logged_in_the_machine_is_idle_since_it_began(
    bus: DbusServer, desktop: Desktop, tmp_path: Path
) -> None:
    plant(tmp_path, {"proc/uptime": "5400.12 9000.00"})
    bus.answers = {(LOGIND, "ListSessions"): ("a(susso)", ([],))}
    found = settled(desktop, lambda: desktop.user_idle(0.0))
    assert isinstance(found, Reading)
    assert (found.value, found.source) == (5400.12, f"{LOGIND}: nobody is logged in")


def test_a_closed_lid_or_an_active_screen_saver_is_a_dark_screen(bus: DbusServer, desktop: Desktop) -> None:
    bus.answers = {(LOGIND, "LidClosed"): ("b", (False,)), (SAVER, "GetActive"): ("b", (False,))}
    clock = iter(range(1000))

    def on() -> object:
        found = settled(desktop, lambda: desktop.screen(float(next(clock))))
        assert isinstance(found, Reading)
        return found.value

    assert on() is True
    bus.answers[SAVER, "GetActive"] = ("b", (True,))
    assert on() is False
    bus.answers = {(LOGIND, "LidClosed"): ("b", (True,))}
    assert on() is False
    bus.answers = {}
    assert on() is None


# The bus itself.

WHO = Question("org.example", "/x", "org.example", "Who")


def answered(bus: MessageBus, now: float, every_s: float = 1.0, keep_s: float = 10.0) -> Reading[object]:
    bus.read(WHO, now, every_s, keep_s)
    until(lambda: not bus.waiting, 5.0, "an answer came")
    return bus.read(WHO, now, every_s, keep_s)


def test_a_question_is_put_when_it_is_due_and_starts_no_service(bus: DbusServer) -> None:
    mine = MessageBus(known(bus.address, "a test"))
    bus.answers = {("org.example", "Who"): ("s", ("me",))}
    assert answered(mine, 0.0) == known("me", "org.example Who")
    assert answered(mine, 0.9).value == "me"
    assert len(bus.asked) == 1, "once a second is enough"
    answered(mine, 1.0)
    assert len(bus.asked) == 2
    assert bus.auto_starts == 0
    mine.close()


def test_an_answer_that_does_not_come_makes_the_old_one_stale_and_nothing_waits(
    bus: DbusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dbus, "ANSWER_S", 0.2)
    mine = MessageBus(known(bus.address, "a test"))
    bus.answers = {("org.example", "Who"): ("s", ("me",))}
    assert answered(mine, 0.0).value == "me"
    bus.answers = {("org.example", "Who"): None}
    assert mine.read(WHO, 2.0, 1.0, 10.0).value == "me", "it is asked again, and not waited for"
    until(lambda: not mine.waiting, 5.0, "it gave up")
    late = mine.read(WHO, 2.0, 1.0, 10.0)
    assert late.value is None and "Timeout" in late.reason
    assert mine.read(WHO, 2.5, 1.0, 10.0).value is None
    mine.close()


def test_a_bus_that_goes_and_comes_back_is_asked_again(tmp_path: Path) -> None:
    first = DbusServer(tmp_path / "one")
    first.answers = {("org.example", "Who"): ("s", ("me",))}
    mine = MessageBus(known(f"unix:path={tmp_path / 'link'}", "a test"))
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert answered(mine, 0.0).value == "me"
    first.close()
    assert answered(mine, 5.0).value is None
    second = DbusServer(tmp_path / "two")
    second.answers = {("org.example", "Who"): ("s", ("me again",))}
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "two")
    assert answered(mine, 10.0).value == "me again"
    mine.close()
    second.close()


def test_a_machine_without_any_bus_says_why() -> None:
    nobody = Desktop(Tree(Path("/nonexistent")), {"XDG_RUNTIME_DIR": "/nonexistent"})
    found = nobody.user_idle(0.0)
    assert found.value is None
    assert "no session bus" in found.reason and "no system bus" in found.reason
    assert not nobody.waiting


def test_an_answer_older_than_a_heartbeat_or_two_says_nothing_of_the_user(bus: DbusServer, desktop: Desktop) -> None:
    bus.answers = {(MUTTER, "GetIdletime"): ("t", (312_000,))}
    assert settled(desktop, lambda: desktop.user_idle(0.0)) == known(312.0, f"{MUTTER} GetIdletime")
    assert desktop.user_idle(IDLE_KEEP_S + 0.1).value is None


def test_an_idle_time_in_seconds_is_found_out_by_how_it_grows() -> None:
    unit = IdleUnit()
    assert [unit.seconds(100.0, 0.0), unit.seconds(102.0, 2.0)] == [0.1, 0.102], "not known yet: never too idle"
    assert [unit.seconds(104.0, 4.0), unit.seconds(300.0, 200.0)] == [104.0, 300.0]
    assert unit.seconds(0.0, 201.0) == 0.0
    other = IdleUnit()
    other.seconds(100_000.0, 0.0)
    assert other.seconds(104_000.0, 4.0) == 104.0


# The screen, by files.

ON = {"status": "connected", "dpms": "On", "enabled": "enabled"}
OFF = {"status": "connected", "dpms": "Off", "enabled": "disabled"}
NONE = {"status": "disconnected", "dpms": "Off", "enabled": "disabled"}


@pytest.mark.parametrize(
    ("connectors", "on"),
    [
        ({"card0-eDP-1": ON}, True),
        ({"card0-eDP-1": OFF}, False),
        ({"card0-eDP-1": OFF, "card0-HDMI-A-1": ON}, True),
        ({"card0-eDP-1": {**ON, "enabled": "disabled"}}, False),
        ({"card0-HDMI-A-1": NONE}, False),
        ({"card0-HDMI-A-1": {"status": "connected"}}, None),
        ({"card0-HDMI-A-1": {"status": "connected"}, "card0-eDP-1": OFF}, None),
        ({"card0-HDMI-A-1": {"status": "connected"}, "card0-eDP-1": ON}, True),
        ({"card0-VGA-1": {**ON, "status": "unknown"}}, None),
        ({"card0-VGA-1": {**OFF, "status": "unknown"}}, False),
        ({"card0": {"dev": "226:0"}}, None),
    ],
)
def test_a_screen_is_on_when_any_connector_shows_something(
    tmp_path: Path, connectors: dict[str, dict[str, str]], on: bool | None
) -> None:
    plant(tmp_path, {f"sys/class/drm/{c}/{k}": v for c, files in connectors.items() for k, v in files.items()})
    found = screen(Tree(tmp_path))
    assert (found.value, bool(found.source), bool(found.reason)) == (on, on is not None, on is None)


@pytest.mark.parametrize(
    ("file", "text", "on"),
    [("bl_power", "0", True), ("bl_power", "4", False), ("brightness", "0", False), ("bl_power", "nonsense", None)],
)
def test_without_connectors_the_backlight_tells(tmp_path: Path, file: str, text: str, on: bool | None) -> None:
    plant(tmp_path, {f"sys/class/backlight/panel/{file}": text})
    assert screen(Tree(tmp_path)).value is on


def test_a_machine_without_a_screen_has_none_that_is_on_and_a_closed_sysfs_is_unknown(tmp_path: Path) -> None:
    assert screen(Tree(tmp_path)).value is None
    plant(tmp_path, {"sys/class/net/eth0/type": "1"})
    assert screen(Tree(tmp_path)) == known(False, "/sys/class/drm (no screen)")
    assert screen(Tree(tmp_path), has_one=True).value is None, "a phone has one, whatever it shows"


# Put together.


def test_a_laptop_in_use_says_who_is_there_and_its_desktop_fills_what_files_leave_open(
    bus: DbusServer, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    plant(root, {
        "sys/class/power_supply/BAT0/type": "Battery",
        "sys/class/drm/card0-eDP-1/status": "connected", "sys/class/drm/card0-eDP-1/dpms": "On",
        "sys/class/net/wlan0/type": "1", "sys/class/net/wlan0/wireless/x": "",
        "proc/net/route": "Iface Destination Gateway Flags RefCnt Use Metric Mask\nwlan0 00000000 0 0003 0 0 600 00000000",
    })  # fmt: skip
    bus.answers = {
        (UPOWER, "Percentage"): ("d", (42.0,)), (UPOWER, "State"): ("u", (2,)), (UPOWER, "IsPresent"): ("b", (True,)),
        (MUTTER, "GetIdletime"): ("t", (1500,)),
        (NM, "GetDeviceByIpIface"): ("o", ("/nm/3",)), (NM, "Metered"): ("u", (3,)),
    }  # fmt: skip
    device = Device(root=root, env=both(bus), platform="linux")
    now = time.time()
    for step in range(4):
        device.state(now + 6 * step)
        until(lambda: not device.waiting, 5.0, "the desktop answered")
    how = device.state(now + 24)
    assert (how.battery_percent, how.is_charging, how.mains) == (42.0, False, False)
    assert (how.screen_on, how.user_idle_s) == (True, 1.5)
    assert (how.network_type, how.network_metered) == (NetworkType.WIFI, True)
    assert isinstance(how.sources, dict)
    assert how.sources["network_metered"] == f"{NM} Metered 3"
    device.close()


def test_a_pi_without_the_file_is_asked_by_its_own_program(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "bin"
    plant(
        root, {"sys/class/thermal/thermal_zone0/type": "cpu-thermal", "sys/class/thermal/thermal_zone0/temp": "58000"}
    )
    plant(folder, {"vcgencmd": "#!/bin/sh\necho throttled=0x50008"})
    (folder / "vcgencmd").chmod(0o755)
    device = Device(root=root, env={"PATH": f"{folder}:/usr/bin:/bin"}, platform="linux")
    assert device.state(0.0).thermal_state is ThermalState.NORMAL

    def throttled() -> bool:
        return device.state(time.monotonic()).thermal_state is ThermalState.THROTTLED

    until(throttled, 10.0, "its firmware says that it throttles")
    (root / "sys/class/thermal/thermal_zone0/temp").unlink()
    until(lambda: device.state(time.monotonic()).temperature_c is None, 10.0, "its sensor is gone")
    assert throttled(), "it needs no temperature for that"
    device.close()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('{"ssid": "home", "supplicant_state": "COMPLETED"}', NetworkType.WIFI),
        ('{"supplicant_state": "DISCONNECTED"}', None),
        ('{"API_ERROR": "no permission"}', None),
        ("[]", None),
        ("nonsense", None),
    ],
)
def test_termux_tells_of_wifi_and_guesses_nothing_else(said: str, kind: NetworkType | None) -> None:
    found = wifi(known(said, "termux-wifi-connectioninfo"))
    assert found.value is kind
    assert bool(found.reason) is (kind is None)


# The link.


@pytest.mark.parametrize(
    ("trip_ms", "mbps", "name"),
    [
        (19.9, None, NetworkQuality.EXCELLENT),
        (20.0, None, NetworkQuality.GOOD),
        (80.0, None, NetworkQuality.FAIR),
        (200.0, None, NetworkQuality.POOR),
        (5.0, 20.0, NetworkQuality.EXCELLENT),
        (5.0, 19.9, NetworkQuality.GOOD),
        (5.0, 4.9, NetworkQuality.FAIR),
        (5.0, 0.9, NetworkQuality.POOR),
        (150.0, 100.0, NetworkQuality.FAIR),
        (None, 100.0, NetworkQuality.OFFLINE),
    ],
)
def test_a_link_is_named_by_the_worse_of_round_trip_and_goodput(
    trip_ms: float | None, mbps: float | None, name: NetworkQuality
) -> None:
    assert quality(trip_ms, mbps) is name


def test_one_slow_round_trip_is_no_slow_link() -> None:
    trips = Trips()
    assert [trips.add(ms) for ms in (10.0, 900.0, 10.0, 11.0, 12.0)][-1] == 11.0
    assert trips.add(None) is None
    assert trips.add(50.0) == 50.0


def test_goodput_counts_what_overlaps_once_and_ages() -> None:
    meter = Goodput()
    assert meter.mbps(0.0) is None
    meter.begin(0.0)
    meter.begin(0.5)
    meter.end(1_000_000, 1.0)
    assert meter.mbps(1.0) is None, "another one is under way"
    meter.end(1_000_000, 2.0)
    assert meter.mbps(2.0) == 8.0
    meter.begin(10.0)
    meter.end(1000, 20.0)
    assert meter.mbps(20.0) == 8.0, f"less than {ENOUGH_BYTES} bytes say little"
    meter.begin(30.0)
    meter.end(0, 90.0)
    meter.begin(100.0)
    meter.end(1_000_000, 101.0)
    assert meter.mbps(101.0) == 8.0, "the time of what failed before is not its"
    meter.begin(110.0)
    meter.end(1_000_000, 109.0)
    assert meter.mbps(110.0) == 8.0, "its clock was set back"
    assert meter.mbps(101.0 + FRESH_S) is None
