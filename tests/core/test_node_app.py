"""One app on a device, told as stories: each line is what happened, and what the machine wanted done."""

from __future__ import annotations

import pytest

from node.core.app import App
from node.core.app_actions import Action, Drop, EndFetch, Fetch, Kept, Point, Start, Stop
from schemas.rollout import AppVersion, Assignment, CommandCheck, DataOnly, Health, Phase, Service, Told


def service(name: str, key: str = "K", **health: float) -> AppVersion:
    return AppVersion("web", name, "sha256-" + name[-1] * 64, 10, Service(("serve",)), health=Health(**health), key=key)  # type: ignore[arg-type]


def data(name: str, health: Health = Health()) -> AppVersion:  # noqa: B008 - frozen
    return AppVersion("web", name, "sha256-" + name[-1] * 64, 10, DataOnly(), health=health, key="K")


class Story:
    """A device's app, told line by line; `done` are the actions that touch the world."""

    def __init__(self, kept: Kept | None = None) -> None:
        self.app, self.now = App(kept or Kept("web")), 1000.0
        self.order = self.app.kept.order

    def told(self, version: AppVersion | None, told: Told = Told.RUN, before: str = "", order: int = 0) -> list[object]:
        self.order = order or self.order + 1
        return done(self.app.told(Assignment("web", self.order, told, "r1", 1, version, before=before), self.now))

    def fetched(self, name: str) -> list[object]:
        return done(self.app.fetched(name, self.now))

    def pass_checks(self, name: str, seconds: float = 12.0) -> list[object]:
        out: list[Action] = []
        for _ in range(int(seconds)):
            self.now += 1.0
            out += self.app.checked(name, "", 5.0, self.now)
        return done(out)

    def wait(self, seconds: float) -> list[object]:
        self.now += seconds
        return done(self.app.tick(self.now))

    @property
    def phase(self) -> Phase:
        return self.app.kept.phase


def done(actions: list[Action]) -> list[object]:
    """The actions without those that only keep and say, by their names."""
    found: list[object] = []
    for action in actions:
        if isinstance(action, Fetch | Start):
            found.append((type(action), action.version.version))
        elif isinstance(action, Stop | Point | Drop):
            found.append((type(action), action.version))
    return found


def healthy(version: AppVersion) -> Story:
    story = Story()
    assert story.told(version) == [(Fetch, version.version)]
    story.fetched(version.version)
    if isinstance(version.run, Service):
        story.pass_checks(version.version)
    assert story.phase is Phase.HEALTHY
    return story


def test_a_service_is_fetched_started_and_healthy_after_its_time() -> None:
    story = Story()
    assert story.told(service("v1")) == [(Fetch, "v1")]
    assert story.fetched("v1") == [(Point, "v1"), (Start, "v1")]
    story.pass_checks("v1", 9.0)
    assert story.phase is Phase.STARTING
    story.pass_checks("v1", 3.0)
    assert story.phase is Phase.HEALTHY
    assert story.app.kept.good == "v1"


def test_a_failed_check_or_a_restart_begins_the_healthy_time_anew() -> None:
    story = Story()
    story.told(service("v1"))
    story.fetched("v1")
    story.pass_checks("v1", 9.0)
    story.app.checked("v1", "refused", 5.0, story.now)
    story.pass_checks("v1", 9.0)
    assert story.phase is Phase.STARTING
    story.app.ended("v1", "exit code 1", story.now)
    assert story.wait(1.0) == [(Start, "v1")]
    story.pass_checks("v1", 9.0)
    assert story.phase is Phase.STARTING
    story.pass_checks("v1", 3.0)
    assert story.phase is Phase.HEALTHY


def test_a_new_version_ends_the_old_one_and_one_that_fails_brings_it_back_by_itself() -> None:
    story = healthy(service("v1"))
    assert story.told(service("v2"), before="v1") == [(Fetch, "v2")]
    assert story.fetched("v2") == [(Stop, "v1"), (Point, "v2"), (Start, "v2")]
    story.app.ended("v2", "exit code 1", story.now)
    assert story.wait(301.0) == [(Start, "v2"), (Stop, "v2"), (Point, "v1"), (Start, "v1")]
    assert story.phase is Phase.FAILED
    assert "exit code 1" in story.app.kept.reason
    assert story.app.kept.running == "v1"


def test_that_the_old_version_is_well_says_nothing_of_the_one_that_is_on_its_way() -> None:
    story = healthy(service("v1"))
    story.app.allowed("battery 12 %", story.now)
    story.told(service("v2"), before="v1")
    assert story.pass_checks("v1") == []
    assert story.phase is Phase.DEFERRED
    assert done(story.app.allowed("", story.now)) == [(Fetch, "v2")]
    assert story.pass_checks("v1") == []
    assert story.phase is Phase.DOWNLOADING
    assert story.fetched("v2") == [(Stop, "v1"), (Point, "v2"), (Start, "v2")]
    story.pass_checks("v2", 9.0)
    assert story.phase is Phase.STARTING


def test_one_that_was_good_and_comes_too_late_after_a_boot_is_healthy_once_it_passes() -> None:
    story = Story(healthy(service("v1")).app.kept)
    story.app.boot(story.now)
    assert story.wait(301.0) == []
    assert story.phase is Phase.FAILED
    story.pass_checks("v1")
    assert story.phase is Phase.HEALTHY


@pytest.mark.parametrize("version", [service("v1"), data("v1", Health(CommandCheck(("check",))))])
def test_a_device_that_died_while_a_version_started_has_it_checked_and_its_deadline_anew(version: AppVersion) -> None:
    story = Story()
    story.told(version)
    story.fetched("v1")
    assert story.phase is Phase.STARTING
    again = Story(story.app.kept)
    again.app.boot(again.now)
    again.wait(100.0)
    assert "v1" in again.app.processes
    assert again.phase is Phase.STARTING
    again.wait(301.0)
    assert again.phase is Phase.FAILED


def test_told_to_return_to_what_runs_again_already_nothing_is_started_anew() -> None:
    story = healthy(service("v1"))
    story.told(service("v2"), before="v1")
    story.fetched("v2")
    story.wait(301.0)
    assert story.phase is Phase.FAILED
    assert story.told(service("v1"), before="v1") == [(Point, "v1")]
    story.pass_checks("v1")
    assert (story.phase, story.app.kept.running) == (Phase.HEALTHY, "v1")


def test_warm_keeps_the_old_one_running_until_the_switch() -> None:
    story = healthy(service("v1"))
    story.told(service("v2"), Told.WARM, before="v1")
    assert story.fetched("v2") == [(Point, "v2"), (Start, "v2")]
    story.pass_checks("v2")
    assert story.phase is Phase.HEALTHY
    assert story.told(service("v2"), Told.SWITCH, before="v1") == [(Stop, "v1")]
    assert story.phase is Phase.HEALTHY


def test_going_back_from_warm_does_not_start_the_old_one_anew() -> None:
    story = healthy(service("v1"))
    story.told(service("v2"), Told.WARM, before="v1")
    story.fetched("v2")
    assert story.told(service("v1"), before="v1") == [(Stop, "v2"), (Point, "v1")]
    story.pass_checks("v1")
    assert story.phase is Phase.HEALTHY


def test_data_is_healthy_once_it_is_whole_and_the_version_before_stays() -> None:
    story = healthy(data("v1"))
    story.told(data("v2"), before="v1")
    assert story.fetched("v2") == [(Point, "v2")]
    assert story.phase is Phase.HEALTHY
    assert set(story.app.kept.versions) == {"v1", "v2"}
    story.told(data("v3"), before="v2")
    assert story.fetched("v3") == [(Point, "v3"), (Drop, "v1")]


def test_data_with_a_command_is_healthy_when_that_says_so() -> None:
    story = Story()
    story.told(data("v1", Health(CommandCheck(("check",)))))
    story.fetched("v1")
    assert story.phase is Phase.STARTING
    story.app.checked("v1", "exit code 1", 5.0, story.now)
    assert story.phase is Phase.STARTING
    story.app.checked("v1", "", 5.0, story.now)
    assert story.phase is Phase.HEALTHY


def test_what_the_owner_does_not_allow_is_deferred_and_no_deadline_runs() -> None:
    story = Story()
    story.app.allowed("battery 12 %", story.now)
    assert story.told(data("v1")) == []
    assert (story.phase, story.app.kept.reason) == (Phase.DEFERRED, "battery 12 %")
    assert story.wait(86_400.0) == []
    assert done(story.app.allowed("", story.now)) == [(Fetch, "v1")]
    assert EndFetch() in story.app.allowed("it is hot", story.now), "what is under way ends, too"
    assert story.phase is Phase.DEFERRED
    assert story.fetched("v1") == []  # a download that ended all the same is installed once that passes


def test_an_older_or_repeated_order_changes_nothing() -> None:
    story = healthy(service("v1"))
    assert story.told(service("v0"), order=story.order) == []
    story.order += 5
    assert story.told(service("v2")) == [(Fetch, "v2")]
    assert story.told(service("v1"), order=3) == []


def test_the_same_version_told_again_is_not_started_anew() -> None:
    story = healthy(service("v1"))
    assert story.told(service("v1")) == []
    assert story.phase is Phase.HEALTHY


def test_another_signers_version_is_refused_and_what_runs_goes_on() -> None:
    story = healthy(service("v1"))
    assert story.told(service("v2", key="OTHER")) == []
    assert story.phase is Phase.FAILED
    assert story.app.kept.running == "v1"


def test_a_download_that_fails_for_now_is_tried_again_later_and_one_that_never_can_fails() -> None:
    story = Story()
    story.told(data("v1"))
    assert done(story.app.not_fetched("v1", "no link", True, story.now)) == []
    assert story.wait(2.5) == [(Fetch, "v1")]
    story.app.not_fetched("v1", "the signature is wrong", False, story.now)
    assert story.phase is Phase.FAILED


def test_restarts_back_off() -> None:
    story = healthy(service("v1"))
    waits = []
    for _ in range(8):
        story.app.ended("v1", "exit code 1", story.now)
        waits.append(story.app.processes["v1"].again_at - story.now)
        story.now += waits[-1]
        story.app.tick(story.now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_device_that_boots_offline_runs_what_it_ran() -> None:
    before = healthy(service("v1")).app.kept
    again = Story(before)
    assert done(again.app.boot(again.now)) == [(Start, "v1"), (Point, "v1")]
    again.pass_checks("v1")
    assert again.phase is Phase.HEALTHY


def test_a_device_that_died_in_a_download_goes_on_with_it() -> None:
    story = healthy(service("v1"))
    story.told(service("v2"), before="v1")
    again = Story(story.app.kept)
    assert done(again.app.boot(again.now)) == [(Start, "v1"), (Point, "v1"), (Fetch, "v2")]


def test_removed_means_ended_and_gone() -> None:
    story = healthy(service("v1"))
    assert story.told(None, Told.REMOVE) == [(Stop, "v1"), (Point, ""), (Drop, "")]
    assert story.phase is Phase.REMOVED
    assert story.app.kept.versions == {}


def test_the_first_version_of_all_that_fails_leaves_nothing_running() -> None:
    story = Story()
    story.told(service("v1"))
    story.fetched("v1")
    assert story.wait(301.0) == [(Stop, "v1"), (Point, "")]
    assert (story.phase, story.app.kept.running) == (Phase.FAILED, "")
