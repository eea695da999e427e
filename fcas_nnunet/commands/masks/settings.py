"""Settings of MGM on the command line: what fcas_masks and fcas_generate share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from fcas_nnunet.case import Case
from fcas_nnunet.commands.cli import MOST_CASES, Parser, finite, of_flags
from fcas_nnunet.config.generator import MaskConfig
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.integration.dataset.library import CaseLibrary
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.labels.anatomy import LabelRoles

if TYPE_CHECKING:
    from fcas_nnunet.evaluation.segmentation.diversity import MaskSample
    from fcas_nnunet.generator.plan import CasePlan

_BAR_FROM = 10

_RANGES = {
    "chamber_size_mm": ("--chamber_mm", "mm by which one chamber's border moves within the heart, say -3 3"),
    "wall_thickness_mm": ("--wall_mm", "mm by which the myocardium grows inwards, say -2 2"),
    "vessel_calibre": ("--calibre", "factor on the radius of thin vessels, say 0.8 1.3"),
    "stenosis": ("--stenosis", "part of the radius that one stenosis takes, say 0.3 0.7"),
}

#: Range of MGM's configuration → its flag.
MASK_FLAGS = {name: flag for name, (flag, _) in _RANGES.items()}


def add_plan_arguments(parser: argparse.ArgumentParser, count: int, of_what: str) -> None:
    """Which masks there shall be: how many, from where, and the seed; the same ones give the same masks everywhere.

    Args:
        parser: to add to.
        count: the default of -n.
        of_what: is counted, for the help.
    """
    parser.add_argument("-n", type=int, default=count, metavar="N", help=f"number of {of_what} (default: {count})")
    parser.add_argument(
        "--masks", type=ReferenceSource, choices=list(ReferenceSource), default=ReferenceSource.MGM,
        help="where the masks come from: the data set's own, deformed ones, or each own once and deformed ones then "
        "(default: mgm)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set (default: 0)")


def check_count(count: int) -> None:
    """Refuse a set of no masks, and one that nobody could store.

    Raises:
        ValueError: when it is below 1, or above `MOST_CASES`.
    """
    if not 1 <= count <= MOST_CASES:
        raise ValueError(f"-n: must be 1 to {MOST_CASES:,}, got {count}. Give another number.")


def add_mask_arguments(parser: Parser) -> None:
    """Local changes of MGM; each is off unless given. The parser has `add_plan_arguments` already."""
    group = parser.add_argument_group("local changes of new masks, off unless given")
    for name, (flag, meaning) in _RANGES.items():
        group.add_argument(flag, dest=name, type=finite, nargs=2, metavar=("LOW", "HIGH"), help=meaning)
    parser.idle(*MASK_FLAGS.values(), beside=f"--masks {ReferenceSource.GIVEN}")


def mask_config(args: argparse.Namespace, base: MaskConfig) -> MaskConfig:
    """The configuration with the ranges that were given.

    Raises:
        ValueError: when one is out of bounds.
    """
    given = {name: tuple(getattr(args, name)) for name in _RANGES if getattr(args, name) is not None}
    return of_flags(base, MASK_FLAGS, given)


def narrowing(config: MaskConfig) -> str:
    """What to do when no mask can be made: which ranges to narrow."""
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
    """See that local changes leave masks that can pass, before many are drawn in vain.

    The references of the first new mask are tried, as many as making it would try; one that may do is enough.

    Args:
        config: ranges.
        plans: of all masks.
        references: all of them.
        load_mask: reads a reference by its name.
        labels: label name → id.
        roles: of the labels.

    Raises:
        ValueError: naming each range that can give no mask.
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
        raise ValueError("\n".join(faults))


def given_samples(source: RawDataset) -> dict[str, MaskSample]:
    """case id → sample of the data set's own mask."""
    from fcas_nnunet.evaluation.segmentation.diversity import sample_mask

    ids = [label_id for label_id in source.labels.values() if label_id]
    samples = {}
    for case_id in _with_progress(source.case_ids):
        case = source.load_mask(case_id)
        samples[case_id] = sample_mask(case.mask, case.spacing_mm, ids)
    return samples


def given_volumes(cases: CaseLibrary) -> dict[str, dict[int, float]]:
    """Case → label id → mL, of the own mask of every reference and template; 0 where the label is missing."""
    from fcas_nnunet.generator.mgm.quality import label_volumes_ml

    ids = [label_id for label_id in cases.source.labels.values() if label_id]
    names = list(dict.fromkeys([*cases.references, *cases.templates]))
    masks = ((name, cases.load_mask(name)) for name in _with_progress(names))
    return {name: label_volumes_ml(case.mask, case.spacing_mm, ids) for name, case in masks}


def sampled_volumes(source: RawDataset, given: Mapping[str, MaskSample]) -> list[dict[int, float]]:
    """`given_volumes`, of masks that are sampled already."""
    ids = [label_id for label_id in source.labels.values() if label_id]
    return [dict(zip(ids, sample.volumes_ml, strict=True)) for sample in given.values()]


def _with_progress(case_ids: Sequence[str]) -> Iterable[str]:
    return tqdm(case_ids, desc="given masks", unit="mask", disable=len(case_ids) < _BAR_FROM)
