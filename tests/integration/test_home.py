"""A home: where it is, who runs in it, and how the other commands find the broker through it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.creds import Creds, new_seed, public_key, read_creds, write_creds
from schemas.errors import BadInput, Unreachable
from schemas.files import write_private
from schemas.home import Home, Instance, read_instance, resolve, write_instance
from schemas.lock import Held, Lock
from schemas.procs import start_mark

STANDARD = "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("FOG_HOME", str(tmp_path / "home"))
    return Home.find()


def running(home: Home, *, mark: str | None = None) -> Instance:
    own = start_mark(os.getpid()) if mark is None else mark
    instance = Instance("nats://127.0.0.1:4300", 4300, os.getpid(), own, 1.0, {"broker": 7})
    write_instance(home, instance)
    return instance


def test_what_was_given_comes_before_the_environment_and_that_before_the_users_data(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Home.find(tmp_path / "other").root == tmp_path / "other"
    assert Home.find().root == tmp_path / "home"
    monkeypatch.delenv("FOG_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Home.find().root == tmp_path / "data" / "fogfleet"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert Home.find().root == Path.home() / ".local" / "share" / "fogfleet"


def test_the_record_of_a_running_instance_is_read_back_and_private(home: Home) -> None:
    written = running(home)
    assert read_instance(home) == written
    assert stat.S_IMODE(home.instance.stat().st_mode) == 0o600


def test_a_pid_that_belongs_to_another_process_now_is_not_taken_for_the_instance(home: Home) -> None:
    running(home, mark=start_mark(os.getpid()) + "0")
    assert read_instance(home) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"url": 3}', b"\xff"])
def test_a_damaged_record_counts_as_nobody(home: Home, content: bytes) -> None:
    write_private(home.instance, content)
    assert read_instance(home) is None


def test_the_running_instance_is_found_with_its_key(home: Home) -> None:
    seed = new_seed()
    running(home)
    write_creds(home.creds, Creds("nats://192.0.2.1:4300", seed))
    target = resolve()
    assert (target.url, target.seed) == ("nats://127.0.0.1:4300", seed)
    assert seed not in repr(target)
    assert seed not in repr(read_creds(home.creds))


def test_an_address_that_is_given_wins_and_the_homes_key_goes_only_to_the_homes_broker(home: Home) -> None:
    seed = new_seed()
    running(home)
    write_creds(home.creds, Creds("nats://127.0.0.1:4300", seed))
    assert resolve("localhost:4300").seed == seed
    assert resolve("nats://192.0.2.9:4300").seed == ""
    assert resolve("nats://127.0.0.1:4301").seed == ""
    assert resolve("localhost:4300,nats://127.0.0.1:4300").seed == seed
    assert resolve("localhost:4300,nats://192.0.2.9:4300").seed == "", "one of the servers is not the home's"


def test_the_servers_of_a_cluster_are_given_with_commas_between(home: Home, tmp_path: Path) -> None:
    several, seed = "nats://one:4222,nats://two:4222,nats://three:4222", new_seed()
    assert resolve("one:4222, two:4222,nats://three:4222").url == several
    write_creds(home.creds, Creds(several, seed))
    assert (resolve(creds=home.creds).url, resolve("two:4222,one").seed) == (several, seed)


def test_a_creds_file_carried_to_another_machine_is_enough(home: Home, tmp_path: Path) -> None:
    seed = new_seed()
    carried = tmp_path / "carried.creds"
    write_creds(carried, Creds("nats://192.0.2.1:4300", seed))
    assert resolve(creds=carried).url == "nats://192.0.2.1:4300"
    assert resolve("nats://192.0.2.5:1", carried).seed == seed
    write_creds(home.creds, read_creds(carried))
    assert resolve().url == "nats://192.0.2.1:4300"


def test_a_standard_nats_creds_file_is_passed_on_with_the_address_that_it_lacks(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    path.write_text(STANDARD)
    assert resolve("nats://broker:4222", path).creds_file == str(path)
    with pytest.raises(BadInput, match="add --nats"):
        resolve(creds=path)


@pytest.mark.parametrize("text", ["", "nats = 3", 'nats = "nats://x:1"\nseed = "nonsense"', "\x00"])
def test_a_creds_file_of_the_wrong_form_is_named(home: Home, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.creds"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"bad\.creds"):
        resolve(creds=path)
    with pytest.raises(BadInput, match=r"missing\.creds"):
        resolve(creds=tmp_path / "missing.creds")


@pytest.mark.parametrize(
    "url", ["http://x:1", "nats://", "nats://x:99999", "nats://x:port", "x:1,", "nats://x:1,nats://"]
)
def test_an_address_of_the_wrong_form_is_refused(home: Home, url: str) -> None:
    with pytest.raises(BadInput, match="is not an address"):
        resolve(url)


def test_nothing_that_runs_says_what_to_do(home: Home) -> None:
    with pytest.raises(Unreachable, match=r"fog up(.|\n)*--nats"):
        resolve()


def test_a_seed_has_a_public_key_of_a_user() -> None:
    first, second = public_key(new_seed()), public_key(new_seed())
    assert first.startswith("U")
    assert first != second


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, schemas.lock as l\n"
        "k = l.Lock(pathlib.Path(sys.argv[1]), 'it')\nprint('ok', flush=True)\ninput()"
    )
    path = tmp_path / "lock"
    argv = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ok\n"
        with pytest.raises(Held, match="it is in use") as held:
            Lock(path, "it")
        assert held.value.pid == holder.pid
        holder.kill()
    lock = Lock(path, "it")
    lock.release()
    Lock(path, "it").release()


def test_a_private_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
