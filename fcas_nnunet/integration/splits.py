"""Folds of a synthetic data set: nnU-Net predicts every validation case at the end, and a thousand are too many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fcas_nnunet.files import atomic_write_json

SPLITS_FILE = "splits_final.json"
NUM_FOLDS = 5
#: Validation cases of a fold; up to a hundred cases, nnU-Net's own split has no more.
MAX_VALIDATION_CASES = 20

Split = dict[str, list[str]]


def ensure_splits(folder: Path, case_ids: Sequence[str], feeds_cascade: bool) -> None:
    """Write `splits_final.json` unless one is there that fits; a user's own is kept.

    Args:
        folder: `$nnUNet_preprocessed/DatasetNNN_Name`.
        case_ids: all cases.
        feeds_cascade: a cascade's second stage needs every case to be predicted in some fold.
    """
    path = folder / SPLITS_FILE
    if len(case_ids) >= NUM_FOLDS and not (path.is_file() and _fits(path, set(case_ids), feeds_cascade)):
        atomic_write_json(path, make_splits(case_ids, feeds_cascade))


def make_splits(case_ids: Sequence[str], feeds_cascade: bool) -> list[Split]:
    """Five folds: nnU-Net's own, or, of many cases, each with its own 20 to validate on and all others to train on."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    cases = sorted(case_ids)
    if feeds_cascade or len(cases) <= NUM_FOLDS * MAX_VALIDATION_CASES:
        return [{key: list(map(str, fold[key])) for key in ("train", "val")} for fold in generate_crossval_split(cases)]
    order = np.random.default_rng(0).permutation(len(cases))
    splits = []
    for fold in range(NUM_FOLDS):
        held_out = set(order[fold * MAX_VALIDATION_CASES : (fold + 1) * MAX_VALIDATION_CASES].tolist())
        splits.append({
            "train": [case for i, case in enumerate(cases) if i not in held_out],
            "val": [case for i, case in enumerate(cases) if i in held_out],
        })  # fmt: skip
    return splits


def _fits(path: Path, case_ids: set[str], feeds_cascade: bool) -> bool:
    splits: list[Split] = json.loads(path.read_text(encoding="utf-8"))
    if any(set(fold["train"]) | set(fold["val"]) != case_ids for fold in splits):
        return False
    return not feeds_cascade or set().union(*(fold["val"] for fold in splits)) == case_ids
