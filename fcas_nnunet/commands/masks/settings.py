"""Settings of MGM on the command line of fcas_masks and fcas_generate."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from fcas_nnunet.case import Case
from fcas_nnunet.commands.cli import Parser, case_count, finite, of_flags, seed_number
from fcas_nnunet.config.generator import MaskConfig
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import known_file
from fcas_nnunet.integration.dataset.library import CaseLibrary
from fcas_nnunet.known_files import KnownFiles
from fcas_nnunet.labels.anatomy import LabelRoles

if TYPE_CHECKING:
    from fcas_nnunet.generator.plan import CasePlan

_BAR_FROM = 10

_RANGES = {
    "chamber_size_mm": ("--chamber_mm", "mm by which one chamber's border moves within the heart, such as -3 3"),
    "wall_thickness_mm": ("--wall_mm", "mm by which the myocardium grows inwards, such as -2 2"),
    "vessel_calibre": ("--calibre", "factor on the radius of thin vessels, such as 0.8 1.3"),
    "stenosis": ("--stenosis", "part of the radius that one stenosis takes, such as 0.3 0.7"),
}

#: Range of MGM's configuration → its flag.
MASK_FLAGS = {name: flag for name, (flag, _) in _RANGES.items()}


def add_mask_arguments(parser: Parser, count: int, of_what: str) -> None:
    """Add the arguments that select masks; -n counts `of_what`. Equal arguments give equal masks in every command."""
    parser.add_argument(
        "-n", type=case_count, default=count, metavar="N", help=f"number of {of_what} (default: {count})"
    )
    parser.add_argument(
        "--masks", type=ReferenceSource, choices=list(ReferenceSource), default=ReferenceSource.MGM,
        help="source of the masks: the data set's own, deformed ones, or both, each own mask once before deformed ones "
        "(default: mgm)",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed_number, default=0, help="seed of the whole set (default: 0)")
    group = parser.add_argument_group("local changes of new masks, off unless given")
    for name, (flag, meaning) in _RANGES.items():
        group.add_argument(flag, dest=name, type=finite, nargs=2, metavar=("LOW", "HIGH"), help=meaning)
    parser.idle(*MASK_FLAGS.values(), beside=f"--masks {ReferenceSource.GIVEN}")


def mask_config(args: argparse.Namespace, base: MaskConfig) -> MaskConfig:
    """Replace ranges of the configuration by those of flags; an InputError names the flags of those out of bounds."""
    return of_flags(base, MASK_FLAGS, args)


def narrowing(config: MaskConfig) -> str:
    """Return the advice for cases from which no mask can be made: the ranges to narrow."""
    flags = [flag for name, flag in MASK_FLAGS.items() if getattr(config, name) != getattr(MaskConfig(), name)]
    first = f"Narrow {', '.join(flags)}, or " if flags else "Narrow "
    return f"{first}the ranges under masks in a --config of your own, or leave these cases out."


def refuse_hopeless_ranges(
    config: MaskConfig,
    plans: Sequence[CasePlan],
    references: Sequence[str],
    load_mask: Callable[[str], Case],
    labels: Mapping[str, int],
    roles: LabelRoles,
) -> None:
    """Check that local changes can give masks that pass, before many are made in vain.

    The references of the first new mask are tried, as many as making it would try; one that passes is enough.

    Raises:
        InputError: If ranges can give no mask; each is named.
    """
    from fcas_nnunet.generator.mgm.local_changes import hopeless_ranges
    from fcas_nnunet.generator.substitutes import candidates_for

    names = {label: name for name, label in labels.items()}
    drawn = next((plan for plan in plans if plan.masks == ReferenceSource.MGM), None)
    faults: list[str] = []
    for name in candidates_for(drawn, references) if drawn and config.has_local_changes else ():
        case = load_mask(name)
        hopeless = hopeless_ranges(case.mask, config, case.spacing_mm, roles)
        if not hopeless:
            return
        low, high = config.volume_ratio_range
        faults = faults or [
            f"{MASK_FLAGS[each.setting]}: must leave every structure {low:g} to {high:g} of its volume "
            f"(masks.volume_ratio_range), got {' '.join(f'{bound:g}' for bound in getattr(config, each.setting))}: of "
            f"{name}, {each.mildest:g} leaves {names[each.label]} {each.ratio:.2f} of its own. Give values nearer to "
            f"{each.neutral:g}."
            for each in hopeless
        ]
    if faults:
        raise InputError("\n".join(faults))


def given_volumes(cases: CaseLibrary) -> dict[str, dict[int, float]]:
    """Case → label id → mL in the given mask of every reference and template; 0 where the label is missing."""
    from fcas_nnunet.generator.mgm.quality import label_volumes_ml

    ids = [label_id for label_id in cases.source.labels.values() if label_id]
    names = list(dict.fromkeys([*cases.references, *cases.templates]))

    def measured(missing: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
        for name in with_progress(missing):
            case = cases.load_mask(name)
            volumes = label_volumes_ml(case.mask, case.spacing_mm, ids)
            yield name, {str(label): ml for label, ml in volumes.items()}

    labels = {name: dataset.dataset_json["labels"] for name, dataset in cases.others.items()}
    known = KnownFiles(
        known_file(cases.source.name, "volumes"),
        {name: [cases.mask_path(name)] for name in names}, [cases.source.dataset_json["labels"], labels],
    )  # fmt: skip
    return {name: {int(label): ml for label, ml in of_case.items()} for name, of_case in known.ask(measured).items()}


def with_progress(case_ids: Sequence[str]) -> Iterable[str]:
    """Return the cases whose given masks are read, with a progress bar if they are many."""
    return tqdm(case_ids, desc="given masks", unit="mask", disable=len(case_ids) < _BAR_FROM)
