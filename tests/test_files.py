"""Whole files or none, whoever else writes them, and none touched for nothing."""

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from peers import Peer
from safetensors import SafetensorError

from fcas_nnunet import files
from fcas_nnunet.config.files import read_yaml
from fcas_nnunet.files import (
    STRAY_AGE_S,
    atomic_path,
    atomic_write_text,
    file_sha256,
    remove_strays,
    temporary_folder,
    what_is_at,
)
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.json_files import read_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="file must exist, got a folder"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError, match="the file must exist, got a pipe or device"):
        read_yaml(Path("/dev/null"))
    with pytest.raises(FileNotFoundError, match="file must exist, got a pipe or device"):
        read_volume(tmp_path / "pipe")
    found = [what_is_at(tmp_path / name) for name in ("circle", "link", "gone")]
    assert found == ["a link that leads to no file", "a link that leads to no file", "none"]


def test_a_file_is_replaced_as_a_whole_and_left_alone_where_it_would_not_change(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "text.txt"
    atomic_write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    before = path.stat()
    atomic_write_text(path, "Größe\n")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    atomic_write_text(path, "Größe")
    assert path.read_text(encoding="utf-8") == "Größe"
    assert names(path.parent) == ["text.txt"]


def test_a_write_cut_short_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            assert not temporary.name.endswith(".nii.gz")
            raise KeyboardInterrupt("by the user")

    with pytest.raises(KeyboardInterrupt, match="by the user"):
        interrupted()
    assert names(tmp_path) == ["a.nii.gz"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "said",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_what_the_system_refuses_is_said_of_the_file(tmp_path: Path, said: Exception) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="No space left on device") as raised, atomic_path(path):
        raise said
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert names(tmp_path) == []


def test_of_a_full_disk_torch_says_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    with pytest.raises(RuntimeError, match="file write failed"), atomic_path(tmp_path / "state.pt"):
        raise said
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left on device: .*state\.pt"), atomic_path(tmp_path / "state.pt"):
        raise said


def test_errors_about_other_files_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing") as raised, atomic_path(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()
    assert raised.value.filename == str(tmp_path / "missing")


def test_a_hash_is_that_of_the_published_example(tmp_path: Path) -> None:
    """A million letters a, longer than one read: FIPS 180-2, appendix B.3."""
    (tmp_path / "a").write_bytes(b"a" * 1_000_000)
    assert file_sha256(tmp_path / "a") == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


def test_of_two_writers_of_one_file_neither_puts_the_others_half_in_place(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    peer = Peer(tmp_path, "globals().update(half=stack.enter_context(atomic_path(folder / 'model.safetensors')))")
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"A" * 10)
            assert peer.ask("half.write_bytes(b'B' * 5)") == "5"
        assert path.read_bytes() == b"A" * 10
        peer.ask("half.write_bytes(b'B' * 10)")
        peer.ask("stack.close()")
        assert path.read_bytes() == b"B" * 10
        assert names(tmp_path) == ["model.safetensors"]
    finally:
        peer.kill()


@pytest.mark.skipif(os.name == "nt", reason="no umask")
def test_a_file_may_be_read_by_whom_the_user_lets_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write_text(tmp_path / "text.txt", "x")
        with atomic_path(tmp_path / "private.bin") as temporary:
            os.close(os.open(temporary, os.O_CREAT, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    for name in ("text.txt", "private.bin"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_what_killed_runs_left_goes_when_it_is_a_day_old_and_nothing_else(tmp_path: Path) -> None:
    strays = [tmp_path / f".{name}.0a1b2c3d.part" for name in ("old.txt", "young.txt", "folder")]
    for stray in strays[:2]:
        stray.write_text("half")
    strays[2].mkdir()
    (strays[2] / "half").write_text("half")
    others = [tmp_path / ".download.part", tmp_path / "x.0a1b2c3d.part"]
    for path in others:
        path.write_text("somebody else's")
    for path in (strays[0], strays[2], *others):
        os.utime(path, (0, time.time() - STRAY_AGE_S - 1))
    files._remove_old_strays.cache_clear()
    atomic_write_text(tmp_path / "text.txt", "x")
    assert names(tmp_path) == sorted([strays[1].name, *(path.name for path in others), "text.txt"])


def test_who_is_alone_in_a_folder_removes_all_strays_below_it(tmp_path: Path) -> None:
    stray = tmp_path / "a" / "b" / ".x.0a1b2c3d.part"
    stray.parent.mkdir(parents=True)
    stray.write_text("half")
    remove_strays(tmp_path)
    assert stray.exists()
    remove_strays(tmp_path, deep=True)
    assert not stray.exists()


def test_a_long_name_gets_a_temporary_one_that_file_systems_take(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 100 + "x" * 50 + ".txt")  # 254 bytes
    atomic_write_text(path, "x")
    assert names(tmp_path) == [path.name]


def test_of_a_temporary_folder_stays_what_was_moved_out(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "new" / "model") as folder:
        (folder / "model").mkdir()
        (folder / "rest").write_text("rest")
        (folder / "model").rename(tmp_path / "new" / "model")
    assert names(tmp_path / "new") == ["model"]
