"""Record the inputs of each preprocessing step, so that it is skipped while they stay the same, and else repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.plans import preprocessed_folder
from fcas_nnunet.known_files import digest_of

STAMPS_FILE = "fcas_prepared.json"

#: Keys of a plans file that affect a preprocessed case.
_PLANS_KEYS = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")
_CONFIGURATION_KEYS = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
    "resampling_fn_probabilities",
    "resampling_fn_probabilities_kwargs",
)


class Stamps:
    """The stamps in a folder `$nnUNet_preprocessed/DatasetNNN_Name`: name of a step → digest of its inputs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STAMPS_FILE

    @classmethod
    def of(cls, dataset: RawDataset) -> Stamps:
        """Return the stamps of a raw data set."""
        return cls(preprocessed_folder(dataset))

    def read(self) -> dict[str, str]:
        """Read every stamp; none if the file is missing or broken, in which case the steps are repeated."""
        try:
            content = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def put(self, step: str, digest: str) -> None:
        """Record that a step is done."""
        atomic_write_json(self.path, self.read() | {step: digest})

    def drop(self, step: str) -> None:
        """Remove the record of a step that will be repeated."""
        stamps = self.read()
        if stamps.pop(step, None) is not None:
            atomic_write_json(self.path, stamps)


def unreadable_faults(dataset: RawDataset) -> Iterator[str]:
    """List the scans, label maps and confidence maps that this user may not read."""
    for path in (*_scan_paths(dataset), *map(dataset.confidence_path, dataset.mapped_cases())):
        try:
            path.open("rb").close()
        except PermissionError as error:
            yield f"{path}: file must be yours to read, got '{error.strerror}'. Have its rights changed."
        except OSError:
            continue  # `dataset_faults` names what is missing


def raw_digest(dataset: RawDataset) -> str:
    """Hash name, size and time of change of every raw file, and the names of labels and channels."""
    maps = [dataset.confidence_path(i) for i in dataset.case_ids if dataset.has_confidence]
    weights = {} if dataset.max_weight == 1 else {"max_weight": dataset.max_weight}
    return _digest(dataset, [*_scan_paths(dataset), *maps], weights)


def scans_digests(dataset: RawDataset) -> tuple[str, str]:
    """Hash what nnU-Net itself reads, without confidence maps; second, as earlier versions did, with them."""
    return _digest(dataset, _scan_paths(dataset), {}), raw_digest(dataset)


def preprocessing_digests(
    dataset: RawDataset, plans: dict[str, Any], configuration: dict[str, Any]
) -> tuple[str, str, str]:
    """Hash `scans_digests` with the settings that affect preprocessed cases; second, as earlier versions did; third,
    these settings and the names of labels and channels alone.

    The configuration includes the settings that it inherits.
    """
    settings = [plans[key] for key in _PLANS_KEYS] + [configuration[key] for key in _CONFIGURATION_KEYS]
    now, earlier = (digest_of({"raw": digest, "settings": settings}) for digest in scans_digests(dataset))
    return now, earlier, digest_of([settings, _names(dataset)])


def newest_scan_change(dataset: RawDataset) -> float:
    """Return the time of the latest change of an image or label map, in seconds since the epoch."""
    return max((path.stat().st_mtime for path in _scan_paths(dataset) if path.is_file()), default=0.0)


def _scan_paths(dataset: RawDataset) -> list[Path]:
    """List every channel and label map, at the paths of dataset.json."""
    return [path for i in dataset.case_ids for path in (*dataset.image_paths(i), dataset.mask_path(i))]


def _digest(dataset: RawDataset, paths: Sequence[Path], more: Mapping[str, Any]) -> str:
    states = [(path.parent.name, path.name, *file_state(path)) for path in paths]
    return digest_of({"files": states} | _names(dataset) | dict(more))


def _names(dataset: RawDataset) -> dict[str, Any]:
    return {"labels": dataset.dataset_json["labels"], "channels": dataset.dataset_json["channel_names"]}


def file_state(path: Path) -> tuple[int, int]:
    """Return size and time of change; for a missing file, which a check will name, values that no file has."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
