"""Determine the roles of labels and the matches between two data sets' labels, and log both."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.description import NAMES, NAMES_REMEDY, ROLES
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles, Role, describe_roles, roles_of
from fcas_nnunet.labels.matching import Unmatched, compare_labels, labels_to_write
from fcas_nnunet.labels.regions import Entries, ids_of, roles_of_regions
from fcas_nnunet.listing import MOST_NAMES, listed

logger = logging.getLogger(__name__)

#: Keys of `dataset.json` that belong to its labels.
OF_LABELS = ("regions_class_order", NAMES)


def settled_roles(dataset: RawDataset, configured: GivenRoles | None = None) -> GivenRoles:
    """Return the roles that a user gave a data set's labels: its `fcas_roles`, replaced by those of a configuration.

    Roles of a region are those of all its ids.

    Raises:
        InputError: If the configuration names labels that the data set does not have.
    """
    configured = configured or {}
    known = [*dataset.labels, *dataset.regions]
    unknown = sorted(configured.keys() - set(known))
    if unknown:
        raise InputError(
            f"roles: must name labels of {dataset.name}, {listed(known, MOST_NAMES)}, got {listed(unknown)}. "
            "Correct the configuration."
        )
    return {**dataset.roles, **roles_of_regions(configured, dataset.dataset_json["labels"], dataset.labels)}


def role_lines(labels: Mapping[str, int], roles: GivenRoles) -> list[str]:
    """Describe each label's roles in a line, with advice on labels without one."""
    lines = describe_roles(labels, roles)
    if any(label_id and name not in roles and not roles_of(name) for name, label_id in labels.items()):
        lines.append(f'  ("{ROLES}" in dataset.json, or roles in a configuration, gives a label its roles)')
    return lines


def say_roles(name: str, labels: Mapping[str, int], roles: GivenRoles) -> None:
    """Log the roles of a data set's labels."""
    logger.info("\n".join([f"roles of the labels of {name}:", *role_lines(labels, roles)]))


def roles_to_json(roles: GivenRoles) -> dict[str, list[str]] | None:
    """Convert roles to JSON; None if there are none."""
    return {name: [str(role) for role in given] for name, given in roles.items()} or None


def say_match(source: RawDataset, target: RawDataset, rest: str = BACKGROUND) -> None:
    """Log which labels of `source` become which of `target`, where the names differ; the others become `rest`."""
    lines = compare_labels(source.labels, target.labels).describe(rest)
    if lines:
        logger.info("\n".join([f"labels of {target.name} <- {source.name}:", *lines]))


def roles_from_json(content: Mapping[str, Sequence[str]] | None) -> GivenRoles:
    """Convert the result of `roles_to_json` back to roles."""
    return {name: tuple(map(Role, given)) for name, given in (content or {}).items()}


@dataclass(frozen=True)
class WrittenLabels:
    """The labels of a synthetic data set.

    Attributes:
        entries: `labels` of its `dataset.json`: name → id, or ids of a region.
        becomes: Label id of the source → id to write.
        ignore_id: Id of the voxels that references ignore; None if their data sets have no ignore label.
        more: Further entries of `dataset.json` that describe the labels.
    """

    entries: Entries
    becomes: Mapping[int, int]
    ignore_id: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def ignoring(self, references: Iterable[RawDataset]) -> WrittenLabels:
        """Add the ignore label if a data set of the references has one."""
        if all(dataset.ignore_id is None for dataset in references):
            return self
        ids = [i for name, entry in self.entries.items() if name != IGNORE for i in ids_of(entry)]
        return replace(self, entries={**self.entries, IGNORE: max(ids) + 1}, ignore_id=max(ids) + 1)

    def to_record(self) -> dict[str, int]:
        """JSON-able form for the manifest: which id each id of the source has become, and the ignored voxels."""
        record = {str(key): value for key, value in self.becomes.items()}
        return record if self.ignore_id is None else {**record, IGNORE: self.ignore_id}


def written_labels(source: RawDataset, real: RawDataset | None, unmatched: Unmatched) -> WrittenLabels:
    """Return the labels of a synthetic data set: the source's, or those of the data set it is for; logs the matches.

    Raises:
        InputError: If labels cannot be matched, or some of `real` lack a counterpart and `unmatched` refuses that.
    """
    described = source if real is None else real
    more = {key: described.dataset_json[key] for key in OF_LABELS if key in described.dataset_json}
    if real is None:
        return WrittenLabels(source.dataset_json["labels"], {i: i for i in source.labels.values()}, more=more)
    try:
        labels, becomes = labels_to_write(source.labels, real.labels, unmatched)
    except InputError as error:
        advice = "".join(f" {each.name} has regions: {NAMES_REMEDY}" for each in (source, real) if each.regions)
        raise InputError(f"{error}{advice}") from error
    say_match(source, real, IGNORE if IGNORE in labels else BACKGROUND)
    entries = {name: entry for name, entry in real.dataset_json["labels"].items() if name != IGNORE}
    needed = {name: i for name, i in labels.items() if name == IGNORE}
    return WrittenLabels({**entries, **needed}, becomes, more=more)
