"""Check the volumes of a raw data set, and list all faults at once."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import file_sha256
from fcas_nnunet.integration.dataset import headers, odd_files, synthetic_cases, volumes, whole_files
from fcas_nnunet.integration.dataset.description import MAX_WEIGHT, reader_name
from fcas_nnunet.integration.dataset.folders import (
    CONFIDENCE,
    IMAGES,
    LABELS,
    SURROUNDINGS,
    known_file,
)
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE, Manifest
from fcas_nnunet.integration.dataset.odd_files import Doubts, reader_faults, spelling_faults
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.synthetic_cases import (
    CONFIDENCE_MAP,
    CONTENTS,
    LABEL,
    contents_faults,
    image_part,
)
from fcas_nnunet.integration.dataset.volumes import (
    CONFIDENCE_TOLERANCE,
    FINITE_REMEDY,
    LARGEST_WEIGHT,
    READABLE_FILE_ENDINGS,
    Volume,
    count_non_finite,
    label_fault,
    read_all,
    read_volume,
    same_grid,
    shear_fault,
)
from fcas_nnunet.intensities import IntensityScale
from fcas_nnunet.known_files import KnownFiles
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

#: Allowed length of a scan along its longest axis; outside of it, the spacing in the header is wrong.
_EXTENT_MM = (1.0, 3000.0)
_FEWEST_VOXELS = 4**3
#: Entries of dataset.json that the checks of a case read, besides its files.
_DESCRIPTION = ("labels", "channel_names", MAX_WEIGHT)
#: Modules whose rules a case has passed; a change of one is a reason to check again.
_RULES = (sys.modules[__name__], headers, odd_files, synthetic_cases, volumes, whole_files)


def check_dataset(dataset: RawDataset, *, min_cases: int = 1) -> None:
    """Read every case and refuse the data set if anything is wrong with it.

    Raises:
        InputError: listing all faults, one a line.
    """
    if faults := dataset_faults(dataset, min_cases=min_cases):
        raise InputError("\n".join(faults))


def dataset_faults(
    dataset: RawDataset, *, min_cases: int = 1, any_grid: bool = False, every_map: bool = False, anew: bool = False
) -> list[str]:
    """Read every case that is new or has changed, and list the faults, one sentence each, in order of the cases.

    Args:
        dataset: the data set.
        min_cases: its least number of cases.
        any_grid: accept sheared grids: nnU-Net reads them, but no new case can be written on one.
        every_map: every case must have a confidence map; else those that the manifest calls synthetic.
        anew: read all cases, also those that an earlier run found sound.
    """
    faults = []
    if len(dataset.case_ids) < min_cases:
        faults.append(
            f"{dataset.name}: number of cases must be at least {min_cases}, got {len(dataset.case_ids)}. "
            f"Add labelled scans to {IMAGES}Tr and {LABELS}Tr."
        )
    if dataset.dataset_json["numTraining"] != len(dataset.case_ids):
        faults.append(
            f"{dataset.name}: numTraining in dataset.json must be the number of cases {len(dataset.case_ids)}, "
            f"got {dataset.dataset_json['numTraining']}. Correct it."
        )
    faults += _extra_channels(dataset)
    faults += spelling_faults(dataset)
    synthetic, contents = dataset.synthetic_cases(), _written_contents(dataset)
    doubts = Doubts(dataset)
    needy = set(dataset.case_ids) if every_map else synthetic
    known = _sound_cases(dataset, any_grid, needy, contents)
    sound = {} if anew else dict(known.found)

    def check(case_id: str) -> list[str]:
        doubts.look_at(case_id)
        needs_map = case_id in needy
        return [
            *_case_faults(dataset, case_id, needs_map, contents.get(case_id, {}), any_grid, doubts),
            *reader_faults(dataset, case_id),
        ]

    for case_id, noted in sound.items():
        doubts.recall(case_id, noted)
    unknown = [case_id for case_id in dataset.case_ids if case_id not in sound]
    per_case = read_all(check, unknown, f"checking {dataset.name}") if unknown else []
    known.save({i: doubts.of_case(i) for i, found in zip(unknown, per_case, strict=True) if not found})
    doubts.report()
    return faults + [fault for case in per_case for fault in case]


def _sound_cases(
    dataset: RawDataset, any_grid: bool, needy: Collection[str], contents: Mapping[str, Mapping[str, str]]
) -> KnownFiles:
    """Return the cases that these very checks found sound, with what was doubtful about them."""
    rules = [file_sha256(Path(str(module.__file__))) for module in _RULES]
    described = [reader_name(dataset.dataset_json), *(dataset.dataset_json.get(key) for key in _DESCRIPTION)]
    return KnownFiles(
        known_file(dataset.name, "sound_on_any_grid" if any_grid else "sound"),
        {case_id: dataset.files_of(case_id) for case_id in dataset.case_ids},
        common=[rules, described, dataset.surroundings, (dataset.folder / f"{SURROUNDINGS}Tr").is_dir()],
        settings={i: [i in needy, dict(contents.get(i, {}))] for i in dataset.case_ids},
    )


def stray_maps(dataset: RawDataset) -> list[str]:
    """List the volumes in confidenceTr that are no case's map, a sentence each; a misspelt map would not be used."""
    if "dataset" in dataset.dataset_json:  # it may leave cases out
        return []
    known = {dataset.confidence_path(case_id).name for case_id in dataset.case_ids}
    files = sorted((dataset.folder / f"{CONFIDENCE}Tr").glob("[!.]*"))
    return [
        f"{path}: confidence map must be named as the label of its case, with the ending {dataset.file_ending}, got "
        "a name of none. Rename or remove it."
        for path in files
        if path.name.endswith(READABLE_FILE_ENDINGS) and path.name not in known
    ]


def _written_contents(dataset: RawDataset) -> dict[str, Mapping[str, str]]:
    """Case id → hashes of the written content; without the cases of older versions, which recorded none."""
    records = Manifest(dataset.folder).read()
    unknown = sum(CONFIDENCE in record and CONTENTS not in record for record in records.values())
    if unknown:
        logger.warning(
            f"{dataset.folder / MANIFEST_FILE}: an older version wrote {unknown} of its cases, without hashes of what "
            "they hold: files of two such cases that were swapped are not noticed"
        )
    return {case_id: record.get(CONTENTS, {}) for case_id, record in records.items()}


def _extra_channels(dataset: RawDataset) -> list[str]:
    if "dataset" in dataset.dataset_json:  # it lists the files that count
        return []
    files = (dataset.folder / f"{IMAGES}Tr").glob(f"*_[0-9][0-9][0-9][0-9]{dataset.file_ending}")
    known = tuple(f"_{channel:04d}{dataset.file_ending}" for channel in range(dataset.num_channels))
    extra = sorted(path.name for path in files if not path.name.endswith(known))
    wanted = "one channel, _0000" if dataset.num_channels == 1 else f"the {dataset.num_channels} of dataset.json"
    return [f"{name}: images must have {wanted}, got another. Remove it." for name in extra]


def _case_faults(
    dataset: RawDataset, case_id: str, needs_map: bool, contents: Mapping[str, str], any_grid: bool, doubts: Doubts
) -> list[str]:
    faults: list[str] = []
    image: Volume | None = None
    for number, (path, kind) in enumerate(
        zip(dataset.image_paths(case_id), dataset.channel_names.values(), strict=True)
    ):
        name = f"channel {number} ({kind})" if number else "image"
        channel = _read(path, case_id, name, faults)
        if channel is not None:
            faults += contents_faults(case_id, image_part(number), channel.array, contents)
            faults += _grey_faults(case_id, name, path, channel.array, kind)
            doubts.look_at_image(case_id, channel.array, kind)
        if number:
            faults += _grid_faults(case_id, name, channel, "image", image)
        elif channel is not None:
            image = channel
            faults += _size_faults(case_id, image)
    mask = _read(dataset.mask_path(case_id), case_id, "label", faults)
    if mask is not None:
        values = np.unique(mask.array).tolist()
        faults += _id_faults(case_id, "label", mask.array, values, dataset.label_ids, "dataset.json")
        faults += contents_faults(case_id, LABEL, mask.array, contents)
        if not any(i not in (0, dataset.ignore_id) for i in values):
            faults.append(f"{case_id}: label must mark at least one voxel, got an empty mask. Annotate or remove it.")
    faults += _grid_faults(case_id, "label", mask, "image", image)
    reference = mask or image
    if reference is not None and not any_grid and (shear := shear_fault(reference.affine)):
        faults.append(f"{case_id}: {shear}")
    if (dataset.folder / f"{SURROUNDINGS}Tr").is_dir():
        surroundings = _read(dataset.surroundings_path(case_id), case_id, SURROUNDINGS, faults)
        if surroundings is not None:
            known = [0, *dataset.surroundings.values()]
            values = np.unique(surroundings.array).tolist()
            faults += _id_faults(case_id, SURROUNDINGS, surroundings.array, values, known, "surroundings.json")
            faults += _grid_faults(case_id, SURROUNDINGS, surroundings, "label", reference)
    if needs_map or dataset.confidence_path(case_id).is_file():
        confidence = _read(dataset.confidence_path(case_id), case_id, CONFIDENCE, faults)
        if confidence is not None:
            faults += _confidence_faults(case_id, confidence.array, dataset.max_weight)
            faults += contents_faults(case_id, CONFIDENCE_MAP, confidence.array, contents)
            faults += _grid_faults(case_id, CONFIDENCE, confidence, "label", reference)
    return faults


def _read(path: Path, case_id: str, what: str, faults: list[str]) -> Volume | None:
    """Read a volume; None, with a fault added, if that fails. NaN or infinite voxels add a fault as well."""
    try:
        volume = read_volume(path)
        bad = count_non_finite(path, volume.array)
    except FileNotFoundError:
        faults.append(f"{case_id}: {what} must exist, got no file {path}. Add it or remove the case.")
        return None
    except InputError as error:
        faults.append(f"{case_id}: {error}")
        return None
    if bad:
        faults.append(f"{case_id}: {what} must be finite, got {bad} NaN or infinite voxels. {FINITE_REMEDY}")
    return volume


def _size_faults(case_id: str, image: Volume) -> Iterator[str]:
    """List sizes that resampling would turn into an empty volume, or into one that exceeds any memory."""
    if image.array.size < _FEWEST_VOXELS:
        shape = " × ".join(map(str, image.array.shape))
        yield f"{case_id}: image must hold at least {_FEWEST_VOXELS} voxels, got {shape}. Take the whole scan."
    extent = np.linalg.norm(image.affine[:3, :3], axis=0) * image.array.shape
    low, high = _EXTENT_MM
    if not low <= extent.max() <= high:
        shown = " × ".join(f"{length:.5g}" for length in extent)
        yield (
            f"{case_id}: image must be {low:g} to {high:g} mm long along its longest axis, got {shown} mm. "
            "Correct the spacing in its header."
        )


def _grey_faults(case_id: str, name: str, path: Path, array: np.ndarray, kind: str) -> Iterator[str]:
    """Name a channel without contrast, and one whose contrast float32 cannot hold beside its offset."""
    low, high = float(array.min()), float(array.max())
    if low == high:
        yield (
            f"{case_id}: {name} must have more than one grey value, got {low:g} in every voxel of {path}. Export it "
            "again, or remove the case."
        )
    elif math.isfinite(low) and math.isfinite(high) and _loses_contrast(array, max(-low, high), kind):
        yield (
            f"{case_id}: {name} must keep its contrast in float32, in which nnU-Net computes, got values from {low:g} "
            f"to {high:g} in {array.dtype} in {path}. Subtract their offset."
        )


def _loses_contrast(array: np.ndarray, largest: float, kind: str) -> bool:
    """Return whether float32 changes a value by more than a standard unit; all are looked at only where it could."""
    if np.can_cast(array.dtype, np.float32):
        return False
    unit = IntensityScale.of(array, kind).unit
    with np.errstate(over="ignore", invalid="ignore"):
        if np.spacing(np.float32(largest)) / 2 <= unit:
            return False
        return bool(np.abs(array - array.astype(np.float32)).max() > unit)


def _id_faults(
    case_id: str, what: str, array: np.ndarray, values: Collection[int], known: Collection[int], source: str
) -> Iterator[str]:
    if fault := label_fault(array):
        yield f"{case_id}: {what}: {fault}"
    elif unknown := sorted(set(values) - set(known)):
        yield (
            f"{case_id}: {what} values must be those that {source} names, [{listed(sorted(known))}], got "
            f"{listed(unknown)}. Name them there or correct the mask."
        )


def _confidence_faults(case_id: str, array: np.ndarray, max_weight: float) -> Iterator[str]:
    low, high = float(array.min()), float(array.max())
    if low >= -CONFIDENCE_TOLERANCE and high <= max_weight + CONFIDENCE_TOLERANCE:
        return
    remedy = "Write the map or generate the case again"
    if low >= -CONFIDENCE_TOLERANCE and high <= LARGEST_WEIGHT:
        remedy += f', or allow such weights by "{MAX_WEIGHT}": {math.ceil(high)} in dataset.json'
    yield f"{case_id}: confidence must lie in [0, {max_weight:g}], got {low:.6g} to {high:.6g}. {remedy}."


def _grid_faults(case_id: str, what: str, volume: Volume | None, onto: str, other: Volume | None) -> Iterator[str]:
    if volume is None or other is None:
        return
    if volume.array.shape != other.array.shape:
        yield (
            f"{case_id}: shape of {what} must be that of the {onto} {other.array.shape}, "
            f"got {volume.array.shape}. Resample it onto the {onto}'s grid."
        )
    elif not same_grid(volume.affine, other.affine, volume.array.shape):
        yield (
            f"{case_id}: affine of {what} must be that of the {onto} {_short(other.affine)}, "
            f"got {_short(volume.affine)}. Resample it or copy the {onto}'s header."
        )


def _short(affine: np.ndarray) -> str:
    return np.array2string(affine[:3], precision=3, suppress_small=True, separator=", ").replace("\n", "")
