"""Segment scans with a trained nnU-Net and its own predictor, case by case; a killed run is resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tqdm import tqdm

from fcas_nnunet.config.schema import check_form, form
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import file_sha256, temporary_folder
from fcas_nnunet.integration.dataset.description import NAMES
from fcas_nnunet.integration.dataset.folders import MODEL_FILES
from fcas_nnunet.integration.dataset.manifest import Journal
from fcas_nnunet.integration.dataset.ownership import refuse_foreign_folder
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON, RawDataset
from fcas_nnunet.integration.models.trained_models import channel_faults, checkpoint_path, open_predictor, preprocess
from fcas_nnunet.json_files import read_json
from fcas_nnunet.labels.regions import single_ids
from fcas_nnunet.listing import listed

JOURNAL_FILE = "fcas_predictions.jsonl"

Properties = dict[str, Any]
Record = dict[str, Any]
Output = Callable[[nnUNetPredictor, str, torch.Tensor, Properties], np.ndarray]


@form
class _Description:
    """What is read of the dataset.json of a trained nnU-Net."""

    labels: dict[str, int | list[int]]
    file_ending: str | None = None
    channel_names: dict[str, str] = field(default_factory=dict)


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
        path, advice = self.folder / DATASET_JSON, "Take the folder as nnU-Net has left it."
        content = read_json(path, advice)
        check_form(_Description, content, f"{path}: ", advice)
        return content

    @property
    def labels(self) -> dict[str, int]:
        """Name → id of the labels, or of the single ids of the regions, that it predicts."""
        content = self.dataset_json
        return single_ids(content["labels"], content.get(NAMES))


def find_model(folder: Path, folds: Sequence[str] | None, checkpoint: str) -> TrainedModel:
    """Find a trained nnU-Net and check that its files exist; nothing is loaded.

    The arguments are those of `open_predictor`; without folds, all numbered ones with the checkpoint, or else `all`.

    Raises:
        MissingFileError: when folder, fold or checkpoint are missing.
    """
    if not folds:
        found = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
        folds = [fold for fold in found if fold.isdecimal()] or found or ["0"]
    paths = [checkpoint_path(folder, fold, checkpoint) for fold in folds]
    digest = hashlib.sha256()
    for path in [*paths, *(folder / name for name in MODEL_FILES)]:
        digest.update(file_sha256(path).encode())
    return TrainedModel(folder, tuple(folds), checkpoint, digest.hexdigest())


def scan_faults(model: TrainedModel, dataset: RawDataset) -> list[str]:
    """List the reasons why a network cannot predict from the scans of a data set, or has no masks beside them."""
    channels, ending = list(dataset.channel_names.values()), model.dataset_json.get("file_ending")
    faults = [f"{model.folder}: {fault}" for fault in channel_faults(model.dataset_json, channels)]
    if ending != dataset.file_ending:
        faults.append(
            f"{model.folder / DATASET_JSON}: file_ending must be that of {dataset.name}, {dataset.file_ending}, got "
            f"{ending}. Convert the scans."
        )
    paths = [path for i in dataset.case_ids for path in (*dataset.image_paths(i), dataset.mask_path(i))]
    faults += [f"{path}: file must exist, got none. Run fcas_doctor -d on it." for path in paths if not path.is_file()]
    if not dataset.case_ids:
        faults.append(f"{dataset.name}: cases must be there, got none. Name another data set.")
    return faults


def fingerprint(case_id: str, image_sha256: str, model: TrainedModel) -> dict[str, str]:
    """Return the origin of a prediction: a line of the journal beside it."""
    return {"case_id": case_id, "image_sha256": image_sha256, "model_sha256": model.sha256}


def outdated_cases(folder: Path, wanted: Mapping[str, Record], ending: str, remedy: str) -> list[str]:
    """List the cases without a file of the wanted origin in a folder of files with this ending.

    Args:
        folder: folder of the files and of the journal of their origins; it need not exist.
        wanted: case id → the line of the journal that its file must have.
        ending: ending of the files.
        remedy: advice where to put them instead, for messages.

    Raises:
        InputError: when the folder holds files of these cases that were made elsewhere: they are not overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: folder must be one, or be new, got a file. Name a folder.")
    records = Journal(folder / JOURNAL_FILE).read()
    present = [case_id for case_id in wanted if (folder / f"{case_id}{ending}").is_file()]
    foreign = [case_id for case_id in present if case_id not in records]
    if foreign:
        raise InputError(f"{folder}: predictions must be this command's own, got others of {listed(foreign)}. {remedy}")
    refuse_foreign_folder(folder, "fcas_evaluate or fcas_confidence", JOURNAL_FILE)
    return [case_id for case_id, record in wanted.items() if case_id not in present or records[case_id] != record]


def predict_cases(
    model: TrainedModel,
    images: Mapping[str, Sequence[Path]],
    records: Mapping[str, Record],
    folder: Path,
    device: torch.device,
    output: Output | None = None,
    description: str = "predictions",
) -> None:
    """Segment scans as `nnUNetv2_predict` does, with a progress bar; a killed run leaves what it has finished.

    While the network works on a scan, the next one is preprocessed and the one before is resampled and written.

    Args:
        model: network to predict with.
        images: case id → channels of the scan.
        records: case id → origin of its file, a line of the journal.
        folder: output folder for `<case id><ending>`, and the journal of their origins.
        device: device to predict on.
        output: makes the volume that is written for a case, whole numbers [D, H, W] on the scan's grid, from the
            predictor, the case's id, its logits and nnU-Net's properties; by default the segmentation under the model's
            label ids.
        description: text of the progress bar.

    Raises:
        InputError: when the network cannot be loaded, or a scan cannot be read.
    """
    predictor = open_predictor(model.folder, model.folds, model.checkpoint, device, use_mirroring=True)
    journal = Journal(folder / JOURNAL_FILE)
    ending = predictor.dataset_json["file_ending"]
    bar = tqdm(total=len(images), desc=description, unit="case", disable=None)

    def finish(case_id: str, logits: torch.Tensor, properties: Properties) -> None:
        volume = (output or _segmentation)(predictor, case_id, logits, properties)
        _write(predictor, volume, properties, folder / f"{case_id}{ending}", lambda: journal.append(records[case_id]))

    with bar, ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for case_id, data, properties in _preprocessed(predictor, images):
            logits = predictor.predict_logits_from_preprocessed_data(data).cpu()
            if writing is not None:
                writing.result()  # one at a time: logits of a whole CT take gigabytes
            writing = writer.submit(finish, case_id, logits, properties)
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


def _segmentation(predictor: nnUNetPredictor, case_id: str, logits: torch.Tensor, properties: Properties) -> np.ndarray:
    """Resample to the scan's grid as nnU-Net does, and take each voxel's likeliest label."""
    managers = predictor.plans_manager, predictor.configuration_manager, predictor.label_manager
    return convert_predicted_logits_to_segmentation_with_correct_shape(logits, *managers, properties)


def _write(
    predictor: nnUNetPredictor, volume: np.ndarray, properties: Properties, path: Path, note: Callable[[], None]
) -> None:
    """Write a volume as nnU-Net writes segmentations; the journal's line comes first, so no file lacks one."""
    path.unlink(missing_ok=True)
    note()
    with temporary_folder(path) as folder:  # writers choose the format by the ending
        predictor.plans_manager.image_reader_writer_class().write_seg(volume, str(folder / path.name), properties)
        os.replace(folder / path.name, path)
