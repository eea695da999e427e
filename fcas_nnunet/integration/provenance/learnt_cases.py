"""Which scans a trained nnU-Net has learnt from, and which synthetic scans were made from those."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcas_nnunet.integration.dataset.folders import Root, resolve_dataset
from fcas_nnunet.integration.dataset.library import split_name
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import NUM_FOLDS, SPLITS_FILE, load_splits, make_splits
from fcas_nnunet.integration.provenance.contents import known_contents, training_contents
from fcas_nnunet.integration.provenance.parents import from_json

_ALL = "all"


@dataclass(frozen=True)
class LearntCases:
    """Training cases of a network's folds.

    Attributes:
        dataset: full name of the data set it was trained on.
        hashes: case id → hash of the scan, None where it is not known.
    """

    dataset: str
    hashes: Mapping[str, str | None]

    def has(self, dataset: str, case_id: str, image_sha256: str | None) -> bool:
        """Whether a case is among them, by data set and id or by content."""
        return (dataset == self.dataset and case_id in self.hashes) or (
            image_sha256 is not None and image_sha256 in self.hashes.values()
        )


def learnt_cases(model: Path, folds: Sequence[str]) -> LearntCases:
    """The training cases of a network: every case that any of its folds was trained on.

    Args:
        model: nnU-Net's folder `<trainer>__<plans>__<configuration>`.
        folds: numbers, or `all`.
    """
    name = str(json.loads((model / "plans.json").read_text(encoding="utf-8"))["dataset_name"])
    preprocessed = Path(os.environ.get(Root.PREPROCESSED.value, os.devnull)) / name
    contents: dict[str, str | None] = dict(known_contents(preprocessed))
    try:
        contents |= training_contents(RawDataset.open(resolve_dataset(name), any_kind=True))
    except (FileNotFoundError, ValueError):
        pass  # what fcas_prepare kept has to do
    path = preprocessed / SPLITS_FILE
    if path.is_file():
        splits = load_splits(path)
    else:
        splits = make_splits(list(contents), feeds_cascade=True) if len(contents) >= NUM_FOLDS else []
    known = {case_id for fold in splits for part in fold.values() for case_id in part} | contents.keys()
    training: set[str] = set()
    for fold in folds:
        numbered = fold != _ALL and int(fold) < len(splits)
        training |= set(splits[int(fold)]["train"]) if numbered else known
    return LearntCases(name, {case_id: contents.get(case_id) for case_id in sorted(training)})


def derived_cases(synthetic: RawDataset, learnt: LearntCases) -> set[str]:
    """The synthetic cases whose mask or template is of a case that the network has learnt from.

    Of cases whose record names no source nothing is known; they count as others.
    """
    hashes = {(p.dataset, p.case_id): p.image_sha256 for p in from_json(synthetic.dataset_json) or []}

    def is_derived(record: Mapping[str, Any]) -> bool:
        names = [record[key] for key in ("reference", "template") if key in record]
        origins = [split_name(str(name), str(record["source"])) for name in names]
        return any(learnt.has(*origin, hashes.get(origin)) for origin in origins)

    records = Manifest(synthetic.folder).read()
    return {case_id for case_id, record in records.items() if "source" in record and is_derived(record)}
