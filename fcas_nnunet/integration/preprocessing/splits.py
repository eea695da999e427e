"""nnU-Net's folds: read those of a real data set, write those of a synthetic one.

nnU-Net predicts every validation case at the end of a training, and a thousand synthetic ones are too many.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_json, what_is_at
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.plans import preprocessed_folder
from fcas_nnunet.integration.preprocessing.stamps import Stamps
from fcas_nnunet.known_files import digest_of
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

SPLITS_FILE = "splits_final.json"
NUM_FOLDS = 5
#: Validation cases of a fold; up to a hundred cases, nnU-Net's own split has no more.
MAX_VALIDATION_CASES = 20

_STEP = "splits"

Split = dict[str, list[str]]


def ensure_splits(dataset: RawDataset, feeds_cascade: bool) -> None:
    """Write `splits_final.json` if there is none; the user's own file is never changed.

    Folds that this package wrote for other cases are replaced. A stamp, the digest of the written file, identifies
    them: a file that differs from it, or has none, is the user's own, even if it equals nnU-Net's split. The second
    stage of a cascade needs every case to be predicted in some fold.

    Raises:
        InputError: when the user's own folds are broken, name other cases, or are unfit for a cascade.
    """
    path, stamps, case_ids = splits_path(dataset), Stamps.of(dataset), dataset.case_ids
    splits = load_splits(path) if os.path.lexists(path) else None
    if splits is None or stamps.read().get(_STEP) == digest_of(splits):
        wanted = make_splits(case_ids, feeds_cascade) if len(case_ids) >= NUM_FOLDS else splits
        if wanted is not None and wanted != splits:
            stamps.put(_STEP, digest_of(wanted))  # first: a kill in between must not leave ours without its stamp
            atomic_write_json(path, wanted)
        return
    check_splits(dataset, feeds_cascade)


def check_splits(dataset: RawDataset, feeds_cascade: bool) -> None:
    """Check the user's or nnU-Net's own `splits_final.json`, and warn of cases that are in no fold; none is written.

    Raises:
        InputError: when the folds are broken, name other cases, or are unfit for a cascade.
    """
    path, case_ids = splits_path(dataset), dataset.case_ids
    if not os.path.lexists(path):
        return
    splits = load_splits(path)
    _refuse_unfit(path, splits, case_ids, feeds_cascade)
    if left_out := len(set(case_ids) - _named(splits, "train", "val")):
        logger.warning(
            f"{path}: your own folds are kept; {left_out} of {len(case_ids)} cases are in none of them. Delete the "
            "file for folds of all cases."
        )


def splits_path(dataset: RawDataset) -> Path:
    """Return the path from which nnU-Net reads a data set's folds."""
    return preprocessed_folder(dataset) / SPLITS_FILE


def read_splits(dataset: RawDataset) -> list[Split]:
    """Read a data set's folds as nnU-Net trains them; nothing is written."""
    return splits_of(splits_path(dataset), dataset.case_ids)


def splits_of(path: Path, case_ids: Sequence[str]) -> list[Split]:
    """Read the folds of a `splits_final.json`, or compute nnU-Net's if there is no file.

    Fewer than five cases without a file have none: nnU-Net refuses to make them.
    """
    if os.path.lexists(path):
        return load_splits(path)
    return make_splits(case_ids, feeds_cascade=True) if len(case_ids) >= NUM_FOLDS else []


def training_fold(dataset: RawDataset, fold: int | None) -> RawDataset:
    """Return the raw data set with the training cases of one fold alone; with all cases for None.

    Raises:
        InputError: When there is no such fold, or the folds are broken or name cases that the data set does not have.
    """
    if fold is None:
        return dataset
    path, splits = splits_path(dataset), read_splits(dataset)
    if not splits:
        raise InputError(
            f"{dataset.name}: number of cases must be at least {NUM_FOLDS} for nnU-Net's folds, got "
            f"{len(dataset.case_ids)}. Leave out --fold, or write {path}."
        )
    if fold >= len(splits):
        raise InputError(
            f"{dataset.name}: fold must be 0 to {len(splits) - 1}, got {fold}. Name one of these, or add it to {path}."
        )
    _refuse_unfit(path, splits, dataset.case_ids, feeds_cascade=False)
    training = sorted(splits[fold]["train"])
    origin = str(path) if path.is_file() else "nnU-Net's own split, which it makes when it first trains"
    logger.info(f"fold {fold} of {dataset.name}: {len(training)} of {len(dataset.case_ids)} cases ({origin})")
    return dataset.only(training)


def load_splits(path: Path) -> list[Split]:
    """Read the folds of a `splits_final.json`.

    Raises:
        InputError: when it is no file, not JSON, or not a list of folds with train and val.
    """
    if not path.is_file():
        raise InputError(f"{path}: folds must be a file, got {what_is_at(path)}. Move it away for new folds.")
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: content must be JSON, got an error: {error}. Fix or delete it.") from error
    if not isinstance(splits, list) or not splits or not all(map(_is_fold, splits)):
        raise InputError(
            f'{path}: content must be a list of folds {{"train": [case ids], "val": [case ids]}}, got '
            f"{json.dumps(splits)[:80]}. Fix or delete it."
        )
    return splits


def make_splits(case_ids: Sequence[str], feeds_cascade: bool) -> list[Split]:
    """Make five folds: nnU-Net's, or for many cases, folds that validate on 20 cases each and train on all others."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    cases, most = sorted(case_ids), NUM_FOLDS * MAX_VALIDATION_CASES
    if feeds_cascade or len(cases) <= most:
        return [{key: list(map(str, fold[key])) for key in ("train", "val")} for fold in generate_crossval_split(cases)]
    order = np.random.default_rng(0).permutation(len(cases))
    held_out = [[cases[i] for i in sorted(part)] for part in np.split(order[:most], NUM_FOLDS)]
    return [{"train": sorted(set(cases) - set(validation)), "val": validation} for validation in held_out]


def _is_fold(fold: Any) -> bool:
    keys = ("train", "val")
    return isinstance(fold, dict) and all(
        isinstance(fold.get(key), list) and all(isinstance(case_id, str) for case_id in fold[key]) for key in keys
    )


def _refuse_unfit(path: Path, splits: list[Split], case_ids: Sequence[str], feeds_cascade: bool) -> None:
    """Raise an `InputError` with a line for each fault of folds that cannot be trained."""
    faults = []
    if unknown := sorted(_named(splits, "train", "val") - set(case_ids)):
        faults.append(f"folds must name cases of the data set, got {listed(unknown)}.")
    parts = [(number, key, fold[key]) for number, fold in enumerate(splits) for key in ("train", "val")]
    if twice := [
        f"{name} twice in {key} of fold {number}"
        for number, key, names in parts
        for name, count in Counter(names).items()
        if count > 1
    ]:
        faults.append(f"no case must be there twice in a list, got {listed(twice)}.")
    if both := [
        f"{name} in fold {number}"
        for number, fold in enumerate(splits)
        for name in sorted(set(fold["train"]) & set(fold["val"]))
    ]:
        faults.append(f"no case must be both in train and in val of a fold, got {listed(both)}.")
    unpredicted = sorted(_named(splits, "train") - _named(splits, "val"))
    if feeds_cascade and unpredicted:
        faults.append(f"a cascade needs every case in val of some fold, got none for {listed(unpredicted)}.")
    if faults:
        remedy = "Correct the file, or delete it for new folds."
        raise InputError("\n".join(f"{path}: {fault} {remedy}" for fault in faults))


def _named(splits: list[Split], *keys: str) -> set[str]:
    return {case_id for fold in splits for key in keys for case_id in fold[key]}
