"""What a command may write over: an earlier result of its kind, and nothing else."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fcas_nnunet.commands.evaluate import write_csv, write_json
from fcas_nnunet.commands.outputs import PICTURE_MARKS, TABLE_MARKS, Output, check_outputs, check_picture_folder
from fcas_nnunet.files import PICTURE_METADATA

OUTPUTS = [
    Output("o", "result", ".json", [b'"fcas-nnunet/comparison"']),
    Output("csv", "table", ".csv", TABLE_MARKS),
    Output("picture", "picture", ".png", PICTURE_MARKS),
]


def check(**arguments: object) -> None:
    check_outputs(argparse.Namespace(**arguments), OUTPUTS)


def test_new_files_and_earlier_results_may_be_written(tmp_path: Path) -> None:
    paths = {"o": tmp_path / "r.json", "csv": tmp_path / "t.csv", "picture": tmp_path / "p.png"}
    check(**paths, a=tmp_path / "none.json", labels=None)
    write_json(paths["o"], {"schema": "fcas-nnunet/comparison"})
    write_csv(paths["csv"], ["case_id", "label", "dice"], [["a", "aorta", 1.0]])
    Figure().savefig(paths["picture"], metadata=PICTURE_METADATA)
    check(**paths)


@pytest.mark.parametrize(
    ("option", "name", "content"),
    [
        ("o", "dataset.json", json.dumps({"labels": {}}).encode()),
        ("o", "dice.json", json.dumps({"schema": "fcas-nnunet/segmentations"}).encode()),
        ("csv", "patients.csv", b"patient,case_id\n"),
        ("picture", "photo.png", b"\x89PNG"),
    ],
)
def test_other_files_are_not_written_over(tmp_path: Path, option: str, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: .* must go into a new file or an earlier one of its kind"):
        check(**{option: path})


def test_what_is_read_is_not_written_over_by_whatever_name(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_json(path, {"schema": "fcas-nnunet/comparison"})
    (tmp_path / "again.json").symlink_to(path)
    for others in ({"a": path}, {"results": [Path("x"), tmp_path / "again.json"]}, {"r": str(path)}):
        with pytest.raises(ValueError, match="result must go into another file than those that are read"):
            check(o=path, **others)


def test_every_fault_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must go into") as error:
        check(o=tmp_path, csv=tmp_path / "scan.nii.gz", picture=tmp_path / "p.jpg")
    assert str(error.value).splitlines() == [
        f"{tmp_path}: result must go into a file, got a folder. Add a file name.",
        f"{tmp_path / 'scan.nii.gz'}: table must go into a file that ends in .csv, got another. Rename it.",
        f"{tmp_path / 'p.jpg'}: picture must go into a file that ends in .png, got another. Rename it.",
    ]


def test_a_folder_of_pictures_takes_earlier_ones_and_no_others(tmp_path: Path) -> None:
    check_picture_folder(None)
    check_picture_folder(tmp_path / "new")
    Figure().savefig(tmp_path / "case.png", metadata=PICTURE_METADATA)
    (tmp_path / "notes.txt").touch()
    check_picture_folder(tmp_path)
    with pytest.raises(ValueError, match="notes.txt: folder must be one, or be new, got a file"):
        check_picture_folder(tmp_path / "notes.txt")
    Figure().savefig(tmp_path / "mine.png")
    with pytest.raises(ValueError, match="must hold no pictures but earlier results, got mine.png"):
        check_picture_folder(tmp_path)
