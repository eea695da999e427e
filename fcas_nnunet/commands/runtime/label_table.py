"""Determine the roles of labels and the matches between two data sets' labels, and log both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from fcas_nnunet.integration.dataset.description import REGIONS_REMEDY, ROLES
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles, Role, describe_roles, roles_of
from fcas_nnunet.labels.matching import Unmatched, compare_labels, labels_to_write

logger = logging.getLogger(__name__)


def settled_roles(dataset: RawDataset, configured: GivenRoles | None = None) -> GivenRoles:
    """Return the roles that a user gave a data set's labels: its `fcas_roles`, replaced by those of a configuration.

    Raises:
        ValueError: If the configuration names labels that the data set does not have.
    """
    unknown = sorted((configured or {}).keys() - dataset.labels.keys())
    if unknown:
        raise ValueError(
            f"roles: must name labels of {dataset.name}, {', '.join(dataset.labels)}, got {', '.join(unknown)}. "
            "Correct the configuration."
        )
    return {**dataset.roles, **(configured or {})}


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


def open_target(argument: str) -> RawDataset:
    """Open the data set of --for, of which labels and test scans are read; it may have an ignore label, no regions."""
    folder = resolve_dataset(argument, by="--for")
    regions = RawDataset.open(folder, any_kind=True).regions
    if regions:
        raise ValueError(
            f"--for: labels of {folder.name} must be plain ids, each with a name by which structures are matched, got "
            f"regions {', '.join(regions)}. Do so: {REGIONS_REMEDY}"
        )
    return RawDataset.open(folder, ignore_label=True)


def written_labels(
    source: RawDataset, real: RawDataset | None, unmatched: Unmatched
) -> tuple[Mapping[str, int], Mapping[int, int]]:
    """Return the labels of a synthetic data set: the source's, or those of the data set it is for; logs the matches.

    Returns:
        Label name → id, and id in the source → id.

    Raises:
        ValueError: If labels cannot be matched, or some of `real` lack a counterpart and `unmatched` refuses that.
    """
    if real is None:
        return source.labels, {label_id: label_id for label_id in source.labels.values()}
    labels, label_map = labels_to_write(source.labels, real.labels, unmatched)
    say_match(source, real, IGNORE if IGNORE in labels else BACKGROUND)
    return labels, label_map
