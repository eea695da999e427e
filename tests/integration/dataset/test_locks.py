"""Who has a folder to himself, who waits for him, and what is left of both."""

from __future__ import annotations

import errno
import logging
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import Peer

from fcas_nnunet.integration.dataset import locks
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.workplace import Workplace


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Peer]:
    """Another process that has the folder to itself."""
    peer = Peer(tmp_path / "model", "stack.enter_context(exclusive(folder))")
    peer.ask("None")
    yield peer
    peer.kill()


def test_the_second_run_waits_with_a_message_until_the_first_is_killed(
    tmp_path: Path, holder: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            holder.kill()

    monkeypatch.setattr(locks.time, "sleep", wait)
    with caplog.at_level(logging.INFO), exclusive(tmp_path / "model"):
        assert len(waits) == 3
    assert caplog.text.count("waiting for it") == 1
    assert f"(process {holder.process.pid}, since 2" in caplog.text


def test_who_cannot_wait_is_told_whom_for(tmp_path: Path, holder: Peer) -> None:
    with pytest.raises(ValueError, match=rf"no other run at work, got .* \(process {holder.process.pid}, since"):
        exclusive(tmp_path / "model", wait=False).__enter__()
    holder.ask("stack.close()")
    with exclusive(tmp_path / "model", wait=False):
        pass


def test_nothing_is_left_but_what_was_written(tmp_path: Path) -> None:
    with exclusive(tmp_path / "for_nothing"):
        assert (tmp_path / "for_nothing" / WORK_FOLDER).is_dir()
    with exclusive(tmp_path / "used"):
        (tmp_path / "used" / "file").touch()
    (tmp_path / "there").mkdir()
    with exclusive(tmp_path / "there"):
        pass
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["there", "used", "used/file"]


def test_a_newcomer_that_waited_at_a_removed_lock_takes_the_new_one(tmp_path: Path, holder: Peer) -> None:
    third = Peer(tmp_path / "model", "stack.enter_context(exclusive(folder))")
    try:
        holder.ask("stack.close()")
        third.ask("None")
        with pytest.raises(ValueError, match=f"process {third.process.pid}"):
            exclusive(tmp_path / "model", wait=False).__enter__()
    finally:
        third.kill()


def test_those_who_share_a_folder_keep_out_who_wants_it_alone(tmp_path: Path) -> None:
    peer = Peer(tmp_path)
    try:
        peer.ask("place.has_locks")
        with pytest.raises(ValueError, match="no other run at work, got another run"):
            exclusive(tmp_path, wait=False).__enter__()
    finally:
        peer.kill()


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", no_locks)
    with exclusive(tmp_path):
        assert "its file system has no locks (No locks available), so start no second run" in caplog.text


def test_windows_locks_by_msvcrt_and_removes_no_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that behaves as Windows does: a range from the file's position, no shared locks, no open file goes."""
    held: dict[tuple[int, int], int] = {}

    def locking(file: int, mode: int, count: int) -> None:
        key = (locks.os.fstat(file).st_ino, locks.os.lseek(file, 0, 1))
        assert count == 1
        if mode == msvcrt.LK_UNLCK:
            del held[key]
        elif held.setdefault(key, file) != file:
            raise PermissionError(errno.EACCES, "Permission denied")

    def close(file: int) -> None:
        for key in [key for key, owner in held.items() if owner == file]:
            del held[key]
        files.remove(file)
        real_close(file)

    def opened(*arguments: object) -> int:
        files.append(real_open(*arguments))  # type: ignore[arg-type]
        return files[-1]

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if any(locks.os.path.samestat(locks.os.fstat(file), path.stat()) for file in files):
            raise PermissionError(errno.EACCES, "used by another process")
        real_unlink(path, missing_ok)

    files: list[int] = []
    msvcrt = types.SimpleNamespace(locking=locking, LK_NBLCK=2, LK_UNLCK=0)
    real_open, real_close, real_unlink = locks.os.open, locks.os.close, Path.unlink
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", msvcrt, raising=False)
    monkeypatch.setattr(locks.os, "open", opened)
    monkeypatch.setattr(locks.os, "close", close)
    monkeypatch.setattr(Path, "unlink", unlink)

    with exclusive(tmp_path):
        monkeypatch.setattr(locks, "_held", set())  # as another process sees it
        with pytest.raises(ValueError, match="no other run at work, got .* on "):
            exclusive(tmp_path, wait=False).__enter__()
        locks._held.add(tmp_path)
    assert not (tmp_path / WORK_FOLDER).exists()

    place, other = Workplace(tmp_path), Workplace(tmp_path)
    with place.claim(3) as mine, other.claim(3) as others, other.claim(4) as another:
        assert (mine, others, another) == (True, False, True)
    with place.alone() as alone:
        assert alone
        place.remove()
    assert (tmp_path / WORK_FOLDER / locks.LOCK_FILE).exists(), "open in another process"
    with other.alone():
        other.remove()
    assert not (tmp_path / WORK_FOLDER).exists()
    assert not held
