"""A small reading: three methods and the real scans of two phantoms' masks, prepared as a user does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.case import Case
from fcas_nnunet.commands.reading.command import run
from fcas_nnunet.datasets.phantom import LABELS, phantom_case
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json

#: Method → what its images are shifted by, in HU; the names are easy to find in a page, and nowhere by chance.
SHIFTS = {"Zylindrix": 40, "Quastenflosser": -60, "real": 0}
SHAPE = (40, 48, 44)
BACKGROUND_LABELS = {"background": 0, **LABELS}


@dataclass(frozen=True)
class Prepared:
    """What `prepare` left."""

    folder: Path

    @property
    def page(self) -> Path:
        return self.folder / "reading.html"

    @property
    def key_path(self) -> Path:
        return self.folder / "key.json"

    @property
    def key(self) -> dict[str, Any]:
        return json.loads(self.key_path.read_text())


def write_sets(root: Path, num_references: int = 2) -> dict[str, Path]:
    """Three data sets under `root`: method → folder. Synthetic cases have other ids, named by their manifests."""
    folders = {method: root / f"Dataset{number}_Set{number}" for number, method in enumerate(SHIFTS, start=911)}
    for index in range(num_references):
        case = phantom_case(f"patient_{index}", SHAPE, index)
        for method, folder in folders.items():
            case_id = case.case_id if method == "real" else f"syn_{method[:3].lower()}_{index}"
            write_case(folder, Case(case_id, case.image.astype(np.int32) + SHIFTS[method], case.mask, case.affine))
            if method != "real":
                Manifest(folder).append({"case_id": case_id, "reference": case.case_id})
    for folder in folders.values():
        write_dataset_json(folder, BACKGROUND_LABELS, num_references)
    return folders


def prepare(folders: dict[str, Path], out: Path, *more: str) -> Prepared:
    """Run `fcas_report reading prepare` over the methods and the real scans."""
    named = [f"{method}={folder}" for method, folder in folders.items() if method != "real"]
    run(["prepare", "--methods", *named, "--real", str(folders["real"]), "-o", str(out), "-np", "1", *more])
    return Prepared(out)


def scores_file(key: dict[str, Any], reader: str, score: Any) -> dict[str, Any]:
    """A reader's complete file; `score(method, criterion key, bag id)` says what is given."""
    keys = [criterion["key"] for criterion in key["protocol"]["criteria"]]
    bags = {}
    for bag_id, bag in key["bags"].items():
        scores = {
            letter: {name: score(entry["method"], name, bag_id) for name in keys}
            for letter, entry in bag["letters"].items()
        }
        totals = {letter: sum(given.values()) for letter, given in scores.items()}
        order = [
            [one for one in totals if totals[one] == total] for total in sorted(set(totals.values()), reverse=True)
        ]
        bags[bag_id] = {"scores": scores, "order": order, "comment": ""}
    return {
        "schema": "fcas-nnunet/reading-scores",
        "schema_version": 1,
        "reading_id": key["reading_id"],
        "reader": {"name": reader, "experience": "radiologist"},
        "saved_at": "2026-01-01T00:00:00Z",
        "bags": bags,
    }
