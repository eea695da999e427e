"""MM-WHS 2017: 20 CT and 20 MR scans of whole hearts with seven structures, and 40 of each for testing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from fcas_nnunet.datasets.layout import CT, MRI, TEST, TRAINING, Layout, Place, PublicSet, find_scans

MODALITIES = {"ct": CT, "mr": MRI}
_MISPRINTS = {421: 420}  # in mr_train_1010
_VALUES = {500: "left_ventricle", 600: "right_ventricle", 420: "left_atrium", 550: "right_atrium",
           205: "left_myocardium", 820: "ascending_aorta", 850: "pulmonary_artery"}  # fmt: skip


def mmwhs(modality: str) -> PublicSet:
    """The set of one modality, "ct" or "mr": a data set has one kind of scans."""
    return PublicSet.of_structures(
        _VALUES | {wrong: _VALUES[meant] for wrong, meant in _MISPRINTS.items()},
        key=f"mmwhs --modality {modality}",
        name=f"MMWHS{modality.upper()}",
        channel=MODALITIES[modality],
        misprints=frozenset(_MISPRINTS),
        reference="Zhuang et al., Medical Image Analysis 58, 2019",
        doubts=(
            "MM-WHS labels the great vessels in part only: aorta and pulmonary artery end at a height of the "
            "annotator's choice.",
        ),
    )


def find(source: Path, modality: str) -> Layout:
    """Find `ct_train_1001_image.nii.gz`, `ct_train_1001_label.nii.gz`, `ct_test_2001_image.nii.gz`, ... or those of MR.

    The labels of the test part are published encrypted alone; where a user has them as volumes, they are taken.

    Raises:
        MissingFileError: If there is no such folder.
        InputError: If no case of the modality is there.
    """
    form = f"{modality}_train_1001_image.nii.gz, {modality}_train_1001_label.nii.gz, ..."
    return find_scans(source, r"(?:^|/)(ct|mr)_(train|test)_(\d+)_(image|label)\.nii(?:\.gz)?$", _place(modality), form)


def _place(modality: str) -> Callable[[re.Match[str]], Place | None]:
    def place(match: re.Match[str]) -> Place | None:
        of, part, number, kind = (text.lower() for text in match.groups())
        split = TEST if part == "test" else TRAINING
        return Place(f"mmwhs_{of}_{number}", kind == "label", split) if of == modality else None

    return place
