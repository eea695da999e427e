"""How a public data set lies on disk, and what its values mean: the terms in which each of its modules describes it."""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.geometry import Triple
from fcas_nnunet.labels.anatomy import BACKGROUND
from fcas_nnunet.listing import listed

CT, MRI = "CT", "MRI"
TRAINING, TEST = "Tr", "Ts"

#: A case in several files of one kind: what a second download adds to the name of a file or folder.
_COPY_MARK = re.compile(r" ?\(\d+\)(?=[/.]|$)")
_ARCHIVE = re.compile(r"\.(zip|change2zip|z\d\d|rar|7z|tar|tgz|tar\.gz)$", re.IGNORECASE)
_RAW_DATA_SET = re.compile(r"Dataset\d{3}_.+")
_VOLUME = re.compile(r"\.(nii|nii\.gz|nrrd|mha|mhd)$")
_FEWEST_PATIENTS = 5

Split = dict[str, list[str]]


@dataclass(frozen=True)
class PublicSet:
    """What is the same for every case of a public data set.

    Attributes:
        key: What `fcas_convert` calls it.
        name: Of the data set that is written, without `DatasetNNN_`.
        channel: nnU-Net's channel name, CT or MRI.
        labels: Name → id as written, without the background.
        values: Value in the label files → id as written.
        misprints: Those of the values that stand for another one by mistake.
        others_are_background: Whether any further value is background; otherwise it is refused.
        offset: What stored intensities exceed HU by.
        reference: The paper to cite.
        licence: Of the data set, as its publishers state it.
        doubts: What a user has to know before trusting the result; sentences.
    """

    key: str
    name: str
    channel: str
    labels: Mapping[str, int]
    values: Mapping[int, int]
    misprints: frozenset[int] = frozenset()
    others_are_background: bool = False
    offset: int = 0
    reference: str = ""
    licence: str = ""
    doubts: tuple[str, ...] = ()

    @classmethod
    def of_structures(cls, structures: Mapping[int, str], **more: object) -> PublicSet:
        """A set whose label files hold these values: stored value → name of the structure, or background.

        Values of one name become one label; ids follow the order of the values.
        """
        names = [name for _, name in sorted(structures.items()) if name != BACKGROUND]
        labels = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
        values = {value: labels.get(name, 0) for value, name in structures.items()}
        return cls(labels=labels, values={0: 0} | values, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scan:
    """A case of a public data set.

    Attributes:
        case_id: nnU-Net's identifier.
        image: File of the scan.
        label: File of its labels; None where a test part is published without.
        split: "Tr", or "Ts" for the published test part.
        patient: What the scans of one patient share; the case id where each patient has one scan.
        spacing_mm: Voxel size along (D, H, W) that is to replace the header's, on the user's word.
        about: What the publishers' files say of the case besides, for the manifest.
    """

    case_id: str
    image: Path
    label: Path | None
    split: str
    patient: str
    spacing_mm: Triple[float] | None = None
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a file belongs, told from its path: case, kind, part and patient (see `Scan`)."""

    case_id: str
    is_label: bool
    split: str = TRAINING
    patient: str | None = None


@dataclass(frozen=True)
class Layout:
    """The cases in a user's folder.

    Attributes:
        scans: Sorted by case id.
        skipped: Reason → names of files and cases that are left out for it.
        folds: Makes the folds of the written training cases; None where the set is published without.
        folds_origin: Where the folds come from, for the summary.
        notes: What else the user has to know; sentences.
    """

    scans: list[Scan]
    skipped: Mapping[str, list[str]]
    folds: Callable[[Sequence[str]], list[Split]] | None = None
    folds_origin: str = ""
    notes: list[str] = field(default_factory=list)

    def without(self, case_ids: Sequence[str], flag: str) -> Layout:
        """The layout without cases that the user leaves out.

        Raises:
            InputError: If there is no such case, or no case is left.
        """
        unknown = sorted(set(case_ids) - {scan.case_id for scan in self.scans})
        if unknown:
            raise InputError(
                f"{flag}: cases must be among those that were found, {listed([s.case_id for s in self.scans])}, got "
                f"{listed(unknown)}. Correct the names."
            )
        kept = [scan for scan in self.scans if scan.case_id not in case_ids]
        if not kept:
            raise InputError(f"{flag}: a case must be left to be converted, got all of them. Name fewer.")
        skipped = {**self.skipped, f"left out by {flag}": sorted(case_ids)} if case_ids else self.skipped
        return replace(self, scans=kept, skipped=skipped)


def find_scans(source: Path, pattern: str, place: Callable[[re.Match[str]], Place | None], form: str) -> Layout:
    """Find the cases of a layout, wherever they lie in a folder.

    Of files that are copies of each other, as a second download leaves them ("1-200 (1)"), one is taken. macOS' `._`
    files are no volumes.

    Args:
        source: The user's folder.
        pattern: Regular expression that is searched for in "<name of the folder>/<path in it>", without marks of
            copies; it must end with "$".
        place: Tells the case and kind of a file from what matched; None for a file that is not wanted.
        form: What the files are called, for messages.

    Returns:
        The cases. Training scans without a label and labels without a scan are skipped.

    Raises:
        MissingFileError: If there is no such folder.
        InputError: If no case is there, a case has two different files, or a file's ending is not read; all such files
            are listed.
    """
    if not source.is_dir():
        got, remedy = ("a file", "Unpack it, and name") if source.exists() else ("none", "Name")
        raise MissingFileError(f"{source}: SRC must be a folder, got {got}. {remedy} the folder of the data set.")
    files: dict[tuple[str, bool], list[Path]] = defaultdict(list)
    places: dict[Path, Place] = {}
    skipped: dict[str, list[str]] = defaultdict(list)
    top = "/".join(dict.fromkeys([Path(os.path.abspath(source)).name, source.resolve().name]))  # they differ for a link
    archives = []
    for path in _walk(source):
        name = path.relative_to(source).as_posix()
        if path.name.startswith("._") or "__MACOSX" in path.parts:
            skipped["macOS' own files"].append(name)
        elif match := re.search(pattern, _COPY_MARK.sub("", f"{top}/{name}"), re.IGNORECASE):
            if found := place(match):
                files[found.case_id, found.is_label].append(path)
                places[path] = found
        elif _VOLUME.search(path.name):
            skipped["volumes that are neither scan nor label of this layout"].append(name)
        elif _ARCHIVE.search(path.name):
            archives.append(name)
    faults: list[str] = []
    chosen = [_one_of(source, paths, skipped, faults) for paths in files.values()]
    faults += [
        f"{path}: name must end as volumes are called, .nii.gz say, in small letters, got {path.name}. Rename it."
        for path in chosen
        if not _VOLUME.search(path.name)
    ]
    if faults:
        raise InputError("\n".join(faults))
    scans = _paired(source, {path: places[path] for path in chosen}, skipped)
    if not scans:
        raise InputError(f"{source}: SRC must hold {form}, got none. {_advice(archives)}")
    return Layout(scans, dict(skipped))


def patient_folds(case_ids: Sequence[str], patient_of: Callable[[str], str], seed: int) -> list[Split]:
    """Five folds in which all scans of a patient lie on one side; none for fewer patients than folds.

    The patients are shuffled as nnU-Net's own converter of ACDC does it (`Dataset027_ACDC.create_ACDC_split`).
    """
    patients = np.unique([patient_of(case_id) for case_id in case_ids])
    if len(patients) < _FEWEST_PATIENTS:
        return []
    np.random.RandomState(seed).shuffle(patients)
    folds = []
    for fold in range(_FEWEST_PATIENTS):
        held_out = set(patients[fold::_FEWEST_PATIENTS].tolist())
        folds.append({
            "train": [case_id for case_id in case_ids if patient_of(case_id) not in held_out],
            "val": [case_id for case_id in case_ids if patient_of(case_id) in held_out],
        })  # fmt: skip
    return folds


def _walk(source: Path) -> Iterator[Path]:
    """Every file below a folder, sorted; links to folders are followed, each folder once.

    nnU-Net's data sets in it, whose files may be called as those of a public set, are passed over.
    """
    seen: set[str] = set()
    for folder, folders, names in os.walk(source, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _RAW_DATA_SET.fullmatch(name))
        yield from (Path(folder, name) for name in sorted(names))


def _refuse(error: OSError) -> None:
    """Stop at a folder that cannot be listed, whose cases would be missing without a word."""
    raise error


def _one_of(source: Path, paths: Sequence[Path], skipped: dict[str, list[str]], faults: list[str]) -> Path:
    """The file that is taken of several for one case; those of the same bytes are skipped, others are faults."""
    names = {path: path.relative_to(source).as_posix() for path in paths}
    first, *others = sorted(paths, key=lambda path: (_COPY_MARK.search(names[path]) is not None, names[path]))
    for other in others:
        if filecmp.cmp(first, other, shallow=False):
            skipped["copies of files that were taken"].append(names[other])
        else:
            faults.append(
                f"{first}: a case must have one such file, got {other} besides, which differs. Move one of them away."
            )
    return first


def _paired(source: Path, places: Mapping[Path, Place], skipped: dict[str, list[str]]) -> list[Scan]:
    """Images with their labels, sorted by case id."""
    images = {found.case_id: path for path, found in places.items() if not found.is_label}
    labels = {found.case_id: path for path, found in places.items() if found.is_label}
    scans = []
    for case_id, path in sorted(images.items()):
        found, label = places[path], labels.pop(case_id, None)
        if label is None and found.split == TRAINING:
            skipped["training scans without a label file"].append(path.relative_to(source).as_posix())
        else:
            scans.append(Scan(case_id, path, label, found.split, found.patient or case_id))
    if labels:
        skipped["labels without a scan"] = [path.relative_to(source).as_posix() for path in labels.values()]
    return scans


def _advice(archives: Sequence[str]) -> str:
    if archives:
        return f"Unpack {listed(archives)} first; .change2zip has to be renamed to .zip before that."
    return "Name the folder that holds the data set."
