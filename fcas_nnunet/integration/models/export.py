"""Export trained models and synthetic scans for use without fcas-nnunet: plain nnU-Net models, slices for MedSAM."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from scipy.ndimage import zoom
from tqdm import tqdm

from fcas_nnunet.earlier_names import present_names
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import atomic_path, atomic_write_json, file_sha256, temporary_folder
from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT, MODEL_FILES
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.ownership import refuse_foreign_folder
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import quantise_confidence
from fcas_nnunet.integration.models.trained_models import check_model_files
from fcas_nnunet.intensities import is_ct
from fcas_nnunet.json_files import read_json

PLAIN_TRAINER = "nnUNetTrainer"
CHECKPOINTS = (FINAL_CHECKPOINT, "checkpoint_best.pth")
_OTHER_FILES = ("dataset_fingerprint.json",)

IMAGES, MASKS, CONFIDENCE, BOXES_FILE = "imgs", "gts", "confidence", "boxes.json"
EXPORT_FILE, CASES = "export.json", "cases"
#: Slice → label id → [x_min, y_min, x_max, y_max].
Boxes = dict[str, dict[str, list[int]]]


def export_model(model: Path, target: Path) -> list[Path]:
    """Copy a model folder so that nnU-Net loads it without this package: same weights, nnU-Net's own trainer.

    Args:
        model: `<trainer>__<plans>__<configuration>` with dataset.json, plans.json and folds.
        target: a folder that does not exist yet.

    Returns the checkpoints written.

    Raises:
        MissingFileError: when the model folder lacks a file, or every checkpoint.
        InputError: when the target exists; a result must not be overwritten.
    """
    check_model_files(model)
    for name in MODEL_FILES:
        read_json(model / name, "Take the folder as nnU-Net has left it.")
    found = [path for name in CHECKPOINTS for path in sorted(model.glob(f"fold_*/{name}"))]
    if not found:
        raise MissingFileError(
            f"{model}: folds must hold {' or '.join(CHECKPOINTS)}, got none. Finish a training first."
        )
    _refuse_existing(target)
    with temporary_folder(target) as folder:
        unfinished = folder / target.name
        unfinished.mkdir()
        for name in (*MODEL_FILES, *_OTHER_FILES):
            if (model / name).is_file():
                shutil.copyfile(model / name, unfinished / name)
        for path in found:
            written = unfinished / path.relative_to(model)
            written.parent.mkdir(exist_ok=True)
            torch.save(plain_checkpoint(read_checkpoint(path)), written)
        _refuse_existing(target)  # again: another run may have finished first
        unfinished.rename(target)
    return [target / path.relative_to(model) for path in found]


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise InputError(f"{target}: export folder must not exist yet. Choose another with -o, or remove it.")


def plain_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint to one that `nnUNetTrainer` would have written: its name, and its keys of the log."""
    native = LocalLogger().my_fantastic_logging
    log = {key: values for key, values in checkpoint.get("logging", {}).items() if key in native}
    return checkpoint | {"trainer_name": PLAIN_TRAINER, "logging": log}


CT_WINDOW = (-160.0, 640.0)
_ROBUST_PERCENT = (0.5, 99.5)  # as MedSAM takes them for MR


@dataclass(frozen=True)
class SliceSettings:
    """Settings for cutting slices.

    Labels with fewer than `min_pixels` pixels of the original grid in a slice are left out, and so are slices that have
    only such labels.
    """

    size: int = 256  # pixels along both edges; 1024 for MedSAM's ViT-B, 256 for LiteMedSAM
    #: Own values mapped to [0, 1]; None = `CT_WINDOW`, or 0.5 and 99.5 % of what is not 0 for other modalities.
    window: tuple[float, float] | None = None
    min_pixels: int = 10


def export_slices(dataset: RawDataset, target: Path, settings: SliceSettings) -> int:
    """Write axial slices in the layout of MedSAM's training script, with confidence and boxes beside them.

    `imgs/<slice>.npy` float32 [size, size, 3] in [0, 1]; `gts/<slice>.npy` uint8 [size, size], label ids;
    `confidence/<slice>.npy` uint8 [size, size] in steps of 1/255 (uint16 if the data set allows weights above 1);
    `boxes.json`: slice → label id → [x_min, y_min, x_max, y_max] in pixels of these. A case's slices are written at
    once or not at all. When the command is run again, finished cases whose files have not changed are skipped; slices
    of others are removed. The first channel is the scan; without confidence maps, confidence is 1.

    Returns:
        Number of slices in the folder.

    Raises:
        InputError: when the folder contains slices of other settings, or anything else.
    """
    with exclusive(target, refuse=partial(refuse_foreign_folder, target, "fcas_export", EXPORT_FILE)):
        _claim(target, dataset, settings)
        finished = _finished_cases(dataset, target)
        _remove_others(target, finished)
        boxes: Boxes = {}
        for case_id in tqdm(dataset.case_ids, desc="slices", unit="case"):
            if case_id not in finished:
                sha256 = _files_sha256(dataset, case_id)  # before they are read, so that a later change is noticed
                finished[case_id] = _write_case(dataset, case_id, target, settings)
                content = {"sha256": sha256, "boxes": finished[case_id]}
                atomic_write_json(target / CASES / f"{case_id}.json", content)
            boxes |= finished[case_id]
        atomic_write_json(target / BOXES_FILE, boxes)
    return len(boxes)


def _finished_cases(dataset: RawDataset, target: Path) -> dict[str, Boxes]:
    """Return the boxes of cases whose slices were cut from the present content of their files."""
    finished = {}
    there = [case_id for case_id in dataset.case_ids if (target / CASES / f"{case_id}.json").is_file()]
    for case_id in tqdm(there, desc="checking", unit="case", leave=False, disable=None):
        content = read_json(target / CASES / f"{case_id}.json", "Delete it: its slices are then cut again.")
        if content.get("sha256") == _files_sha256(dataset, case_id) and isinstance(content.get("boxes"), dict):
            finished[case_id] = content["boxes"]
    return finished


def _files_sha256(dataset: RawDataset, case_id: str) -> list[str | None]:
    """Hash image, label map and confidence map, geometry included; None where there is none."""
    paths = (dataset.image_path(case_id), dataset.mask_path(case_id), dataset.confidence_path(case_id))
    return [file_sha256(path) if path.is_file() else None for path in paths]


def _remove_others(target: Path, finished: Mapping[str, Boxes]) -> None:
    """Remove files of cases that are not finished: changed or removed ones, and those of killed runs."""
    for record in (target / CASES).glob("*.json"):  # first, so that no record lacks its slices
        if record.stem not in finished:
            record.unlink()
    kept = {name for boxes in finished.values() for name in boxes}
    for folder in (IMAGES, MASKS, CONFIDENCE):
        for path in (target / folder).glob("CT_*-*.npy"):
            if path.stem not in kept:
                path.unlink()


def _claim(target: Path, dataset: RawDataset, settings: SliceSettings) -> None:
    """Claim the folder for this export, or check that it belongs to it."""
    path = target / EXPORT_FILE
    window = _window(dataset, settings)
    own = {"dataset": dataset.name, **asdict(settings), "mapped": window and list(window)}
    del own["window"]
    if dataset.num_channels > 1:
        own["channel"] = dataset.shown
    if path.is_file():
        there = present_names(read_json(path, "Choose another folder with -o."))
        if there != own:
            raise InputError(f"{target}: export must be one of {own}, got {there}. Choose another folder with -o.")
    atomic_write_json(path, own)
    for name in (IMAGES, MASKS, CONFIDENCE, CASES):
        (target / name).mkdir(parents=True, exist_ok=True)


def _window(dataset: RawDataset, settings: SliceSettings) -> tuple[float, float] | None:
    """The window of all cases; None when each has its own."""
    return settings.window or (CT_WINDOW if is_ct(dataset.channel_name) else None)


def _write_case(dataset: RawDataset, case_id: str, target: Path, settings: SliceSettings) -> Boxes:
    """Write a case's slices; return their boxes."""
    case = dataset.load_case(case_id)
    assert case.image is not None
    scan = case.image[dataset.shown]
    low, high = _window(dataset, settings) or np.percentile(scan[scan != 0], _ROBUST_PERCENT)
    confidence = np.ones(case.shape, np.float32) if case.confidence is None else case.confidence
    if case.ignored is not None:  # its mask says background there
        confidence = np.where(case.ignored, np.float32(0), confidence)
    axial = int(np.abs(case.affine[2, :3]).argmax())
    masks, images, trusts = (np.moveaxis(volume, axial, 0) for volume in (case.mask, scan, confidence))
    boxes = {}
    for number, (mask, image, trust) in enumerate(zip(masks, images, trusts, strict=True)):
        counts = np.bincount(mask.ravel())
        mask = np.where((counts >= settings.min_pixels)[mask], mask, 0).astype(np.uint8)
        if not mask.any():
            continue
        name = f"CT_{case_id}-{number:03d}"
        grey = _resized(np.clip((image - low) / (high - low), 0, 1).astype(np.float32), settings.size, order=1)
        labels = _resized(mask, settings.size, order=0)
        arrays = {
            IMAGES: np.repeat(grey.clip(0, 1)[..., None], 3, axis=-1),
            MASKS: labels,
            CONFIDENCE: quantise_confidence(_resized(trust, settings.size, order=1), dataset.max_weight),
        }
        for folder, array in arrays.items():
            with atomic_path(target / folder / f"{name}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, array)
        boxes[name] = {str(label): _box(labels == label) for label in np.unique(labels) if label}
    return boxes


def _resized(plane: np.ndarray, size: int, order: int) -> np.ndarray:
    """Resize the longer edge to `size`, and pad the shorter one at its end with zeros, as MedSAM does."""
    factor = size / max(plane.shape)
    factors = [max(1, round(n * factor)) / n for n in plane.shape]
    scaled = zoom(plane, factors, order=order, grid_mode=True, mode="nearest")
    return np.pad(scaled, [(0, size - n) for n in scaled.shape])


def _box(where: np.ndarray) -> list[int]:
    rows, columns = np.where(where)
    return [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]
