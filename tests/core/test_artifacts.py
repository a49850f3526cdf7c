"""Packing: what of a folder travels and under which name; what cannot travel is refused by its path."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import artifacts
from client.artifacts import pack
from client.signing import signing_key
from schemas.artifact import File, Manifest, check_paths
from schemas.errors import BadInput
from schemas.keys import is_signed
from schemas.limits import CHUNK_BYTES


def filled(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_folder_is_its_files_by_path_whoever_packs_it_and_wherever(tmp_path: Path) -> None:
    files = {"run.sh": b"#!/bin/sh\n", "data/w.bin": b"w" * (CHUNK_BYTES + 1), "empty": b""}
    one = pack(filled(tmp_path / "one", files))
    (tmp_path / "two").mkdir()
    other = pack(filled(tmp_path / "two", dict(reversed(files.items()))))
    assert one.name == other.name
    assert [(file.path, file.size, len(file.chunks)) for file in one.manifest.files] == [
        ("data/w.bin", CHUNK_BYTES + 1, 2), ("empty", 0, 0), ("run.sh", 10, 1),
    ]  # fmt: skip
    (tmp_path / "two" / "run.sh").chmod(0o755)
    runnable = pack(tmp_path / "two")
    assert [file.executable for file in runnable.manifest.files] == [False, False, True]
    assert runnable.name != one.name


def test_what_is_in_it_twice_is_sent_once(tmp_path: Path) -> None:
    packed = pack(filled(tmp_path, {"a": b"same" * 1000, "b": b"same" * 1000, "c": b"other"}))
    assert packed.size == 8005
    assert sorted(piece.size for piece in packed.pieces.values()) == [5, 4000]


def test_a_single_file_is_an_artifact_too_and_may_be_named_by_a_link(tmp_path: Path) -> None:
    filled(tmp_path, {"model-7.onnx": b"m"})
    (tmp_path / "latest").symlink_to("model-7.onnx")
    assert [f.path for f in pack(tmp_path / "latest").manifest.files] == ["model-7.onnx"]


@given(st.binary(max_size=3 * CHUNK_BYTES))
def test_the_pieces_give_back_every_byte(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        packed = pack(filled(Path(folder), {"f": data}))
        (file,) = packed.manifest.files
        read = b"".join(artifacts._bytes_of(c.digest, packed.pieces[c.digest]) for c in file.chunks)
    assert read == data


def link(path: Path) -> None:
    (path / "x").symlink_to("/etc/hostname")


def linked_folder(path: Path) -> None:
    (path / "x").symlink_to(path.parent)


def pipe(path: Path) -> None:
    os.mkfifo(path / "x")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path / "x"))


def not_text(path: Path) -> None:
    (Path(os.fsdecode(bytes(path))) / os.fsdecode(b"x\xff")).write_bytes(b"")


def backslash(path: Path) -> None:
    (path / "x\\y").write_bytes(b"")


def reserved(path: Path) -> None:
    (path / ".manifest.json").write_bytes(b"")


def nothing(path: Path) -> None:
    (path / "sub").mkdir()


@pytest.mark.parametrize(
    ("make", "says"),
    [(link, "x is a link"), (linked_folder, "x is a link"), (pipe, "x is neither a file nor a folder"),
     (unix_socket, "x is neither"), (not_text, "not UTF-8"), (backslash, "no path inside an artifact"),
     (reserved, "what a device keeps"), (nothing, "holds no file")],
)  # fmt: skip
def test_what_cannot_travel_is_refused_by_name(tmp_path: Path, make: object, says: str) -> None:
    assert callable(make)
    make(tmp_path)
    with pytest.raises(BadInput) as refused:
        pack(tmp_path)
    assert says in str(refused.value)


def test_an_artifact_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere cannot be read: No such file"):
        pack(tmp_path / "nowhere")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all, so that the refusal is played."""
    filled(tmp_path, {"secret": b"s"})

    def refuse(path: Path, *_args: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInput, match="secret cannot be read: Permission denied"):
        pack(tmp_path)


def test_a_file_that_changes_while_it_is_read_or_before_it_is_sent_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path, {"log": b"one"}) / "log"
    digest, piece = next(iter(pack(tmp_path).pieces.items()))
    path.write_bytes(b"two")
    with pytest.raises(BadInput, match="log changed while it was read"):
        artifacts._bytes_of(digest, piece)
    digest_of = artifacts.digest_of

    def while_somebody_writes(data: bytes) -> str:
        monkeypatch.undo()
        path.write_bytes(b"more than before")
        return digest_of(data)

    monkeypatch.setattr(artifacts, "digest_of", while_somebody_writes)
    with pytest.raises(BadInput, match="log changed while it was read"):
        pack(tmp_path)


def test_a_list_of_files_that_no_message_holds_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, {f"{n}": b"" for n in range(20)})
    monkeypatch.setattr(artifacts, "MANIFEST_BYTES", 100)
    with pytest.raises(BadInput, match="archive") as refused:
        pack(tmp_path)
    assert "20 files" in str(refused.value)
    monkeypatch.setattr(artifacts, "FILES_MAX", 19)
    with pytest.raises(BadInput, match="more than 19 files"):
        pack(tmp_path)


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "a//b", "c:/a", "a\\b", "a/.", ".manifest.json"])
def test_a_path_that_would_leave_the_folder_is_no_path(path: str) -> None:
    with pytest.raises(BadInput):
        check_paths(Manifest((File(path),)))


def test_the_signing_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    key = signing_key(tmp_path)
    assert key.path.stat().st_mode & 0o777 == 0o600
    assert signing_key(tmp_path).public == key.public
    assert is_signed(key.public, b"said", key.sign(b"said"))
    assert not is_signed(key.public, b"other", key.sign(b"said"))
    key.path.write_text("no seed")
    with pytest.raises(BadInput, match="no nkey seed"):
        signing_key(tmp_path)
