"""What a command may write over: an earlier result of its kind, and nothing else."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fcas_nnunet.commands.evaluate import segmentations as evaluate_segmentations
from fcas_nnunet.commands.runtime.outputs import (
    Output,
    check_outputs,
    check_picture_folder,
    holds_result,
    holds_table,
    is_picture,
)
from fcas_nnunet.evaluation.reading import results as reading_results
from fcas_nnunet.evaluation.results import SCHEMAS, write_csv, write_result
from fcas_nnunet.files import PICTURE_METADATA

OUTPUTS = [
    Output("o", "result", ".json", holds_result("fcas-nnunet/comparison")),
    Output("csv", "table", ".csv", holds_table(evaluate_segmentations.CSV_COLUMNS)),
    Output("picture", "picture", ".png", is_picture),
]
#: A header that each table may have.
HEADERS = {
    "segmentations": "case_id,label,dice,rdice_1,rdice_12,reference_voxels,prediction_voxels,hd95_mm,surface_dice,"
    "centreline_dice,pieces_error,tunnels_error",
    "compare": "label,first_mean,second_mean,difference,low,high,p_value,holm_p_value,count,first_missed,second_missed",
    "images": "case_id,reference,ssim,rmse,rmse_units,lpips",
    "memorisation": "case_id,template,reference,flagged_by,image_nearest,image_distance,contrast_matched_nearest,"
    "contrast_matched_distance,rmse_units",
    "confidence": "drawing,error,region,map,ause,spearman",
    "reading": "reader,bag_id,reference,method,case_id,letter,realism,noise,total,rank",
}


def check(**arguments: object) -> None:
    check_outputs(argparse.Namespace(**arguments), OUTPUTS)


def test_new_files_and_earlier_results_may_be_written(tmp_path: Path) -> None:
    paths = {"o": tmp_path / "r.json", "csv": tmp_path / "t.csv", "picture": tmp_path / "p.png"}
    check(**paths, a=tmp_path / "none.json", labels=None)
    write_result(paths["o"], {"schema": "fcas-nnunet/comparison"})
    write_csv(paths["csv"], HEADERS["segmentations"].split(","), [["a", "aorta", *[1.0] * 10]])
    Figure().savefig(paths["picture"], metadata=PICTURE_METADATA)
    check(**paths)


@pytest.mark.parametrize(
    ("option", "name", "content"),
    [
        ("o", "dataset.json", json.dumps({"labels": {}}).encode()),
        ("o", "dice.json", json.dumps({"schema": "fcas-nnunet/segmentations"}).encode()),
        ("o", "drawn.json", json.dumps({"schema": "mine", "of": {"schema": "fcas-nnunet/comparison"}}).encode()),
        ("o", "words.json", b'["fcas-nnunet/comparison"'),
        ("csv", "patients.csv", b"patient,case_id\n"),
        ("csv", "notes.csv", b"case_id,label,remark\na,aorta,blurred\n"),
        ("csv", "more.csv", f"{HEADERS['segmentations']},remark\r\n".encode()),
        ("csv", "second.csv", f"mine\n{HEADERS['segmentations']}\n".encode()),
        ("picture", "photo.png", b"\x89PNG"),
    ],
)
def test_other_files_are_not_written_over(tmp_path: Path, option: str, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    flag, stem = {"o": "-o"}.get(option, f"--{option}"), path.with_suffix("")
    path.with_name(f"{path.stem}_2{path.suffix}").touch()
    remedy = rf"Choose another name: {flag} {stem}_3\{path.suffix}$"
    with pytest.raises(ValueError, match=f"{name}: .* must go into a new file or an earlier one of its kind.*{remedy}"):
        check(**{option: path})


@pytest.mark.parametrize("part", HEADERS)
def test_a_table_takes_the_place_of_its_own_kind_alone(tmp_path: Path, part: str) -> None:
    part_module = reading_results if part == "reading" else import_module(f"fcas_nnunet.commands.evaluate.{part}")
    path, is_earlier = tmp_path / "table.csv", holds_table(part_module.CSV_COLUMNS)
    for other, header in HEADERS.items():
        write_csv(path, header.split(","), [["row"]])
        assert is_earlier(path) == (other == part), other


def test_every_part_knows_its_table() -> None:
    assert {*HEADERS, "fidelity"} == {*SCHEMAS, "reading"}, "fidelity's table is that of segmentations"


def test_what_is_read_is_not_written_over_by_whatever_name(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_result(path, {"schema": "fcas-nnunet/comparison"})
    (tmp_path / "again.json").symlink_to(path)
    for others in ({"a": path}, {"results": [Path("x"), tmp_path / "again.json"]}, {"r": str(path)}):
        with pytest.raises(
            ValueError, match=r"result must go into another file than those that are read.*: -o .*r_2\.json$"
        ):
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
