"""Preprocess the cases of a data set as nnU-Net does, one by one: each is whole or not there, and kept while it is."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import blosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from fcas_nnunet.files import atomic_path, temporary_folder
from fcas_nnunet.integration.dataset.folders import KNOWN_FOLDER
from fcas_nnunet.integration.dataset.plain_files import read_pickle
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON, RawDataset
from fcas_nnunet.integration.dataset.volumes import read_all
from fcas_nnunet.integration.preprocessing.confidence_store import preprocessed_confidence_path
from fcas_nnunet.integration.preprocessing.plans import preprocessed_folder
from fcas_nnunet.integration.preprocessing.stamps import Stamps
from fcas_nnunet.known_files import KnownFiles
from fcas_nnunet.listing import listed
from fcas_nnunet.machine import end_with_parent

#: Endings of a preprocessed case's files, in the order in which they are written: without the last, there is no case.
ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")

_BEGUN = "{} begun"

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class PreprocessedCases:
    """The preprocessed cases of one configuration.

    Args:
        dataset: raw data set.
        plans: its plans.
        configuration: name of the configuration.
        digest: hash of all raw files and settings.
        settings: hash of the settings alone.
    """

    def __init__(
        self, dataset: RawDataset, plans: dict[str, Any], configuration: str, digest: str, settings: str
    ) -> None:
        self._dataset, self._plans, self._configuration = dataset, plans, configuration
        self._digest, self._settings = digest, settings
        manager = PlansManager(plans).get_configuration(configuration)
        self._step = str(manager.data_identifier)
        self.folder = preprocessed_folder(dataset) / self._step
        self._stamps = Stamps.of(dataset)

    def files(self, case_id: str) -> list[Path]:
        """Return the paths of a case's files."""
        return [self.folder / f"{case_id}{ending}" for ending in ENDINGS]

    def are_there(self) -> bool:
        """Return whether the folder contains exactly the files of these cases, whole or not."""
        done = {path.stem for path in self.folder.glob("*.pkl")}
        wanted = self._dataset.case_ids
        return done == set(wanted) and all(path.is_file() for case_id in wanted for path in self.files(case_id))

    def ensure(self, num_processes: int, *, are_current: bool) -> bool:
        """Make the cases that are missing, damaged or outdated, and the copies of their label maps.

        Args:
            num_processes: number of worker processes.
            are_current: whether all cases that are there were made from the present files and settings.

        Returns:
            True if no case was made.
        """
        known, stamps = self._known(), self._stamps.read()
        begun = stamps.get(_BEGUN.format(self._step)) == self._digest
        there = {i for i in self._dataset.case_ids if all(path.is_file() for path in self.files(i))}
        kept = there if are_current or begun else there & known.found.keys()
        uncertain = [i for i in sorted(kept) if i not in known.found]
        whole = read_all(lambda case_id: _are_whole(self.files(case_id)), uncertain, f"looking at {self._step}")
        if damaged := [i for i, is_whole in zip(uncertain, whole, strict=True) if not is_whole]:
            logger.warning(f"{self.folder}: preprocessed cases are damaged and made again: {listed(damaged)}")
        missing = [i for i in self._dataset.case_ids if i not in kept or i in damaged]
        if missing and not begun:
            self._stamps.drop(self._step)
            self._clear(kept.difference(damaged))
            # A run that goes on from here finds no cases but those of these files and settings.
            self._stamps.put(_BEGUN.format(self._step), self._digest)
        self._make(missing, num_processes)
        self._copy_labels(missing)
        if missing or uncertain:
            self._known().save(dict.fromkeys(self._dataset.case_ids, True))
        if stamps.get(self._step) != self._digest:  # an earlier version's also vouches for the maps
            self._stamps.put(self._step, self._digest)
        self._stamps.drop(_BEGUN.format(self._step))
        return not missing

    def _known(self) -> KnownFiles:
        """Return the cases whose raw and preprocessed files are those of an earlier run."""
        raw = {i: [*self._dataset.image_paths(i), self._dataset.mask_path(i)] for i in self._dataset.case_ids}
        path = preprocessed_folder(self._dataset) / KNOWN_FOLDER / f"{self._step}.json"
        return KnownFiles(path, {i: [*files, *self.files(i)] for i, files in raw.items()}, self._settings)

    def _clear(self, kept: Iterable[str]) -> None:
        """Remove all but some cases."""
        if not kept:
            shutil.rmtree(self.folder, ignore_errors=True)
        wanted = {path.name for case_id in kept for path in self.files(case_id)}
        for path in self.folder.glob("*"):
            if path.is_file() and path.name not in wanted:
                path.unlink()

    def _make(self, case_ids: Sequence[str], num_processes: int) -> None:
        if not case_ids:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        description = json.loads((preprocessed_folder(self._dataset) / DATASET_JSON).read_text(encoding="utf-8"))
        work = partial(_preprocess, self._dataset, self._plans, self._configuration, description, self)
        for_every_case(work, case_ids, f"{self._dataset.name} {self._configuration}", num_processes)

    def _copy_labels(self, made: Iterable[str]) -> None:
        """Copy the label maps that nnU-Net validates with, where there is no copy or another one."""
        folder = preprocessed_folder(self._dataset) / "gt_segmentations"
        for case_id in self._dataset.case_ids:
            raw, copy = self._dataset.mask_path(case_id), folder / f"{case_id}{self._dataset.file_ending}"
            if case_id in made or not copy.is_file() or copy.stat().st_size != raw.stat().st_size:
                with atomic_path(copy) as temporary:
                    shutil.copy2(raw, temporary)


def _preprocess(
    dataset: RawDataset,
    plans: dict[str, Any],
    configuration: str,
    description: dict[str, Any],
    cases: PreprocessedCases,
    case_id: str,
) -> None:
    """Have nnU-Net preprocess a case elsewhere, and put its files in place; its confidence map is then outdated."""
    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    preprocessor = settings.preprocessor_class(verbose=False)
    files = cases.files(case_id)
    with temporary_folder(files[0]) as folder:
        images, label = [str(path) for path in dataset.image_paths(case_id)], str(dataset.mask_path(case_id))
        preprocessor.run_case_save(str(folder / case_id), images, label, manager, settings, description)
        preprocessed_confidence_path(cases.folder, case_id).unlink(missing_ok=True)
        files[-1].unlink(missing_ok=True)
        for file in files:
            os.replace(folder / file.name, file)


def _are_whole(files: Sequence[Path]) -> bool:
    """Return whether a case's arrays can be decompressed to their end, and its properties be read."""
    try:
        for path in files[:-1]:
            array = blosc2.open(str(path), mode="r")
            for number in range(array.schunk.nchunks):
                array.schunk.decompress_chunk(number)
        read_pickle(files[-1])
    except (OSError, RuntimeError, ValueError):
        return False
    return True


def for_every_case(
    work: Callable[[str], Result], case_ids: Sequence[str], label: str, num_processes: int
) -> dict[str, Result]:
    """Case id → result of the work on it, which several processes share; they end with this one."""
    processes = min(num_processes, len(case_ids))
    if processes <= 1:
        return {case_id: work(case_id) for case_id in tqdm(case_ids, label, disable=not case_ids)}
    with multiprocessing.get_context("spawn").Pool(processes, end_with_parent) as pool:
        return dict(zip(case_ids, tqdm(pool.imap(work, case_ids), label, len(case_ids)), strict=True))
