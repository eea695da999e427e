"""Who has a folder to himself or holds which case of it, who waits, and what is left: seen from other processes."""

from __future__ import annotations

import errno
import logging
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import Peer

from fcas_nnunet.integration.dataset import locks
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.locks import Workplace, exclusive


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


@pytest.fixture
def peer(tmp_path: Path):
    other = Peer(tmp_path)
    yield other
    other.kill()


def test_a_case_belongs_to_one_process_until_it_ends(tmp_path: Path, peer: Peer) -> None:
    assert peer.ask("stack.enter_context(place.claim(3))") == "True"
    with Workplace(tmp_path) as place:
        with place.claim(3) as mine, place.claim(4) as another:
            assert (mine, another) == (False, True)
        peer.kill()
        with place.claim(3) as mine:
            assert mine


def test_a_case_is_let_go_at_the_end_of_the_block(tmp_path: Path, peer: Peer) -> None:
    with Workplace(tmp_path) as place:
        with place.claim(0) as mine:
            assert mine
            assert peer.ask("stack.enter_context(place.claim(0))") == "False"
        with place.claim(0) as again:
            assert again


def test_one_is_alone_only_when_nobody_else_is_there(tmp_path: Path, peer: Peer) -> None:
    assert peer.ask("place.has_locks") == "True"
    with Workplace(tmp_path).alone() as alone:
        assert not alone
    peer.kill()
    place = Workplace(tmp_path)
    with place.alone() as alone:
        assert alone
        place.remove()
    assert not (tmp_path / WORK_FOLDER).exists()


def test_a_newcomer_waits_for_the_one_that_finishes_and_takes_a_new_lock(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    with place.alone() as alone:
        assert alone
        peer = Peer(tmp_path)
        time.sleep(1.5)  # the newcomer waits at the old lock
        place.remove()
    try:
        assert peer.ask("stack.enter_context(place.claim(0))") == "True"
        with Workplace(tmp_path) as place, place.claim(0) as mine:
            assert not mine, "both must be at the same lock"
    finally:
        peer.kill()


def test_of_two_that_end_together_the_later_one_is_alone(tmp_path: Path, peer: Peer) -> None:
    assert peer.ask("place.has_locks") == "True"
    place = Workplace(tmp_path)
    with place.alone() as alone:
        assert not alone
        assert peer.ask("stack.enter_context(place.alone())") == "True"


def test_without_locks_every_claim_is_granted_and_the_user_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", no_locks)
    with Workplace(tmp_path) as place:
        assert not place.has_locks
        with place.claim(0) as mine:
            assert mine
    assert caplog.text.count("its file system has no locks (No locks available)") == 1


def test_other_errors_are_not_taken_for_missing_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "lockf", broken)
    with pytest.raises(OSError, match="Input/output error"):
        Workplace(tmp_path)
