"""fcas_confidence: weigh a finished synthetic data set by how well a segmenter of real scans agrees with its labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fcas_nnunet.commands.cli import Parser, command, make_parser, number, processes
from fcas_nnunet.commands.confidence.rules import Combination, Rule, Weighing
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT

_EXAMPLE = """
fcas_confidence -d 902 --network $nnUNet_results/Dataset901_Heart/nnUNetTrainer__nnUNetPlans__3d_fullres
fcas_confidence -d 902 --network MODEL_FOLDER --rule freemask --combine product
fcas_confidence -d 902 --network MODEL_FOLDER --drop-below 0.5      # the worst cases count for nothing
fcas_confidence -d 902 --restore                                    # the maps that it was generated with
"""


def build_parser() -> Parser:
    """Make the parser of fcas_confidence."""
    parser = make_parser(
        "fcas_confidence",
        "Rewrite the confidence maps of a finished synthetic data set: a trained nnU-Net says how probable the label "
        "of each voxel is. Each case is judged by folds that have not learnt from its reference, nor, where there are "
        "such, from its template. The maps that the set was generated with are kept. Interrupted, the same command "
        "resumes; other settings need no new prediction.",
        _EXAMPLE,
    )
    parser.add_argument("-d", required=True, metavar="SYN", help="synthetic data set: id, DatasetXXX_Name or folder")
    parser.add_argument("--restore", action="store_true", help="put back the maps that the set was generated with")
    add_judge_arguments(parser, parser, "trained nnU-Net that judges, with several folds")
    parser.add_argument("-np", type=processes, metavar="P", help="processes (default: one per core)")
    parser.add_argument("-device", default="auto", choices=["auto", "cuda", "cpu", "mps"], help="(default: auto)")
    parser.idle("--network", beside="--restore")
    return parser


def add_judge_arguments(parser: Parser, group: argparse._ActionsContainer, role: str) -> None:
    """Add the arguments of the network and of the rule to a group of a parser; `role` says what the network does."""
    usual = Weighing()
    group.add_argument(
        "--network", type=Path, metavar="DIR", help=f"{role}: nnU-Net's folder <trainer>__<plans>__<configuration>"
    )
    group.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds that may judge (default: all numbered ones that were trained)"
    )
    group.add_argument(
        "-chk", default=FINAL_CHECKPOINT, metavar="NAME", help=f"checkpoint of each fold (default: {FINAL_CHECKPOINT})"
    )
    group.add_argument(
        "--both", action="store_true",
        help="judge only by folds that have learnt from neither reference nor template; refuse cases without such",
    )  # fmt: skip
    group.add_argument(
        "--rule", type=Rule, choices=list(Rule), default=usual.rule,
        help="soft: the probability itself; freemask: 0 where the loss exceeds --alpha times the mean over the label's "
        f"voxels in the whole set, else 1 (default: {usual.rule})",
    )  # fmt: skip
    group.add_argument(
        "--power", type=number(0, 100), default=usual.power, metavar="P",
        help=f"soft: raise the probability to this power (default: {usual.power:g})",
    )  # fmt: skip
    group.add_argument(
        "--alpha", type=number(0, 1000), default=usual.alpha, metavar="A", help=f"freemask (default: {usual.alpha:g})"
    )
    parser.idle("--power", beside=f"--rule {Rule.FREEMASK}")
    parser.idle("--alpha", beside=f"--rule {Rule.SOFT}")
    group.add_argument(
        "--combine", dest="combination", type=Combination, choices=list(Combination), default=usual.combination,
        help="replace the generated map, or multiply by it; either way 0 stays 0 where a scan that was not drawn has "
        f"voxels from beyond the real one (default: {usual.combination})",
    )  # fmt: skip
    group.add_argument(
        "--drop-below", type=number(0, 1), metavar="T",
        help="confidence 0 everywhere in cases whose labels' mean probability inside the structures is lower",
    )  # fmt: skip
    group.add_argument(
        "--probabilities", type=Path, metavar="DIR",
        help="keep the predictions there (default: fcas_probabilities in the network's folder)",
    )  # fmt: skip
    judging = ("-f", "-chk", "--both", "--rule", "--power", "--alpha", "--combine", "--drop-below", "--probabilities")
    parser.idle(*judging, without="--network")


def weighing_of(args: argparse.Namespace) -> Weighing:
    """Return the settings of the maps."""
    return Weighing(args.rule, args.power, args.alpha, args.combination, args.drop_below)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_confidence."""
    args = build_parser().parse_args(argv)
    if args.network is None and not args.restore:
        raise InputError(
            "--network: the folder of a trained nnU-Net must be given, got nothing. Give it, or --restore to put the "
            "generated maps back."
        )
    work = import_module("fcas_nnunet.commands.confidence.run")  # not before: --help and refusals stay quick
    print(work.restore(args) if args.restore else work.run(args))
    print("next: fcas_prepare, again where the set was prepared before")


if __name__ == "__main__":
    main()
