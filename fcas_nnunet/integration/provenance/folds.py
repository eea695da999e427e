"""nnU-Net's folds of a real data set, as far as its synthetic cases depend on them."""

from __future__ import annotations

import logging
from pathlib import Path

from fcas_nnunet.integration.dataset.folders import Root, root_folder
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import NUM_FOLDS, SPLITS_FILE, Split, load_splits, make_splits
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)


def read_splits(dataset: RawDataset) -> list[Split]:
    """A data set's folds as nnU-Net trains them: those of its `splits_final.json`, else those it would make.

    Nothing is written. Of fewer than five cases without a file there are none: nnU-Net refuses to make them.

    Raises:
        ValueError: when the file is broken.
    """
    path = splits_path(dataset)
    if not path.is_file():
        return make_splits(dataset.case_ids, feeds_cascade=True) if len(dataset.case_ids) >= NUM_FOLDS else []
    return load_splits(path)


def splits_path(dataset: RawDataset) -> Path:
    """Where nnU-Net looks for a data set's folds."""
    return root_folder(Root.PREPROCESSED) / dataset.name / SPLITS_FILE


def training_fold(dataset: RawDataset, fold: int | None) -> RawDataset:
    """The data set with the training cases of one fold alone.

    Args:
        dataset: raw data set.
        fold: number; None for all cases.

    Raises:
        ValueError: when there is no such fold, or it names cases that the data set does not have.
    """
    if fold is None:
        return dataset
    path, splits = splits_path(dataset), read_splits(dataset)
    if not splits:
        raise ValueError(
            f"{dataset.name}: number of cases must be at least {NUM_FOLDS} for nnU-Net's folds, got "
            f"{len(dataset.case_ids)}. Leave out --fold, or write {path}."
        )
    if fold >= len(splits):
        raise ValueError(
            f"{dataset.name}: fold must be 0 to {len(splits) - 1}, got {fold}. Name one of these, or add it to {path}."
        )
    training = sorted(set(splits[fold]["train"]))
    unknown = sorted(set(training) - set(dataset.case_ids))
    if unknown:
        raise ValueError(
            f"{path}: cases of fold {fold} must be in {dataset.name}, got {listed(unknown)}. "
            "Correct the file, or delete it for nnU-Net's own folds."
        )
    origin = str(path) if path.is_file() else "nnU-Net's own split, which it makes when it first trains"
    logger.info(f"fold {fold} of {dataset.name}: {len(training)} of {len(dataset.case_ids)} cases ({origin})")
    return dataset.only(training)
