"""One case at work: its label maps looked at, painted over each other, and kept until all cases are ready."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.commands.merge.rules import SourceMap
from fcas_nnunet.commands.merge.sources import Source, SourceFile
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_path, file_sha256, temporary_folder
from fcas_nnunet.integration.dataset.manifest import CASE_ID
from fcas_nnunet.integration.dataset.volumes import (
    FILE_ENDING,
    WHOLE_TOLERANCE,
    count_non_finite,
    read_grid,
    read_volume,
    same_grid,
    write_labels,
)
from fcas_nnunet.labels.merging import Canvas, Part, Structure, values_of
from fcas_nnunet.labels.resampling import labels_on_grid
from fcas_nnunet.listing import listed

#: Keys of a record, for each part of a case.
FINGERPRINT, SHA256, VOXELS, MET, COVERED = "fingerprint", "sha256", "voxels", "met", "covered"
BYTES_PER_VOXEL = 24.0

_LARGEST_TABLE = 1 << 16
_Grid = tuple[tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class Layer:
    """What is painted of one file at once.

    Attributes:
        path: of the file.
        table: value → id; 0 = not in this layer.
        rest: id of all other values but 0; None = there must be none.
        single: whether the file is one structure's mask, with one value.
    """

    path: Path
    table: Mapping[int, int]
    rest: int | None
    single: bool


@dataclass(frozen=True)
class CaseJob:
    """What a worker needs to know of a case.

    Attributes:
        case_id: of the case.
        image: its scan, whose grid counts.
        copies: file of the scan → where a new data set has it.
        layers: of each part that is written, the winning ones first.
        names: id → name, of labels and surroundings.
        labels: file of the labels that stay as they are, which the surroundings give way to.
        staged: of each part, where it is kept until all cases are ready.
        resample: take label maps on other grids, too.
    """

    case_id: str
    image: Path
    copies: Mapping[Path, Path]
    layers: Mapping[Part, Sequence[Layer]]
    names: Mapping[Part, Mapping[int, str]]
    labels: Path | None
    staged: Mapping[Part, Path]
    resample: bool

    @property
    def sources(self) -> list[Path]:
        """The files that are read."""
        return list(dict.fromkeys(layer.path for layers in self.layers.values() for layer in layers))

    @cached_property
    def grid(self) -> _Grid:
        """Shape (D, H, W) and affine of the scan."""
        return read_grid(self.image)


def case_layers(sources: Sequence[Source], case_id: str, part: Part, ids: Mapping[str, int]) -> list[Layer]:
    """What a case has of a part, the winning layers first.

    Args:
        sources: in the user's order.
        case_id: of the case.
        part: labels or surroundings.
        ids: name → id, of that part.
    """
    found: list[tuple[int, int, int, Layer]] = []
    for number, source in enumerate(sources):
        places = {name: place for place, (_, name) in enumerate(source.items)}
        for file in source.files.get(case_id, ()):
            known, rest, strict = _outcomes(source.map, file)
            there = {s for s in (*known.values(), rest) if s is not None and s.part == part}
            single = file.structure is not None
            for priority in {structure.priority for structure in there}:
                own = {structure: ids[structure.name] for structure in there if structure.priority == priority}
                table = {value: own[s] if s in own else 0 for value, s in known.items()}
                layer = Layer(file.path, table, None if strict else own[rest] if rest in own else 0, single)
                found.append((-priority, number, places.get(file.structure, 0), layer))
            if strict and not known:  # nothing is named: it is read to see that there is nothing
                found.append((0, number, 0, Layer(file.path, {}, None, single)))
    return [layer for *_, layer in sorted(found, key=lambda entry: entry[:3])]


def _outcomes(source_map: SourceMap, file: SourceFile) -> tuple[dict[int, Structure | None], Structure | None, bool]:
    """What the values of a file become, by their ids; what all others do; and whether others are refused."""
    if file.structure is not None:
        return {}, source_map.becomes(None, file.structure), False
    values = {*file.names, *source_map.ids()} - {0}
    known = {value: source_map.becomes(value, file.names.get(value)) for value in sorted(values)}
    try:
        return known, source_map.becomes(None, None), False
    except ValueError:
        return known, None, True


def look_at(job: CaseJob) -> dict[Part, str]:
    """Fingerprints of all that decides what the parts of a case will be.

    Raises:
        InputError: when a label map lies on another grid than the scan, or a header cannot be read.
    """
    faults, hashes, moved = [], {}, {}
    shape, affine = job.grid
    for path in job.sources:
        try:
            own_shape, own_affine = read_grid(path)
        except InputError as error:
            faults.append(str(error))
            continue
        moved[path] = not _same_grids((own_shape, own_affine), job.grid)
        if moved[path] and not job.resample:
            got = f"{own_shape} voxels" if own_shape != shape else "another origin, spacing or direction"
            faults.append(
                f"{path}: grid must be that of the scan, {shape} voxels, got {got}. Take the map of this scan, or "
                "let it be resampled by nearest neighbour: --resample."
            )
        hashes[path] = file_sha256(path)
    if job.labels is not None and not _same_grids(read_grid(job.labels), job.grid):
        faults.append(f"{job.labels}: grid must be that of the scan, got another. Correct the label.")
    if faults:
        raise InputError("\n".join(faults))
    prints: dict[Part, str] = {}
    scans = [file_sha256(path) for path in job.copies]
    for part, layers in job.layers.items():
        made_of: list[Any] = [
            [hashes[layer.path], sorted(layer.table.items()), layer.rest, layer.single, moved[layer.path]]
            for layer in layers
        ]
        used = sorted({i for layer in layers for i in (*layer.table.values(), layer.rest or 0)} - {0})
        made_of += [[[i, job.names[part][i]] for i in used], shape, np.round(affine, 4).tolist(), scans]
        if part == Part.SURROUNDINGS:
            made_of.append(prints.get(Part.LABELS) or (file_sha256(job.labels) if job.labels else None))
        prints[part] = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    return prints


def merge_case(item: tuple[CaseJob, Mapping[Part, str]]) -> dict[str, Any]:
    """Paint the parts of a case, and write them where they wait for the others.

    Args:
        item: the job, and its fingerprints.

    Returns:
        A record: what was written, from what, voxels of each structure, and who won how many from whom.

    Raises:
        InputError: when a label map holds what nothing names, or cannot be read.
    """
    job, prints = item
    for path, copy in job.copies.items():
        with atomic_path(copy) as temporary:
            shutil.copyfile(path, temporary)
    read = _Reader(job)
    record: dict[str, Any] = {CASE_ID: job.case_id}
    labels = None if job.labels is None else _as_ids(job.labels)
    faults: list[str] = []
    for part, layers in job.layers.items():
        canvas = Canvas.blank(job.grid[0])
        for layer in layers:
            try:
                canvas.paint(read.ids_of(layer))
            except InputError as error:
                faults += str(error).splitlines()
        if faults:
            continue
        lost = np.zeros_like(canvas.met) if labels is None else canvas.give_way(labels)
        labels = canvas.ids if part == Part.LABELS else labels
        names, above = job.names[part], job.names[Part.LABELS]
        counts = canvas.counts()
        _write(job.staged[part], canvas.ids, job)
        record[part.value] = {
            FINGERPRINT: prints[part],
            SHA256: file_sha256(job.staged[part]),
            VOXELS: {name: int(counts[i]) for i, name in names.items()},
            MET: [[names[a], names[b], int(canvas.met[a, b])] for a, b in np.argwhere(canvas.met)],
            COVERED: [[above.get(a, f"label {a}"), names[b], int(lost[a, b])] for a, b in np.argwhere(lost)],
        }
    if faults:
        raise InputError("\n".join(dict.fromkeys(faults)))
    return record


class _Reader:
    """Reads a case's files, each as seldom as it can.

    Args:
        job: of the case.
    """

    def __init__(self, job: CaseJob) -> None:
        self._job = job
        paths = [layer.path for layers in job.layers.values() for layer in layers]
        self._left = {path: paths.count(path) for path in paths}
        self._kept: dict[Path, tuple[np.ndarray, set[int]]] = {}

    def ids_of(self, layer: Layer) -> np.ndarray:
        """A layer as uint8 ids on the scan's grid.

        Raises:
            InputError: when the file holds what nothing names, or lies beside the scan.
        """
        array, values = self._values(layer.path)
        unknown = sorted(values - layer.table.keys() - {0})
        if layer.single and len(unknown) > 1:
            raise InputError(
                f"{layer.path}: a mask must hold 0 and one other value, got {listed(unknown)}. A "
                "label map of several structures must lie in the folder itself, as CASE.nii.gz."
            )
        if unknown and layer.rest is None:
            raise InputError(
                f"{layer.path}: values must be named, got {listed(unknown)} without a name. Name them "
                f'under structures of a map.yaml, "{unknown[0]}: aorta" say, or "{unknown[0]}: {Part.IGNORED}".'
            )
        found = sorted(values - {0})
        if not found:
            return np.zeros(array.shape, dtype=np.uint8)
        low = min(values)
        if len(found) == 1 or max(values) - low > _LARGEST_TABLE:
            ids = np.zeros(array.shape, dtype=np.uint8)
            for value in found:
                ids[array == value] = layer.table.get(value, layer.rest or 0)
            return ids
        table = np.zeros(max(values) - low + 1, dtype=np.uint8)
        for value in found:
            table[value - low] = layer.table.get(value, layer.rest or 0)
        return table[array - low] if low else table[array]

    def _values(self, path: Path) -> tuple[np.ndarray, set[int]]:
        found = self._kept.pop(path, None) or self._read(path)
        self._left[path] -= 1
        if self._left[path]:
            self._kept[path] = found
        return found

    def _read(self, path: Path) -> tuple[np.ndarray, set[int]]:
        array, affine = _whole_numbers(path)
        if _same_grids((array.shape, affine), self._job.grid):
            return array, values_of(array)
        on_scan = labels_on_grid(array, affine, *self._job.grid)
        if array.any() and not on_scan.any():
            raise InputError(
                f"{path}: label map must lie on the scan, got one that lies beside it. Take the map of this scan."
            )
        return on_scan, values_of(on_scan)


def _whole_numbers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A label map as whole numbers [D, H, W], and its affine.

    Raises:
        InputError: when it cannot be read, or holds other numbers.
    """
    volume = read_volume(path)
    array = volume.array
    if np.issubdtype(array.dtype, np.integer):
        return array, volume.affine
    whole = np.rint(array)
    if count_non_finite(path, array) or float(np.abs(array - whole).max()) > WHOLE_TOLERANCE:
        raise InputError(f"{path}: labels must be whole numbers, got others. Take a label map, not probabilities.")
    return whole.astype(np.int32), volume.affine


def _as_ids(path: Path) -> np.ndarray:
    """Labels that stay as they are, uint8 [D, H, W].

    Raises:
        InputError: when they cannot be read, or are no 8-bit code.
    """
    array, _ = _whole_numbers(path)
    if array.min() < 0 or array.max() >= NUM_CODES:
        raise InputError(f"{path}: label ids must lie in 0 to {NUM_CODES - 1}, got others. Correct the label.")
    return array.astype(np.uint8)


def _same_grids(first: _Grid, second: _Grid) -> bool:
    return first[0] == second[0] and same_grid(first[1], second[1], second[0])


def _write(path: Path, ids: np.ndarray, job: CaseJob) -> None:
    """Ids in the format that a file's ending says, on the scan's grid; equal input gives equal bytes."""
    if path.name.endswith(FILE_ENDING):
        write_labels(path, ids, job.grid[1])
        return
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(job.image))
    reader.ReadImageInformation()
    image = sitk.GetImageFromArray(ids)
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    with temporary_folder(path) as folder:
        sitk.WriteImage(image, str(folder / path.name), useCompression=True)
        (folder / path.name).replace(path)
