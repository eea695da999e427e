"""Who holds which case of a folder, and who is alone there: seen from processes of their own."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from peers import Peer

from fcas_nnunet.integration.dataset import locks as module
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.workplace import Workplace


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

    monkeypatch.setattr(module.fcntl, "lockf", no_locks)
    with Workplace(tmp_path) as place:
        assert not place.has_locks
        with place.claim(0) as mine:
            assert mine
    assert caplog.text.count("its file system has no locks (No locks available)") == 1


def test_other_errors_are_not_taken_for_missing_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.fcntl, "lockf", broken)
    with pytest.raises(OSError, match="Input/output error"):
        Workplace(tmp_path)
