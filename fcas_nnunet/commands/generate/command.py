"""fcas_generate: write a synthetic nnU-Net data set with confidence maps."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from fcas_nnunet.commands.cli import Parser, command, make_parser, processes, share
from fcas_nnunet.commands.confidence.command import add_judge_arguments
from fcas_nnunet.commands.generate.redraw import HARD, REDRAW, check_redraw_arguments
from fcas_nnunet.commands.generate.sampling_settings import add_sampling_arguments, confidence_config
from fcas_nnunet.commands.generate.sources import add_source_arguments, shares_of
from fcas_nnunet.commands.masks.settings import add_mask_arguments
from fcas_nnunet.commands.runtime.label_table import WrittenLabels, settled_roles, written_labels
from fcas_nnunet.commands.runtime.presets import ON_CPU, generator_config, named_config
from fcas_nnunet.commands.runtime.shares import Share, share_of
from fcas_nnunet.commands.train import add_generator_arguments, model_folder
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.config.presets import preset
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.description import same_description
from fcas_nnunet.integration.dataset.folders import new_dataset_folder, resolve_dataset
from fcas_nnunet.integration.dataset.library import CaseLibrary, check_library, make_library
from fcas_nnunet.integration.dataset.ownership import GENERATE, refuse_foreign_cases
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import training_fold
from fcas_nnunet.labels.matching import Unmatched

REPLAY = "--replay"

EXAMPLE = """
fcas_generate -d 901 -o 902 -n 40
fcas_generate -d 901 --fold 0 -n 400       # fold 0's validation cases stay unseen: fine-tune fold 0 on it
fcas_generate -d Dataset901_Heart -n 400 --masks both --seed 1
fcas_generate -d 901 -o 903 --for 900      # labels under the ids and names of data set 900
fcas_generate -d 901 -o 904 --references 905 --templates 906:case_a,case_b   # masks and templates of other cases
fcas_generate -d 901 -o 908 --source warped        # real scans deformed with their masks; needs no generator
fcas_generate -d 901 -o 910 --source registered          # other patients' scans on new masks, without training
fcas_generate -d 901 -o 909 --source mixed --shares drawn=2 warped=1 painted=1   # half of them drawn
fcas_generate -d 901 -o 911 --source warped --network MODEL_FOLDER   # confidence from a segmenter, by folds
fcas_generate -d 901 -o 912 --network MODEL_FOLDER --redraw-below 0.6 --hard 0.25   # and cases that follow from it
fcas_generate --replay 902 -o 907 fcas_00007      # that case again, from its line in 902's manifest
fcas_generate -d 901 -o 902 -n 10000 --part 2/4   # the second of four workers, here or on another machine
torchrun --nproc_per_node 4 -m fcas_nnunet.commands.generate.command -d 901 -o 902 -n 10000   # four GPUs
"""


def build_parser() -> Parser:
    """Make the parser of fcas_generate."""
    parser = make_parser(
        "fcas_generate",
        "Write a synthetic nnU-Net data set with voxel-wise confidence. Trains the generator first when there is none "
        "and scans are to be drawn. "
        "Interrupted, the same command resumes.",
        EXAMPLE,
    )
    parser.add_argument(
        REPLAY, metavar="MANIFEST",
        help=f"make cases again from their manifest lines, without -d and the rest: see fcas_generate {REPLAY} --help",
    )  # fmt: skip
    parser.add_argument("-d", metavar="ID", required=True, help="labelled data set: an id or DatasetXXX_Name")
    parser.add_argument(
        "-o", metavar="ID",
        help="data set to write (default: the one begun for -d, named after it + FCaS; else the next free id)",
    )  # fmt: skip
    parser.add_argument("--for", dest="real", metavar="ID", help="write labels under this data set's ids and names")
    parser.add_argument(
        "--unmatched", type=Unmatched, choices=list(Unmatched), default=Unmatched.REFUSE,
        help="where --for has labels that no label of -d stands for: refuse; ignore: write what they may be part of as "
        "nnU-Net's ignore label; background: pretrain as if they were not there (default: refuse)",
    )  # fmt: skip
    parser.idle("--unmatched", without="--for")
    parser.add_argument(
        "--references", nargs="+", metavar="ID[:CASE,...]",
        help="draw the masks of these cases, not -d's: data sets, single cases of them, or a text file with one such "
        "entry a line; labels are matched by structure",
    )  # fmt: skip
    parser.add_argument(
        "--templates", nargs="+", metavar="ID[:CASE,...]",
        help="guide the drawing by these cases, or register their scans; named as for --references (default: the "
        "generator's training cases, or all of -d)",
    )  # fmt: skip
    add_mask_arguments(parser, 40, "synthetic cases")
    add_generator_arguments(parser)
    parser.add_argument(
        "-np", type=processes, metavar="P",
        help="processes, one CPU thread each (default: one per core, if memory allows, a GPU's too). The result does "
        "not depend on it",
    )  # fmt: skip
    parser.add_argument(
        "--part", metavar="K/N",
        help="make the K-th of N parts of the set (default: as torchrun, srun or a SLURM array say, else all of it). "
        "The parts can run at the same time or one after the other; the last to end finishes the data set",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and what disk and time it needs, and stop"
    )
    parser.add_argument("--ignore_disk", action="store_true", help="start though the disk may not hold all cases")
    add_sampling_arguments(parser)
    add_source_arguments(parser)
    judging = parser.add_argument_group("judging the labels", "when the set is finished, as fcas_confidence does")
    add_judge_arguments(parser, judging, "rewrite the confidence maps by a trained nnU-Net")
    _add_redraw_arguments(parser, judging)
    return parser


def _add_redraw_arguments(parser: Parser, group: argparse._ActionsContainer) -> None:
    """Add what follows from a judgement to the group of the judge's arguments."""
    group.add_argument(
        REDRAW, type=share, metavar="T",
        help="make cases again, up to twice and from another seed, whose labels' mean probability inside the "
        "structures is lower",
    )  # fmt: skip
    group.add_argument(
        HARD, type=share, metavar="S",
        help="make the last cases, this share of -n, when the others were judged, from references whose labels were "
        "hard to find: a reference's chance is its cases' mean improbability",
    )  # fmt: skip
    for flag in (REDRAW, HARD):
        parser.idle(flag, without="--network")


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_generate."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The modules that do the work are imported after the parser and its checks, so that --help and refusals are quick.
    if any(word.split("=")[0] == REPLAY for word in arguments):
        import_module("fcas_nnunet.commands.generate.replay").run(arguments)
    else:
        request = _requested(build_parser().parse_args(arguments))
        import_module("fcas_nnunet.commands.generate.run").run(request)


@dataclass(frozen=True)
class Request:
    """The parsed command line, with its data sets opened and checked."""

    args: argparse.Namespace
    share: Share
    config: FCaSConfig
    source: RawDataset
    real: RawDataset | None
    output: Path
    model: Path  # folder of the generator
    labels: WrittenLabels  # of the data set to write
    library: CaseLibrary  # an existing generator may replace its templates; none where no scan is drawn
    shares: Mapping[ScanSource, float]  # of the scans' sources, each above 0

    @property
    def draws(self) -> bool:
        """Whether scans are drawn, so that a generator is needed."""
        return ScanSource.DRAWN in self.shares


def _requested(args: argparse.Namespace) -> Request:
    """Open what the command line names; an InputError lists what does not fit, or must not be written into."""
    part, shares = share_of(args.part, os.environ), shares_of(args)
    check_redraw_arguments(args, part)
    draws, has_templates = ScanSource.DRAWN in shares, any(scan.has_template for scan in shares)
    config = named_config(args) or preset(ON_CPU)
    confidence_config(config.confidence, args)  # raises if the flags are wrong
    source = training_fold(RawDataset.open(resolve_dataset(args.d, by="-d")), args.fold)
    real = RawDataset.open(resolve_dataset(args.real, by="--for")) if args.real else None
    if real and not same_description("channel_names", real.channel_names, source.channel_names):
        raise InputError(
            f"--for: channel_names of {real.name} must be those of {source.name}, {source.channel_names}, whose scans "
            f"are imitated, got {real.channel_names}. Name a data set of the same modality."
        )
    default_name = f"{source.name.split('_', 1)[1]}FCaS" + ("" if args.fold is None else f"Fold{args.fold}")
    output = new_dataset_folder(args.o, default_name=default_name, by="-o")
    if output in (source.folder, real and real.folder):
        raise InputError(
            f"-o: must be another data set than -d and --for, got {output.name}. "
            "Give another id, or none for a free one."
        )
    refuse_foreign_cases(output, GENERATE)
    if draws:
        config = generator_config(args, source, output)
    labels = written_labels(source, real, args.unmatched)
    settled_roles(source, config.roles)  # raises if they are wrong
    library = make_library(source, args.references, args.templates, source.case_ids if has_templates else [])
    if output.name in library.others:
        raise InputError(
            f"-o: must be another data set than --references and --templates, got {output.name}. Give another id."
        )
    labels = labels.ignoring(library.dataset_and_id(name)[0] for name in library.references)
    needs_surroundings = draws and config.tcdm.pairs.reference_surroundings
    check_library(library, draws_surroundings=needs_surroundings, min_cases=2 if has_templates else 1)
    model = model_folder(source, config, args.fold)
    return Request(args, part, config, source, real, output, model, labels, library, shares)


if __name__ == "__main__":
    main()
