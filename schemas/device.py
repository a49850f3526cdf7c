"""What a device is (`DeviceCapabilities`, sent on change) and how it is (`DeviceState`, sent with heartbeats).

A value that could not be read is None and its name is a key of `unknown`, with the reason; every value that could be
read has its name in `sources`. Nothing is ever guessed. Names follow the operations guide.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.names import Id, Word


class DeviceType(StrEnum):
    """The kinds of device that the fleet tells apart."""

    SMARTPHONE = "smartphone"
    TABLET = "tablet"
    LAPTOP = "laptop"
    DESKTOP = "desktop"
    IOT_DEVICE = "iot_device"
    EDGE_SERVER = "edge_server"


class NetworkType(StrEnum):
    """How the device reaches the broker."""

    ETHERNET = "ethernet"
    WIFI = "wifi"
    CELLULAR = "cellular"
    LOOPBACK = "loopback"
    OTHER = "other"


class NetworkQuality(StrEnum):
    """The measured link to the broker, best first."""

    EXCELLENT = "excellent"
    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    OFFLINE = "offline"


class ThermalState(StrEnum):
    """Heat by the thresholds of the sensor's kind (SPEC 5.2)."""

    NORMAL = "normal"
    WARM = "warm"
    HOT = "hot"
    THROTTLED = "throttled"
    CRITICAL = "critical"


# Too hot for anything new: tasks (SPEC 2.4), versions of an app (7.2), a yes in a vote.
HOT = (ThermalState.HOT, ThermalState.THROTTLED, ThermalState.CRITICAL)


class SensorKind(StrEnum):
    """Which thresholds a temperature is judged by: a CPU package runs hotter than a skin or a battery."""

    BATTERY = "battery"
    SKIN = "skin"
    CPU = "cpu"


PEERS_MAX = 12  # devices that one measures the way to
Percent = Annotated[float, Meta(ge=0, le=100)]
Count = Annotated[int, Meta(ge=0)]


class DeviceCapabilities(Struct, frozen=True, omit_defaults=True):
    """What the device is. Sizes in MiB, clock in GHz. `sources` and `unknown` are keyed by field name."""

    device_type: DeviceType | None = None
    device_name: str = ""
    os: str = ""
    os_version: str = ""
    arch: str = ""
    cpu_cores: Annotated[int, Meta(ge=1, le=4096)] = 1
    cpu_freq_ghz: Annotated[float, Meta(ge=0, le=100)] | None = None
    ram_total_mb: Count | None = None
    storage_total_mb: Count | None = None
    has_gpu: bool | None = None
    gpu_model: str = ""
    gpu_memory_mb: Count | None = None
    battery_powered: bool | None = None
    supports_ml_frameworks: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    has_tpm: bool | None = None
    has_secure_enclave: bool | None = None
    attestation_support: bool | None = None
    python_version: str = ""
    utc_offset_min: Annotated[int, Meta(ge=-1440, le=1440)] | None = None  # of its own zone, now
    pretending: bool = False  # played through the environment (SPEC 5.9)
    sources: dict[str, str] = {}
    unknown: dict[str, str] = {}


class DeviceState(Struct, frozen=True, omit_defaults=True):
    """How the device is now. Unset: unchanged since the last beat (or not looked at yet). None: unknown, see `unknown`.

    `cpu_utilization` is 0..1 over all cores. `mains` is true for a device that has no battery. `temperature_critical_c` is the
    critical trip that the sensor tells of itself. Latency is the round trip to the broker, goodput what transfers over its
    link reach; `network_encrypted` says whether that link is TLS. `user_idle_s` counts from the last key or pointer movement.
    `network_gateway` is a mark of the default gateway: equal for devices behind the same one, and telling nothing else.
    `network_peers` are the round trips that it measured to devices of its site, roughly, in ms.
    `sources` and `unknown` come whole, or not at all when neither changed.
    """

    cpu_utilization: Annotated[float, Meta(ge=0, le=1)] | UnsetType | None = UNSET
    ram_available_mb: Count | UnsetType | None = UNSET
    storage_free_mb: Count | UnsetType | None = UNSET
    battery_percent: Percent | UnsetType | None = UNSET
    is_charging: bool | UnsetType | None = UNSET
    mains: bool | UnsetType | None = UNSET
    temperature_c: Annotated[float, Meta(ge=-100, le=250)] | UnsetType | None = UNSET
    temperature_sensor: SensorKind | UnsetType | None = UNSET
    temperature_critical_c: Annotated[float, Meta(ge=-100, le=250)] | UnsetType | None = UNSET
    thermal_state: ThermalState | UnsetType | None = UNSET
    network_type: NetworkType | UnsetType | None = UNSET
    network_metered: bool | UnsetType | None = UNSET
    network_quality: NetworkQuality | UnsetType | None = UNSET
    network_latency_ms: Annotated[float, Meta(ge=0, le=1e6)] | UnsetType | None = UNSET
    network_goodput_mbps: Annotated[float, Meta(ge=0, le=1e6)] | UnsetType | None = UNSET
    network_encrypted: bool | UnsetType | None = UNSET
    screen_on: bool | UnsetType | None = UNSET
    user_idle_s: Annotated[float, Meta(ge=0, le=1e9)] | UnsetType | None = UNSET
    network_gateway: Annotated[str, Meta(max_length=64)] | UnsetType | None = UNSET
    network_peers: (
        Annotated[dict[Id, Annotated[int, Meta(ge=1, le=60_000)]], Meta(max_length=PEERS_MAX)] | UnsetType | None
    ) = UNSET
    sources: dict[str, str] | UnsetType = UNSET
    unknown: dict[str, str] | UnsetType = UNSET


class Parameter(Struct, frozen=True, omit_defaults=True):
    """One parameter of an offered function. `type` is ``bytes`` (a file's content), ``str``, or ``json``."""

    name: str
    type: str = "json"
    annotation: str = ""
    optional: bool = False


class FunctionOffer(Struct, frozen=True, omit_defaults=True):
    """A function that a node offers, with what the edges need to check a call before it is sent."""

    name: Word
    parameters: tuple[Parameter, ...] = ()
    variadic: bool = False
    returns: str = ""
    doc: str = ""
