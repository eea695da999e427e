"""Segment scans with a trained nnU-Net and its own predictor, case by case; a killed run is resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tqdm import tqdm

from fcas_nnunet.files import file_sha256, temporary_folder
from fcas_nnunet.integration.dataset.folders import MODEL_FILES
from fcas_nnunet.integration.dataset.manifest import Journal
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON
from fcas_nnunet.integration.models.trained_models import checkpoint_path, open_predictor, preprocess
from fcas_nnunet.json_files import read_json
from fcas_nnunet.listing import listed

JOURNAL_FILE = "fcas_predictions.jsonl"

Properties = dict[str, Any]


@dataclass(frozen=True)
class TrainedModel:
    """A trained nnU-Net on disk."""

    folder: Path  # <trainer>__<plans>__<configuration>
    folds: tuple[str, ...]  # their predictions are averaged
    checkpoint: str  # file in their folders
    sha256: str  # hash of the checkpoints, plans and dataset.json together

    @property
    def name(self) -> str:
        """Name that results record: data set, model folder, folds and checkpoint."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}, fold {' '.join(self.folds)}, {self.checkpoint}"

    @property
    def dataset_json(self) -> dict[str, Any]:
        """The dataset.json of the data set that it was trained on."""
        return read_json(self.folder / DATASET_JSON)


def find_model(folder: Path, folds: Sequence[str] | None, checkpoint: str) -> TrainedModel:
    """Find a trained nnU-Net and check that its files exist; nothing is loaded.

    The arguments are those of `open_predictor`; without folds, all numbered ones with the checkpoint, or else `all`.

    Raises:
        FileNotFoundError: when folder, fold or checkpoint are missing.
    """
    if not folds:
        found = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
        folds = [fold for fold in found if fold.isdecimal()] or found or ["0"]
    paths = [checkpoint_path(folder, fold, checkpoint) for fold in folds]
    digest = hashlib.sha256()
    for path in [*paths, *(folder / name for name in MODEL_FILES)]:
        digest.update(file_sha256(path).encode())
    return TrainedModel(folder, tuple(folds), checkpoint, digest.hexdigest())


def fingerprint(case_id: str, image_sha256: str, model: TrainedModel) -> dict[str, str]:
    """Return the origin of a prediction: a line of the journal beside it."""
    return {"case_id": case_id, "image_sha256": image_sha256, "model_sha256": model.sha256}


def outdated_cases(folder: Path, image_sha256: Mapping[str, str], model: TrainedModel, ending: str) -> list[str]:
    """List the cases without a prediction of this model for this image, in a folder of files with this ending.

    Raises:
        ValueError: when the folder holds predictions of these cases that were made elsewhere: they are not overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: folder must be one, or be new, got a file. Name a folder.")
    records = Journal(folder / JOURNAL_FILE).read()
    present = [case_id for case_id in image_sha256 if (folder / f"{case_id}{ending}").is_file()]
    foreign = [case_id for case_id in present if case_id not in records]
    if foreign:
        raise ValueError(
            f"{folder}: predictions must be this command's own, got others of {listed(foreign)}. "
            "Name another folder with --predictions, or score them with fcas_evaluate segmentations."
        )
    return [
        case_id
        for case_id, sha256 in image_sha256.items()
        if case_id not in present or records[case_id] != fingerprint(case_id, sha256, model)
    ]


def predict_cases(
    model: TrainedModel,
    images: Mapping[str, Sequence[Path]],
    image_sha256: Mapping[str, str],
    folder: Path,
    device: torch.device,
) -> None:
    """Segment scans as `nnUNetv2_predict` does, with a progress bar; a killed run leaves what it has finished.

    While the network works on a scan, the next one is preprocessed and the one before is resampled and written.

    Args:
        model: network to predict with.
        images: case id → channels of the scan.
        image_sha256: case id → hash of the scan (`files_sha256`).
        folder: output folder for `<case id><ending>` with the model's label ids, and the journal of their origins.
        device: device to predict on.

    Raises:
        ValueError: when the network cannot be loaded, or a scan cannot be read.
    """
    predictor = open_predictor(model.folder, model.folds, model.checkpoint, device, use_mirroring=True)
    journal = Journal(folder / JOURNAL_FILE)
    ending = predictor.dataset_json["file_ending"]
    bar = tqdm(total=len(images), desc="predictions", unit="case", disable=None)
    with bar, ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for case_id, data, properties in _preprocessed(predictor, images):
            logits = predictor.predict_logits_from_preprocessed_data(data).cpu()
            if writing is not None:
                writing.result()  # one at a time: logits of a whole CT take gigabytes
            path, record = folder / f"{case_id}{ending}", fingerprint(case_id, image_sha256[case_id], model)
            writing = writer.submit(_write, predictor, logits, properties, path, partial(journal.append, record))
            writing.add_done_callback(lambda _: bar.update())
            del data, logits
        if writing is not None:
            writing.result()


def _preprocessed(
    predictor: nnUNetPredictor, images: Mapping[str, Sequence[Path]]
) -> Iterator[tuple[str, torch.Tensor, Properties]]:
    """Yield (case id, preprocessed scan, nnU-Net's properties of its geometry), prepared one case ahead."""
    with ThreadPoolExecutor(1) as reader:
        ready: tuple[str, Future[tuple[torch.Tensor, Properties]]] | None = None
        for case_id, paths in images.items():
            following = case_id, reader.submit(preprocess, predictor, paths)
            if ready is not None:
                yield ready[0], *ready[1].result()
            ready = following
        if ready is not None:
            yield ready[0], *ready[1].result()


def _write(
    predictor: nnUNetPredictor, logits: torch.Tensor, properties: Properties, path: Path, note: Callable[[], None]
) -> None:
    """Resample to the scan's grid and write as nnU-Net does; the journal's line comes first, so no file lacks one."""
    segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties
    )
    path.unlink(missing_ok=True)
    note()
    with temporary_folder(path) as folder:  # writers choose the format by the ending
        predictor.plans_manager.image_reader_writer_class().write_seg(segmentation, str(folder / path.name), properties)
        os.replace(folder / path.name, path)
