"""A real data set in another format than the synthetic one's .nii.gz: made from, prepared together, read alike."""

from __future__ import annotations

import json
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from fcas_nnunet_small import set_roots
from nnunet_cases import ENVIRONMENT, PLANS, quick_nnunet
from turned_scenes import LABELS, ORIENTATIONS, places, shift, write_scenes

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.confidence_store import preprocessed_confidence_path

READERS = {".nrrd": "SimpleITKIO", ".mha": "SimpleITKIO", ".nii": "NibabelIO"}


@pytest.mark.parametrize("ending", READERS)
def test_sets_of_two_formats_are_prepared_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    set_roots(monkeypatch, tmp_path)
    raw, preprocessed = tmp_path / "nnUNet_raw", tmp_path / "nnUNet_preprocessed"
    real = raw / "Dataset901_Real"
    write_scenes(real)
    for path in sorted(real.rglob("*.nii.gz")):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ending), True)
        path.unlink()
    description = json.loads((real / "dataset.json").read_text()) | {"file_ending": ending}
    (real / "dataset.json").write_text(json.dumps(description))
    generate(["-d", "901", "-o", "Dataset902_Made", "-n", "8", "--source", "warped", "--masks", "given", "-np", "1"])
    made = RawDataset.open(raw / "Dataset902_Made")
    assert made.file_ending == ".nii.gz"
    with quick_nnunet():
        prepare("902", "901", ["3d_fullres"], PLANS, 1)
    folders = [preprocessed / name for name in ("Dataset901_Real", "Dataset902_Made")]
    names = ["nnUNetPlans", "nnUNetPlansFrom901"]
    plans = [json.loads((folder / f"{name}.json").read_text()) for folder, name in zip(folders, names, strict=True)]
    assert [each["image_reader_writer"] for each in plans] == 2 * [READERS[ending]]
    stored = [folder / f"{name}_3d_fullres" for folder, name in zip(folders, names, strict=True)]
    pairs = {json.loads(line)["case_id"]: json.loads(line)["reference"]
             for line in (made.folder / "fcas_manifest.jsonl").read_text().splitlines()}  # fmt: skip
    assert sorted(pairs.values()) == sorted(ORIENTATIONS)
    for case_id, reference in pairs.items():
        ours, theirs = (blosc2.open(str(stored[side] / f"{name}_seg.b2nd"))[:]
                        for side, name in ((1, case_id), (0, reference)))  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
        assert set(np.unique(ours)) == set(LABELS.values())
        assert blosc2.open(str(preprocessed_confidence_path(stored[1], case_id)))[:].shape == ours.shape
        image, label = made.image_path(case_id), made.mask_path(case_id)
        assert nib.load(label).shape == nib.load(image).shape
        assert shift(label, places(label), places(image, places(label))) < 0.1
