"""Small scans and label maps of several sources, in the layouts that they have on disk."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_cases import affine_of

from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.volumes import write_volume

SHAPE = (6, 7, 8)
AFFINE = affine_of((0.7, 0.8, 1.3), 3)
NAME = "Dataset901_Heart"


def box(*corners: tuple[int, int]) -> np.ndarray:
    """bool of SHAPE, True between first and last (excluded) along D, H, W."""
    inside = np.zeros(SHAPE, dtype=bool)
    inside[tuple(slice(a, b) for a, b in corners)] = True
    return inside


LV = box((1, 4), (1, 5), (1, 5))  # 3·4·4 = 48 voxels
RV = box((1, 4), (1, 5), (5, 7))  # 3·4·2 = 24
CORONARY = box((2, 3), (2, 3), (3, 7))  # 4: 2 in LV, 2 in RV
LUNG_LEFT, LUNG_RIGHT = box((0, 2), (0, 7), (0, 2)), box((0, 2), (0, 7), (6, 8))  # 28 each
HEART = box((0, 5), (0, 6), (0, 8))


def write_scans(raw: Path, case_ids: list[str], *, description: bool = True) -> Path:
    """A raw data set of scans without labels."""
    folder = raw / NAME
    for number, case_id in enumerate(case_ids):
        image = np.random.default_rng(number).normal(size=SHAPE) * 100
        write_volume(folder / "imagesTr" / f"{case_id}_0000.nii.gz", image.astype(np.int16), AFFINE)
    if description:
        content = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 0,
                   "file_ending": ".nii.gz"}  # fmt: skip
        atomic_write_json(folder / "dataset.json", content)
    return folder


def write_map(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, kind: type = np.uint8) -> None:
    """A label map of any data type."""
    write_volume(path, array.astype(kind), affine)


def write_predictions(folder: Path, case_ids: list[str]) -> Path:
    """What nnUNetv2_predict leaves: label maps, and dataset.json in the folder itself."""
    for case_id in case_ids:
        write_map(folder / f"{case_id}.nii.gz", LV * 1 + RV * 2)
    atomic_write_json(folder / "dataset.json", {"labels": {"background": 0, "left_ventricle": 1, "RV": 2}})
    return folder


def write_masks(folder: Path, case_ids: list[str]) -> Path:
    """What TotalSegmentator leaves by default: a folder for each scan, a mask for each structure."""
    masks = {"lung_upper_lobe_left": LUNG_LEFT, "lung_lower_lobe_right": LUNG_RIGHT, "heart": HEART}
    for case_id in case_ids:
        for name, mask in masks.items():
            write_map(folder / case_id / f"{name}.nii.gz", mask)
        (folder / case_id / "statistics.json").write_text("{}")
        (folder / case_id / "preview_total.png").write_bytes(b"")
    return folder


def write_multilabel(path: Path, array: np.ndarray, names: Mapping[int, str]) -> None:
    """What TotalSegmentator leaves with --ml: its names in the header's extension (`add_label_map_to_nifti`)."""
    labels = "".join(
        f'<Label Key="{i}" Red="1.0" Green="0.0" Blue="0.0" Alpha="1"><![CDATA[{name}]]></Label>\n'
        for i, name in names.items()
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>   '
        f'<VolumeInformation Index="0">   <LabelTable>\n{labels}\n  </LabelTable>  <StudyMetaDataLinkSet>  '
        "</StudyMetaDataLinkSet>  <VolumeType><![CDATA[Label]]></VolumeType>   </VolumeInformation></CaretExtension>\n"
    )
    write_map(path, array)
    image = nibabel.Nifti1Image.from_filename(str(path))
    image = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, xml.encode()))
    nibabel.save(image, path)


def read(path: Path) -> np.ndarray:
    """Ids [D, H, W] of a file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


STAND_IN = '''#!{python}
"""Behaves as TotalSegmentator 2.18 does towards its caller: options, names of files, header, exit codes, sentences."""
import argparse, os, sys, textwrap
from pathlib import Path
import nibabel, numpy

parser = argparse.ArgumentParser()
parser.add_argument("-i", dest="input", type=lambda p: Path(p).absolute())
parser.add_argument("-o", dest="output", type=lambda p: Path(p).absolute())
parser.add_argument("-ml", "--ml", action="store_true")
parser.add_argument("-ta", "--task", choices=["total", "heartchambers_highres", "coronary_arteries", "body"])
parser.add_argument("-f", "--fast", action="store_true")
parser.add_argument("-d", "--device", default="gpu")
args = parser.parse_args()
state = Path(os.environ["STAND_IN"])
with (state / "calls.txt").open("a") as calls:
    calls.write(f"{{args.task}} {{args.input.resolve().name}} fast={{args.fast}}\\n")
if args.task in ("heartchambers_highres", "coronary_arteries"):
    licence = (state / "licence").read_text() if (state / "licence").exists() else None
    if licence is None:
        print(textwrap.dedent("""\\
              In contrast to the other tasks this task is not openly available.
              It requires a license. For non-commercial usage a free license can be
              acquired here:
              https://backend.totalsegmentator.com/license-academic/

              For commercial usage contact: jakob.wasserthal@usb.ch
              """))
        sys.exit(1)
    if len(licence) != 18:
        print(f"ERROR: Invalid license number ({{licence}}). Please check your license number or contact support.")
        sys.exit(1)
if args.input.suffixes not in ([".nii"], [".nii", ".gz"]):
    sys.exit("no DICOM here")
if not args.input.exists():
    sys.exit("ERROR: The input file or directory does not exist.")
if (state / "fails").exists() and args.input.resolve().name in (state / "fails").read_text().split():
    print("Resampling...")
    raise RuntimeError("CUDA out of memory.")
names = {{"total": {{10: "lung_upper_lobe_left", 14: "lung_lower_lobe_right", 51: "heart", 52: "aorta"}},
         "heartchambers_highres": {{3: "heart_ventricle_left", 6: "aorta"}},
         "coronary_arteries": {{1: "coronary_arteries"}}, "body": {{1: "body_trunc"}}}}[args.task]
image = nibabel.load(args.input)
data = numpy.zeros(image.shape, numpy.uint8)
for place, value in enumerate(names):
    data[2 * place : 2 * place + 2] = value
assert args.ml
header = image.header.copy()
header.set_data_dtype(numpy.uint8)
done = nibabel.Nifti1Image(data, image.affine, header)
table = "".join(f'<Label Key="{{i}}" Red="1" Alpha="1"><![CDATA[{{n}}]]></Label>' for i, n in names.items())
done.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, f"<LabelTable>{{table}}</LabelTable>".encode()))
nibabel.save(done, args.output)
print("  Saved in 0.01s")
'''


def install_stand_in(folder: Path) -> Path:
    """Put a stand-in for TotalSegmentator's command into `folder/bin`; `folder` holds what it knows and notes."""
    path = folder / "bin" / "TotalSegmentator"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def path_with(folder: Path) -> str:
    """A PATH that begins with a folder."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch, cases: list[str]) -> None:
    """Work in a folder that holds nnU-Net's folders, with scans and predictions of these cases."""
    for kind in ("raw", "preprocessed", "results"):
        (folder / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(folder / kind))
    monkeypatch.chdir(folder)
    write_scans(folder / "raw", cases)
    write_predictions(Path("predictions"), cases)
