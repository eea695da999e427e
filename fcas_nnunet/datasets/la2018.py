"""The 2018 Atrial Segmentation Challenge: left atria in 154 late-enhancement MR scans, 54 of them for testing."""

from __future__ import annotations

import re
from pathlib import Path

from fcas_nnunet.datasets.layout import MRI, TEST, TRAINING, Layout, Place, PublicSet, find_scans

LA2018 = PublicSet.of_structures(
    {255: "left_atrium"},
    key="la2018",
    name="LeftAtrium2018",
    channel=MRI,
    reference="Xiong et al., Medical Image Analysis 67, 2021",
)


def find(source: Path) -> Layout:
    """Find `Training Set/<id>/lgemri.nrrd`, `Training Set/<id>/laendo.nrrd`, ..., and likewise `Testing Set`.

    Of the masks only the endocardial one, of the atrium's cavity, is taken. Folders of cases outside both parts count
    as training cases.

    Raises:
        MissingFileError: If there is no such folder.
        InputError: If no case is there.
    """
    pattern = r"(?:^|/)(?:[^/]*?(train|test)ing[ _]?set/(?:.*/)?)?([^/]+)/(lgemri|laendo)\.nrrd$"
    return find_scans(source, pattern, _place, "Training Set/<id>/lgemri.nrrd, Training Set/<id>/laendo.nrrd, ...")


def _place(match: re.Match[str]) -> Place:
    split = TEST if (match[1] or "").lower() == "test" else TRAINING
    name = re.sub(r"[^\w-]", "_", match[2])
    return Place(f"la2018_{name}", is_label=match[3].lower() == "laendo", split=split)
