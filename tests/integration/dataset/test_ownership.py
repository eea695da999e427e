"""Which folders a command may write into."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.ownership import GENERATE, MASKS, PHANTOM, refuse_foreign_cases, sole_writer


def test_new_and_empty_folders_and_those_it_began_are_a_commands_own(tmp_path: Path) -> None:
    refuse_foreign_cases(tmp_path / "new", PHANTOM)
    (tmp_path / ".DS_Store").touch()
    refuse_foreign_cases(tmp_path, PHANTOM)
    (tmp_path / WORK_FOLDER).mkdir()
    refuse_foreign_cases(tmp_path, PHANTOM)
    Manifest(tmp_path).new_journal().append({"case_id": "a", "command": PHANTOM})
    (tmp_path / "imagesTr").mkdir()
    refuse_foreign_cases(tmp_path, PHANTOM)


def test_a_folder_that_was_begun_and_killed_at_once_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="by the user"), sole_writer(tmp_path / "set", MASKS):
        (tmp_path / "set" / "half.nii.gz").touch()
        raise KeyboardInterrupt("by the user")
    with sole_writer(tmp_path / "set", MASKS):
        pass


@pytest.mark.parametrize("name", ["dataset.json", "imagesTr"])
def test_what_no_manifest_speaks_for_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with (
        pytest.raises(ValueError, match=f"must be new, empty or begun by fcas_generate, got other files: {name}"),
        sole_writer(tmp_path, GENERATE),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("record", "writer"),
    [
        ({"command": PHANTOM}, PHANTOM),
        ({"command": GENERATE}, GENERATE),
        ({"weights_sha256": "0"}, GENERATE),  # as both commands wrote before they gave their names
        ({"mask_config": {}}, MASKS),
    ],
)
def test_another_commands_cases_are_refused(tmp_path: Path, record: dict[str, object], writer: str) -> None:
    Manifest(tmp_path).append({"case_id": "a"} | record)
    refuse_foreign_cases(tmp_path, writer)
    for other in {PHANTOM, GENERATE, MASKS} - {writer}:
        with pytest.raises(ValueError, match=f"begun by {other}, got cases of {writer}"):
            refuse_foreign_cases(tmp_path, other)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(ValueError, match="f: must be a folder, or be new, got a file"):
        refuse_foreign_cases(tmp_path / "f", MASKS)
