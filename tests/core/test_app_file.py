"""APP.toml: what is in it becomes the structs of a rollout; what is wrong is named, with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import app_file
from schemas.errors import BadInput
from schemas.rollout import DataOnly, HttpCheck, Service, StrategyKind

HEAD = 'app = "a"\nversion = "1.0"\nartifact = "files"\n'
DATA = HEAD + '[run]\ntype = "data"\n'


def test_a_whole_file_becomes_what_the_coordinator_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "APP.toml"
    path.write_text(
        HEAD + '[run]\ntype = "service"\nargv = ["python3", "{dir}/serve.py"]\nports = [8080]\n'
        '[run.env]\nMODEL = "{dir}/m"\n[needs]\nram_mb = 100\n[health]\nmin_healthy_s = 1\n'
        '[health.check]\ntype = "http"\nport = 8080\n[strategy]\nkind = "rolling"\n[targets.labels]\nroom = "b2"\n'
    )  # fmt: skip
    app = app_file.read(path)
    assert app.run == Service(("python3", "{dir}/serve.py"), {"MODEL": "{dir}/m"}, (8080,))
    assert (app.needs.ram_mb, app.health.check, app.health.min_healthy_s) == (100, HttpCheck(8080), 1.0)
    assert (app.strategy.kind, app.targets.labels) == (StrategyKind.ROLLING, {"room": "b2"})
    assert app.path == tmp_path / "files", "from where the file lies, not from where the user stands"


def test_the_least_that_is_needed_is_five_lines(tmp_path: Path) -> None:
    (tmp_path / "APP.toml").write_text(DATA)
    assert app_file.read(tmp_path / "APP.toml").run == DataOnly()


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        (HEAD, "APP.toml", "missing required field `run`"),
        ("x =", "APP.toml", "no TOML"),
        (DATA + "[strategi]\n", "APP.toml", "strategy, targets"),
        (DATA + "[needs]\nram = 3\n", "needs", "ram_mb, storage_mb"),
        (DATA + '[needs]\nram_mb = "3"\n', "needs.ram_mb", "Expected `int`, got `str`"),
        (DATA + '[needs]\nnetwork = "superb"\n', "needs.network", "excellent, good, fair"),
        (DATA + '[needs]\ndevice_types = ["phone"]\n', "needs.device_types[0]", "smartphone, tablet"),
        (DATA + '[strategy]\nkind = "quick"\n', "strategy.kind", "canary, blue-green, rolling"),
        (DATA + "[strategy]\ncanary_share = 2.0\n", "strategy.canary_share", "<= 1.0"),
        (DATA + "[health]\nmin_healthy_s = 400\n", "health.healthy_deadline_s", "more than min_healthy_s"),
        (DATA + "[health]\nprogress_deadline_s = 30\n", "health.progress_deadline_s", "more than healthy_deadline_s"),
        (DATA + '[health.check]\ntype = "htp"\n', "health.check.type", "process, http, tcp, command"),
        (DATA + '[health.check]\ntype = "http"\nprt = 1\n', "health.check", "port, path"),
        (HEAD + "[run]\nargv = []\n", "run", "service, data"),
        (HEAD + '[run]\ntype = "service"\nargs = ["x"]\n', "run", "argv, env, ports"),
        (HEAD + '[run]\ntype = "service"\nargv = []\n', "run.argv", "length >= 1"),
        (HEAD + '[run]\ntype = "service"\nargv = ["x"]\nports = [0]\n', "run.ports[0]", ">= 1"),
        (DATA.replace("1.0", "1..0"), "version", "single dots"),
        (DATA.replace("1.0", "1.0."), "version", "single dots"),
        (DATA.replace('"a"', '"A b"'), "app", "lower-case letters"),
        (DATA.replace("files", ""), "artifact", "empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_the_file_the_field_and_what_is_allowed(
    tmp_path: Path, text: str, field: str, says: str
) -> None:
    path = tmp_path / "APP.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        app_file.read(path)
    assert refused.value.field.startswith(str(path))
    assert refused.value.field.endswith(field)
    assert says in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.toml: cannot be read: No such file"):
        app_file.read(tmp_path / "nowhere.toml")


def test_the_examples_that_we_ship_are_right() -> None:
    examples = sorted((Path(__file__).parents[2] / "deploy" / "apps").glob("*.toml"))
    assert [type(app_file.read(path).run) for path in examples] == [DataOnly, Service]
