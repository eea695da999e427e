"""Which scans a trained nnU-Net has learnt from, and which synthetic scans were made from those."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fcas_nnunet.integration.dataset.folders import PLANS_JSON, Root
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import SPLITS_FILE, splits_of
from fcas_nnunet.integration.provenance.contents import contents_of, known_contents
from fcas_nnunet.integration.provenance.parents import Parent, Role, from_json, leaks, origins_of
from fcas_nnunet.json_files import read_json


def learnt_cases(model: Path, folds: Sequence[str]) -> list[Parent]:
    """Every case that any of a network's folds, numbers or `all`, was trained on.

    The model is nnU-Net's folder `<trainer>__<plans>__<configuration>`.
    """
    name = str(read_json(model / PLANS_JSON)["dataset_name"])
    preprocessed = Path(os.environ.get(Root.PREPROCESSED.value, os.devnull)) / name
    contents = known_contents(preprocessed) | (contents_of(name) or {})  # what fcas_prepare kept may have to do
    splits = splits_of(preprocessed / SPLITS_FILE, list(contents))
    known = {case_id for fold in splits for part in fold.values() for case_id in part} | contents.keys()
    training: set[str] = set()
    for fold in folds:
        numbered = fold.isdecimal() and int(fold) < len(splits)
        training |= set(splits[int(fold)]["train"]) if numbered else known
    return [Parent(name, case_id, contents.get(case_id), (Role.TRAINING,)) for case_id in sorted(training)]


def derived_cases(synthetic: RawDataset, learnt: Sequence[Parent]) -> set[str]:
    """The synthetic cases whose mask or template is of a case that the network has learnt from.

    Of cases whose record names no source nothing is known; they count as others.
    """
    hashes = {(p.dataset, p.case_id): p.image_sha256 for p in from_json(synthetic.dataset_json) or []}
    return {
        case_id
        for case_id, record in Manifest(synthetic.folder).read().items()
        if any(leaks(learnt, name, {i: hashes.get((name, i))}) for name, i, _ in origins_of(record))
    }
