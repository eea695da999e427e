"""Whole files or none, and none touched for nothing."""

from pathlib import Path

import pytest

from fcas_nnunet.files import atomic_path, atomic_write_text, file_sha256


def test_a_file_is_replaced_as_a_whole_and_left_alone_where_it_would_not_change(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "text.txt"
    atomic_write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    before = path.stat()
    atomic_write_text(path, "Größe\n")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    atomic_write_text(path, "Größe")
    assert path.read_text(encoding="utf-8") == "Größe"
    assert [file.name for file in path.parent.iterdir()] == ["text.txt"]


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
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_bytes() == b"old"


def test_a_hash_is_that_of_the_published_example(tmp_path: Path) -> None:
    """A million letters a, longer than one read: FIPS 180-2, appendix B.3."""
    (tmp_path / "a").write_bytes(b"a" * 1_000_000)
    assert file_sha256(tmp_path / "a") == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
