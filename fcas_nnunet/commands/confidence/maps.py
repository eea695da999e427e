"""Rewrite the confidence maps of a synthetic set, keep those that it was generated with, and put them back.

The generated maps move to `confidenceTr_generated`. Which of a case's two files is the generated one, also after a kill
at any moment, its hash in the manifest says.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.case import Case
from fcas_nnunet.commands.confidence.rules import Combination, LossSum, Weighing, confidence_of, loss_sums
from fcas_nnunet.config.options import SEGMENTER, ScanSource
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_path
from fcas_nnunet.integration.dataset.folders import CONFIDENCE
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, read_confidence
from fcas_nnunet.integration.dataset.synthetic_cases import CONFIDENCE_MAP, CONTENTS, case_contents, contents_faults
from fcas_nnunet.integration.dataset.volumes import quantise_confidence, read_label_map, write_confidence
from fcas_nnunet.integration.models.own_labels import read_probability

Record = Mapping[str, Any]

GENERATED_FOLDER = f"{CONFIDENCE}Tr_generated"
#: Entries of a record that depend on the map.
_MEAN, _STD = "mean_confidence_in_structures", "std_confidence_in_structures"
_GENERATED, _SHA256 = "generated", "sha256"


@dataclass(frozen=True)
class Judged:
    """A case, its record and the probability of its labels."""

    dataset: RawDataset
    case_id: str
    record: Record
    probability: Path


@dataclass(frozen=True)
class CaseScore:
    """What a segmenter says of a case.

    Attributes:
        score: Mean probability of the structures' voxels that count.
        sums: Label → number and sum of losses of its voxels that count.
    """

    score: float
    sums: Mapping[int, LossSum]


@dataclass(frozen=True)
class Written:
    """A case whose map is written: its new record, and for each label the number and the sum of its weights."""

    record: dict[str, Any]
    weights: Mapping[int, LossSum]


@dataclass(frozen=True)
class _Loaded:
    probability: np.ndarray
    mask: np.ndarray  # the ignore label included
    affine: np.ndarray
    generated: np.ndarray
    counted: np.ndarray  # neither ignored nor beyond the real scan

    @property
    def in_structures(self) -> np.ndarray:
        return self.counted & (self.mask > 0)


def check_generated(work: tuple[RawDataset, str, Record]) -> None:
    """Check that the map that a case was generated with is there; raises what `generated_map` does."""
    generated_map(*work)


def score_case(case: Judged) -> CaseScore:
    """Score a case, and sum its losses."""
    loaded = _load(case)
    inside = loaded.probability[loaded.in_structures]
    score = float(inside.mean(dtype=np.float64)) if inside.size else 1.0
    return CaseScore(round(score, 6), loss_sums(loaded.probability, loaded.mask, loaded.counted))


def write_map(work: tuple[Judged, CaseScore, Weighing, Mapping[int, float], Record]) -> Written:
    """Write a case's map, after the generated one is safe; a map that would stay the same is not touched.

    The argument holds the case, its score, the settings, the mean loss of each label, and entries for its record.
    """
    case, scored, weighing, means, more = work
    loaded, path = _load(case), case.dataset.confidence_path(case.case_id)
    dropped = weighing.drop_below is not None and scored.score < weighing.drop_below
    confidence = confidence_of(loaded.probability, loaded.mask, weighing, means)
    if weighing.combination == Combination.PRODUCT:
        confidence = confidence * loaded.generated
    confidence = np.where(loaded.counted & (not dropped), confidence, np.float32(0))
    kept = _kept(case.dataset, case.case_id)
    if generated_map(case.dataset, case.case_id, case.record) == path:
        with atomic_path(kept) as temporary:
            shutil.copyfile(path, temporary)
    if not np.array_equal(quantise_confidence(read_confidence(path).array), quantise_confidence(confidence)):
        write_confidence(path, confidence, loaded.affine)
    record = _as_generated(case.record)
    contents = record.get(CONTENTS, {})
    new = case_contents(Case(case.case_id, None, loaded.mask, loaded.affine, confidence=confidence))[CONFIDENCE_MAP]
    inside = confidence[(loaded.mask > 0) & (loaded.mask != _ignored(case.dataset))]
    generated = {_MEAN: record.get(_MEAN), _STD: record.get(_STD), _SHA256: contents.get(CONFIDENCE_MAP)}
    judged = {**more, **weighing.to_record(), "score": scored.score, "dropped": dropped, _GENERATED: generated}
    weights = {
        label: (int(np.count_nonzero(where)), float(confidence[where].sum(dtype=np.float64)))
        for label in scored.sums
        if (where := loaded.counted & (loaded.mask == label)).any()
    }
    return Written(
        {
            **record,
            **({CONTENTS: {**contents, CONFIDENCE_MAP: new}} if contents else {}),
            _MEAN: round(float(inside.mean()), 6) if inside.size else 1.0,
            _STD: round(float(inside.std()), 6) if inside.size else 0.0,
            SEGMENTER: judged,
        },
        weights,
    )


def restore_map(work: tuple[RawDataset, str, Record]) -> dict[str, Any]:
    """Put a case's generated map back; returns its record as it was before any segmenter judged it."""
    dataset, case_id, record = work
    generated, path = generated_map(dataset, case_id, record), dataset.confidence_path(case_id)
    if generated != path:
        os.replace(generated, path)
    _kept(dataset, case_id).unlink(missing_ok=True)  # a copy, if it is still there
    return _as_generated(record)


def remove_kept_folder(dataset: RawDataset) -> None:
    """Remove the folder of the generated maps, if it is empty."""
    with suppress(OSError):
        (dataset.folder / GENERATED_FOLDER).rmdir()


def generated_map(dataset: RawDataset, case_id: str, record: Record) -> Path:
    """Return the file with the map that a case was generated with.

    Raises:
        MissingFileError: when the case has no map.
        InputError: when neither of its files has the hash that the manifest's record names.
    """
    kept, path = _kept(dataset, case_id), dataset.confidence_path(case_id)
    judged = record.get(SEGMENTER)
    sha256 = judged[_GENERATED][_SHA256] if judged else record.get(CONTENTS, {}).get(CONFIDENCE_MAP)
    if sha256 is None:  # of an older version
        return kept if kept.is_file() else path
    faults: list[str] = []
    for candidate in (kept, path) if kept.is_file() else (path,):
        array = read_confidence(candidate, dataset.max_weight).array
        if not (faults := contents_faults(case_id, CONFIDENCE_MAP, array, {CONFIDENCE_MAP: sha256})):
            return candidate
    raise InputError("\n".join(fault.removeprefix(f"{case_id}: ") for fault in faults))  # `run_cases` names the case


def was_judged(dataset: RawDataset, case_id: str, record: Record) -> bool:
    """Return whether a case has, or had when a run was killed, another map than it was generated with."""
    return SEGMENTER in record or _kept(dataset, case_id).is_file()


def _load(case: Judged) -> _Loaded:
    """Read a case's files; voxels of confidence 0 in a scan that was not drawn come from beyond the real one."""
    dataset, case_id = case.dataset, case.case_id
    mask = read_label_map(dataset.mask_path(case_id))
    generated = read_confidence(generated_map(dataset, case_id, case.record), dataset.max_weight).array
    probability = read_probability(case.probability)
    if not mask.array.shape == generated.shape == probability.shape:
        raise InputError(
            f"{dataset.name}: shapes of label, confidence and prediction must be the same, got {mask.array.shape}, "
            f"{generated.shape} and {probability.shape}. Run: fcas_doctor -d {dataset.name}"
        )
    counted = mask.array != _ignored(dataset)
    if ScanSource.of(case.record) != ScanSource.DRAWN:
        counted &= generated > 0
    return _Loaded(probability, mask.array, mask.affine, generated, counted)


def _ignored(dataset: RawDataset) -> int:
    """The id of the ignore label; one that no voxel has, where there is none."""
    return -1 if dataset.ignore_id is None else dataset.ignore_id


def _kept(dataset: RawDataset, case_id: str) -> Path:
    return dataset.folder / GENERATED_FOLDER / dataset.confidence_path(case_id).name


def _as_generated(record: Record) -> dict[str, Any]:
    """A record without what a segmenter changed in it."""
    found = {key: value for key, value in record.items() if key != SEGMENTER}
    if SEGMENTER not in record:
        return found
    before = record[SEGMENTER][_GENERATED]
    found |= {key: before[key] for key in (_MEAN, _STD) if before[key] is not None}
    if before[_SHA256] is not None:
        found[CONTENTS] = {**record[CONTENTS], CONFIDENCE_MAP: before[_SHA256]}
    return found
