"""Folders of label maps: which files a case has there, and what is in them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcas_nnunet.commands.merge.rules import EVERYTHING, SourceMap, names_of_dataset
from fcas_nnunet.commands.runtime.case_files import case_files
from fcas_nnunet.datasets.totalsegmentator import table_in_header
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON
from fcas_nnunet.integration.dataset.volumes import READABLE_FILE_ENDINGS
from fcas_nnunet.labels.merging import Structure
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

#: An id, None of a file that is one structure; its name, None where the map alone names it. Both None: all other ids.
Named = tuple[int | None, str | None]
_REST: Named = (None, None)


@dataclass(frozen=True)
class SourceFile:
    """A file of a case.

    Attributes:
        path: of the file.
        structure: that it is a mask of; None = it is a label map.
        names: id → name, of a label map.
    """

    path: Path
    structure: str | None
    names: Mapping[int, str]


@dataclass(frozen=True)
class Source:
    """Label maps of one origin.

    Attributes:
        name: what messages and the summary call it.
        map: how its structures are called, and where they go.
        files: case id → the case's files.
        items: what it holds, in the order of the map.
    """

    name: str
    map: SourceMap
    files: Mapping[str, tuple[SourceFile, ...]]
    items: tuple[Named, ...]

    def structures(self) -> list[Structure]:
        """What it gives, in order; a name may come several times."""
        return [found for item in self.items if (found := self.map.becomes(*item)) is not None]

    def lacks(self, case_id: str) -> list[str]:
        """What a case does not have here, in words; a label map need not hold every structure."""
        files = self.files.get(case_id, ())
        if not files:
            return [f"label map in {self.name}"]
        if files[0].structure is None:
            return []
        here = {file.structure for file in files}
        return [f"{name} in {self.name}" for value, name in self.items
                if name not in here and self.map.becomes(value, name) is not None]  # fmt: skip


def open_source(folder: Path, source_map: SourceMap, case_ids: Collection[str]) -> Source:
    """Find a source's files, and what they are called.

    Args:
        folder: with `<case>.nii.gz`, or `<case>/<structure>.nii.gz`.
        source_map: how its structures are called.
        case_ids: of the data set; other cases are left alone.

    Raises:
        MissingFileError: when there is no such folder.
        InputError: listing what is wrong.
    """
    paths, masks = _label_maps(folder, case_ids), _structure_masks(folder, case_ids)
    both = sorted(paths.keys() & masks.keys())
    if both:
        raise InputError(
            f"{folder}: a case must be one label map or a folder of masks, got both of {listed(both)}. Remove one of "
            "them."
        )
    if not paths and not masks:
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        raise InputError(
            f"{folder}: label maps must be called as the cases are, {listed(sorted(case_ids))}, got "
            f"{listed(there) or 'an empty folder'}. Rename them, or fix the path."
        )
    names, faults = _names_of_files(folder, source_map, paths)
    files: dict[str, tuple[SourceFile, ...]] = {
        case_id: (SourceFile(path, None, names[case_id]),) for case_id, path in paths.items()
    }
    files |= {
        case_id: tuple(SourceFile(path, structure, {}) for structure, path in sorted(found.items()))
        for case_id, found in masks.items()
    }
    items = source_map.ordered(_named(source_map, names.values(), {name for found in masks.values() for name in found}))
    faults += source_map.unused_faults({name for _, name in items if name is not None}, has_ids=bool(paths))
    for item in items:
        try:
            source_map.becomes(*item)
        except InputError as error:
            faults.append(f"{source_map.where}: {error}. Write `{item[0]}: aorta` under structures.")
    if not items:
        faults.append(
            f"{folder}: ids of the label maps must have names, got none: no map.yaml, no table in the files' "
            f"headers, no {DATASET_JSON} beside or above. Write a map.yaml, `structures: {{1: aorta}}` say, and give "
            f"it: {folder}:map.yaml"
        )
    if faults:
        raise InputError("\n".join(faults))
    return Source(str(folder), source_map, files, tuple(items))


def _volumes(folder: Path) -> dict[str, Path]:
    """Name without ending → volume; nothing where there are none."""
    any_there = any(path.name.endswith(READABLE_FILE_ENDINGS) for path in folder.iterdir())
    return case_files(folder) if any_there else {}


def _label_maps(folder: Path, case_ids: Collection[str]) -> dict[str, Path]:
    return {case_id: path for case_id, path in _volumes(folder).items() if case_id in case_ids}


def _structure_masks(folder: Path, case_ids: Collection[str]) -> dict[str, dict[str, Path]]:
    """Case id → structure → mask, of the cases that are folders with volumes."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name in case_ids]
    return {path.name: found for path in folders if (found := _volumes(path))}


def _names_of_files(
    folder: Path, source_map: SourceMap, paths: Mapping[str, Path]
) -> tuple[dict[str, Mapping[int, str]], list[str]]:
    """Case id → what its label map's ids are called; and what is wrong.

    The user's word goes first, then the table in the file's own header, then a dataset.json in the folder or above.
    """
    tables = {case_id: table_in_header(path) for case_id, path in paths.items()}
    told = source_map.names
    if told is not None:
        wrong = [paths[case_id] for case_id, table in tables.items() if told and table and table.items() - told.items()]
        faults = [
            f"{path}: ids must be called as names in {source_map.where} says, got other names in the file's own "
            "header. Leave names out: the header is read."
            for path in wrong
        ]
        return dict.fromkeys(paths, told), faults
    default: Mapping[int, str] = {}
    if None in tables.values():
        found = next((path for path in (folder / DATASET_JSON, folder.parent / DATASET_JSON) if path.is_file()), None)
        default = {} if found is None else names_of_dataset(found)
        if found is not None:
            logger.info(f"{folder}: ids are called as {found} says")
    return {case_id: default if table is None else table for case_id, table in tables.items()}, []


def _named(source_map: SourceMap, tables: Collection[Mapping[int, str]], masks: Collection[str]) -> list[Named]:
    """All that a source may hold: ids with names, ids that the map alone names, structures with a file."""
    named = {item for table in tables for item in table.items()}
    with_names = {value for value, _ in named}
    alone = source_map.ids() - with_names - {0} if tables else set()
    pairs: Sequence[tuple[int, str | None]] = [*named, *((value, None) for value in alone)]
    rest = [_REST] if tables and any(rule.key == EVERYTHING and rule.name for rule in source_map.rules) else []
    in_order = sorted(pairs, key=lambda item: (item[0], str(item[1])))
    return [*in_order, *((None, name) for name in sorted(masks)), *rest]
