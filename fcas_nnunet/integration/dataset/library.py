"""The cases that synthetic ones are made from: those of a data set, and those of other data sets under its labels.

A case of another data set is written `DatasetNNN_Name:case_id`, a case of the data set itself as its id alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fcas_nnunet.case import Case
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.checks import dataset_faults
from fcas_nnunet.integration.dataset.description import same_description
from fcas_nnunet.integration.dataset.folders import is_identifier, resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.labels.matching import compare_labels, id_table, match_labels
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

_SEPARATOR = ":"


@dataclass(frozen=True)
class CaseLibrary:
    """References and templates of a synthetic data set."""

    source: RawDataset  # the generator's data set; its labels and surroundings are those of every case
    references: list[str]  # names of the cases whose masks are drawn
    templates: list[str]  # names of the cases that guide the drawing
    others: Mapping[str, RawDataset] = field(default_factory=dict)  # data sets besides the source, by name
    named_references: tuple[str, ...] | None = None  # entries of --references with full names; None = not given
    named_templates: tuple[str, ...] | None = None  # entries of --templates with full names; None = not given

    def named_datasets(self) -> list[RawDataset]:
        """Return the data sets of all references and templates, each with the named cases alone."""
        named = [*(self.references if self.named_references else ()), *(self.templates if self.named_templates else ())]
        cases: dict[str, list[str]] = {}
        for name in dict.fromkeys(named):
            dataset_name, case_id = split_name(name, self.source.name)
            cases.setdefault(dataset_name, []).append(case_id)
        return [self.others.get(name, self.source).only(case_ids) for name, case_ids in cases.items()]

    def label_faults(self, *, draws_surroundings: bool) -> list[str]:
        """List the reasons why cases of other data sets cannot be references or templates; a sentence each.

        With `draws_surroundings`, not only templates but also references need surroundings.
        """
        needy = [*self.templates, *(self.references if draws_surroundings else ())]
        faults = []
        for name, dataset in self.others.items():
            if not same_description("channel_names", dataset.channel_names, self.source.channel_names):
                faults.append(
                    f"{name}: channel_names must be those of {self.source.name}, {self.source.channel_names}, got "
                    f"{dataset.channel_names}. Name cases of the same channels."
                )
            try:
                match_labels(dataset.labels, self.source.labels)
            except InputError as error:
                faults.append(f"{name}: {error}")
            lacking = sorted(set(self.source.surroundings) - set(dataset.surroundings))
            if lacking and any(self.dataset_and_id(case)[0] is dataset for case in needy):
                faults.append(
                    f"{name}: surroundings must be those that the generator knows, got none for {listed(lacking)}. "
                    "Add them to surroundingsTr, or name cases of another data set."
                )
        return faults

    def dataset_and_id(self, name: str) -> tuple[RawDataset, str]:
        """Return the data set of a case, and its id there."""
        dataset_name, case_id = split_name(name, self.source.name)
        return self.others.get(dataset_name, self.source), case_id

    def load_case(self, name: str) -> Case:
        """Read a case with image and surroundings, under the source's ids."""
        dataset, case_id = self.dataset_and_id(name)
        return self._relabelled(dataset, dataset.load_case(case_id))

    def load_mask(self, name: str) -> Case:
        """Read a mask alone, and the surroundings where present, under the source's ids."""
        dataset, case_id = self.dataset_and_id(name)
        return self._relabelled(dataset, dataset.load_mask(case_id))

    def image_paths(self, name: str) -> list[Path]:
        """Return the paths of the channels of a case's scan."""
        dataset, case_id = self.dataset_and_id(name)
        return dataset.image_paths(case_id)

    def mask_path(self, name: str) -> Path:
        """Return the path of a case's label map."""
        dataset, case_id = self.dataset_and_id(name)
        return dataset.mask_path(case_id)

    def _relabelled(self, dataset: RawDataset, case: Case) -> Case:
        if dataset is self.source:
            return case
        mask = id_table(match_labels(dataset.labels, self.source.labels))[case.mask]
        surroundings, wanted = case.surroundings, self.source.surroundings
        if surroundings is not None:
            known = {own: wanted[name] for name, own in dataset.surroundings.items() if name in wanted}
            surroundings = id_table(known)[surroundings] if wanted else None
        return replace(case, mask=mask, surroundings=surroundings)


def split_name(name: str, source: str) -> tuple[str, str]:
    """Split a case's name, as a manifest's `reference` and `template` give it, into data set and id.

    ("Dataset903_Other:case_a", …) → ("Dataset903_Other", "case_a"); ("case_a", source) → (source, "case_a").
    """
    dataset, separator, case_id = name.rpartition(_SEPARATOR)
    return (dataset, case_id) if separator else (source, name)


def name_in(name: str, dataset: str) -> str:
    """Return a case's name within a data set: a case of the data set itself is named by its id alone."""
    return name.removeprefix(f"{dataset}{_SEPARATOR}")


def make_library(
    source: RawDataset, references: Sequence[str] | None, templates: Sequence[str] | None, own_templates: Sequence[str]
) -> CaseLibrary:
    """Collect the cases that a command line names.

    Args:
        source: the generator's data set, with the cases of its fold alone if it has one.
        references: entries of --references: `ID`, `ID:case,case` or a text file of such lines; None = the source.
        templates: entries of --templates; None = `own_templates`.
        own_templates: ids in the source of the cases that the generator was trained on.

    Raises:
        MissingFileError: when there is no such data set.
        InputError: when a data set lacks a case; every one listed.
    """
    opened = {source.name: source}
    faults: list[str] = []
    named_references, named_templates = (
        None if entries is None else _named_entries(entries, opened, by)
        for by, entries in (("--references", references), ("--templates", templates))
    )
    library = CaseLibrary(
        source,
        source.case_ids if named_references is None else _cases(named_references, source, opened, faults),
        list(own_templates) if named_templates is None else _cases(named_templates, source, opened, faults),
        {name: dataset for name, dataset in opened.items() if name != source.name},
        named_references,
        named_templates,
    )
    if faults:
        raise InputError("\n".join(faults))
    return library


def check_library(library: CaseLibrary, *, draws_surroundings: bool, min_cases: int = 2) -> None:
    """Read every case of the source and every named case of other data sets, and refuse broken ones.

    Logs how labels of other data sets are matched, and which structures they lack.

    Args:
        library: the cases.
        draws_surroundings: require surroundings of references as well, not only of templates.
        min_cases: that the source must have.

    Raises:
        InputError: listing all faults, one a line.
    """
    faults = [
        *dataset_faults(library.source, min_cases=min_cases),
        *library.label_faults(draws_surroundings=draws_surroundings),
    ]
    for dataset in library.named_datasets():
        known = library.source.case_ids if dataset.folder == library.source.folder else ()
        if rest := sorted(set(dataset.case_ids) - set(known)):
            faults += dataset_faults(dataset.only(rest))
    if faults:
        raise InputError("\n".join(faults))
    for name, dataset in library.others.items():
        lines = compare_labels(dataset.labels, library.source.labels).describe()
        if lines:
            logger.info("\n".join([f"labels of {name} as those of {library.source.name}:", *lines]))


def _named_entries(entries: Sequence[str], opened: dict[str, RawDataset], by: str) -> tuple[str, ...]:
    """Replace text files by their entries and ids by full names; the data sets are opened into `opened`."""
    named, lines = [], _lines(entries)
    if not lines:
        raise InputError(
            f"{listed(entries)}: list must name at least one data set or case, got none. Fill it, or leave out the "
            "option."
        )
    for line in lines:
        identifier, separator, cases = line.partition(_SEPARATOR)
        folder = resolve_dataset(identifier, by=by, also="text file")
        if folder.name not in opened:
            opened[folder.name] = RawDataset.open(folder)
        named.append(f"{folder.name}{separator}{cases}")
    return tuple(named)


def _cases(
    entries: Sequence[str], source: RawDataset, opened: Mapping[str, RawDataset], faults: list[str]
) -> list[str]:
    """Return the names of the cases that entries stand for, each once; missing ones are added to `faults`."""
    names: list[str] = []
    for entry in entries:
        dataset_name, separator, of_entry = entry.partition(_SEPARATOR)
        own = dataset_name == source.name
        dataset = RawDataset.open(source.folder) if own else opened[dataset_name]  # the source with all its cases
        named = [case_id for word in of_entry.split(",") if (case_id := word.strip())]
        case_ids = named if separator else dataset.case_ids
        missing = sorted(set(case_ids) - set(dataset.case_ids))
        if missing or not case_ids:
            faults.append(
                f"{entry}: cases must be in {dataset_name}, got {listed(missing) or 'none'}. "
                f"Name some of its {len(dataset.case_ids)}."
            )
        names += [case_id if own else f"{dataset_name}{_SEPARATOR}{case_id}" for case_id in case_ids]
    return list(dict.fromkeys(names))


def _lines(entries: Sequence[str]) -> list[str]:
    """Replace text files by their entries; `#` begins a comment."""
    lines = []
    for entry in entries:
        path = Path(entry)
        is_list = path.is_file() and not is_identifier(entry.partition(_SEPARATOR)[0])
        text = path.read_text(encoding="utf-8") if is_list else entry
        lines += [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
    return lines
