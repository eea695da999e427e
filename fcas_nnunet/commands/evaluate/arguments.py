"""The command line of fcas_evaluate, part by part."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.cli import Parser, count, finite, make_parser, not_negative, positive, processes
from fcas_nnunet.commands.train import add_generator_choice
from fcas_nnunet.config.options import ConfidenceChoice
from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT

_EXAMPLE = """
fcas_evaluate segmentations -r $nnUNet_raw/Dataset901_Heart/labelsTs -p predictions -o dice.json
fcas_evaluate compare -a real_only.json -b with_synthetic.json
fcas_evaluate images -r 901 -s 902 -o quality.json --csv quality.csv
fcas_evaluate fidelity -d 902 -m $nnUNet_results/Dataset901_Heart/nnUNetTrainer__nnUNetPlans__3d_fullres -o drawn.json
fcas_evaluate memorisation -d 902 --train 901 --held_out $nnUNet_raw/Dataset901_Heart/imagesTs -o copies.json
"""
_SEGMENTATIONS_EXAMPLE = """
fcas_evaluate segmentations -r $nnUNet_raw/Dataset901_Heart/labelsTs -p predictions -o dice.json
"""
_COMPARE_EXAMPLE = """
fcas_evaluate compare -a real_only.json -b with_synthetic.json
fcas_evaluate compare -a real_only.json -b with_synthetic.json --measure hd95_mm -o comparison.json
"""
_CONFIDENCE_EXAMPLE = """
fcas_evaluate confidence -d 901 --held_out 904 --preset cpu -o confidence.json --picture confidence.png
fcas_evaluate confidence -d 901 --fold 0 --preset cpu -o confidence.json    # fold 0's validation cases
"""
_IMAGES_EXAMPLE = """
fcas_evaluate images -r 901 -s 902 -o quality.json --csv quality.csv
fcas_evaluate images -r real_folder -s synthetic_folder --range -100 800
fcas_evaluate images -r 901 -s 902 --fid_weights RadImageNet-ResNet50_notop.pth --tsne map.png \\
    --network $nnUNet_results/Dataset901_Heart/nnUNetTrainer__nnUNetPlans__3d_fullres
"""
_FIDELITY_EXAMPLE = """
fcas_evaluate fidelity -d 902 -m $nnUNet_results/Dataset901_Heart/nnUNetTrainer__nnUNetPlans__3d_fullres -o drawn.json
fcas_evaluate fidelity -d 902 -m $nnUNet_results/Dataset901_Heart/nnUNetTrainer__nnUNetPlans__3d_fullres -f 0 \\
    --real_scores held_out.json -o drawn.json --csv drawn.csv
"""
_MEMORISATION_EXAMPLE = """
fcas_evaluate memorisation -d 902 --train 901 --held_out $nnUNet_raw/Dataset901_Heart/imagesTs -o copies.json
fcas_evaluate memorisation -d 902 --train 901 --held_out 903 --pictures copies \\
    -m $nnUNet_results/Dataset901_Heart/nnUNetTrainer__nnUNetPlans__3d_fullres -f 0
"""

_COMPARE = "compare"


def build_parser() -> argparse.ArgumentParser:
    """The command line of fcas_evaluate."""
    parser = make_parser("fcas_evaluate", "Score segmentations, or synthetic scans, case by case.", _EXAMPLE)
    parts = parser.add_subparsers(
        dest="what", required=True, metavar="{segmentations,compare,images,fidelity,memorisation,confidence}"
    )
    for add in (_add_segmentations, _add_compare, _add_images, _add_fidelity, _add_memorisation, _add_confidence):
        add(parts)
    return parser


def _add_segmentations(parts: Any) -> None:
    part = _add_part(
        parts,
        "segmentations",
        "Overlap (Dice, RDice), surfaces (HD95, surface Dice), topology and, for vessels, clDice, per label and case.",
        _SEGMENTATIONS_EXAMPLE,
    )
    part.add_argument("-r", required=True, type=Path, metavar="FOLDER", help="reference label maps")
    part.add_argument("-p", required=True, type=Path, metavar="FOLDER", help="predicted label maps")
    part.add_argument(
        "--labels",
        type=Path,
        metavar="dataset.json",
        help="where the labels' names stand (default: beside the predictions, or in the references' data set)",
    )
    part.add_argument(
        "--radii",
        type=positive,
        nargs="+",
        default=[1, 2, 3],
        metavar="N",
        help="RDice radii (voxels; default: 1 2 3)",
    )
    part.add_argument(
        "--tolerance_mm", type=not_negative, default=1.0, metavar="MM", help="tolerance of surface Dice (default: 1)"
    )
    part.add_argument("--overlap_only", action="store_true", help="Dice and RDice alone: quicker")
    part.idle("--tolerance_mm", beside="--overlap_only")


def _add_compare(parts: Any) -> None:
    part = _add_part(
        parts,
        _COMPARE,
        "Two results for the same references: paired differences with bootstrap intervals and Holm-corrected tests.",
        _COMPARE_EXAMPLE,
    )
    part.add_argument("-a", required=True, type=Path, metavar="A.json", help="written by segmentations -o")
    part.add_argument("-b", required=True, type=Path, metavar="B.json", help="the same for the other result")
    part.add_argument(
        "--measure", default="dice", help="what is compared: dice, rdice.1, hd95_mm, surface_dice, … (default: dice)"
    )


def _add_images(parts: Any) -> None:
    part = _add_part(
        parts,
        "images",
        "Synthetic scans and real ones: SSIM, RMSE and LPIPS under the same masks; FID and KID of the sets.",
        _IMAGES_EXAMPLE,
    )
    part.add_argument("-r", required=True, metavar="REAL", help="real data set (id, name, folder), or folder of scans")
    part.add_argument("-s", required=True, metavar="SYN", help="synthetic data set, or folder of scans, likewise")
    part.add_argument(
        "--range",
        type=finite,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="HU that become 0 and 1 (default: 0.5 and 99.5 %% of REAL's labelled voxels)",
    )
    _add_networks_of_images(part)


def _add_confidence(parts: Any) -> None:
    part = _add_part(
        parts,
        "confidence",
        "Does the confidence know where a drawn scan is wrong? Held-out patients' masks are drawn and compared with "
        "their real scans; controls that know nothing of the drawing stand beside.",
        _CONFIDENCE_EXAMPLE,
    )
    part.add_argument("-d", required=True, metavar="ID", help="data set the generator was trained on")
    add_generator_choice(part)
    part.add_argument(
        "--held_out",
        metavar="ID",
        help="data set of patients that the generator has not seen (default: with --fold, the fold's validation cases)",
    )
    part.add_argument("--cases", nargs="+", metavar="CASE", help="only these of them")
    part.add_argument("--draws", type=positive, default=2, metavar="N", help="templates and seeds for each case (2)")
    part.add_argument("--seed", type=int, default=0, help="seed of templates and noise (0)")
    part.add_argument(
        "--confidence", type=ConfidenceChoice, choices=list(ConfidenceChoice), default=ConfidenceChoice.OWN,
        help="the map that is judged, as in fcas_generate (default: own)",
    )  # fmt: skip
    part.add_argument(
        "--ensemble", type=count, default=4, metavar="N", help="control: spread over N seeds; 0 = without (4)"
    )
    part.add_argument(
        "--prior_cases",
        type=count,
        default=4,
        metavar="N",
        help="training cases behind the class prior; 0 = without (4)",
    )
    part.add_argument("--no_random_weights", action="store_true", help="leave out the control with random weights")
    part.add_argument("--picture", type=Path, metavar="FILE.png", help="best and worst case: scan, error, confidence")


def _add_fidelity(parts: Any) -> None:
    part = _add_part(
        parts,
        "fidelity",
        "Whether the generator drew what the masks ask for: a trained nnU-Net segments the synthetic scans, and is "
        "scored against the masks they were drawn from.",
        _FIDELITY_EXAMPLE,
    )
    part.add_argument("-d", required=True, metavar="SYN", help="synthetic data set: id, name or folder")
    part.add_argument(
        "-m", required=True, type=Path, metavar="FOLDER", help="trained nnU-Net: <trainer>__<plans>__<configuration>"
    )
    part.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds, averaged (default: all with the checkpoint, as nnU-Net does)"
    )
    _add_network_choice(part)
    part.add_argument(
        "--predictions",
        type=Path,
        metavar="FOLDER",
        help="keeps the predictions, so that a killed run resumes (default: fcas_predictions in the model's folder)",
    )
    part.add_argument(
        "--real_scores",
        type=Path,
        metavar="FILE.json",
        help="the same network on real scans, written by segmentations -o; training cases and others are told apart",
    )
    part.add_argument("--overlap_only", action="store_true", help="Dice and RDice alone: quicker")


def _add_memorisation(parts: Any) -> None:
    part = _add_part(
        parts,
        "memorisation",
        "Whether synthetic scans are copies of training scans: the nearest one of each, held against real scans' own "
        "distances; and how often it is the template.",
        _MEMORISATION_EXAMPLE,
    )
    part.add_argument("-d", required=True, metavar="SYN", help="synthetic data set: id, name or folder")
    part.add_argument(
        "--train", required=True, metavar="REAL", help="data set that the generator was trained on, likewise"
    )
    part.add_argument(
        "--held_out",
        metavar="REAL",
        help="real scans it was not trained on: a data set, or a folder imagesTs with labelsTs beside it "
        "(default: each training scan against the others)",
    )
    part.add_argument("-m", type=Path, metavar="FOLDER", help="trained nnU-Net, to compare scans by its features too")
    part.add_argument("-f", default="0", metavar="FOLD", help="its fold (default: 0)")
    _add_network_choice(part)
    part.add_argument(
        "--range",
        type=finite,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="HU that scans are clipped to (default: 0.5 and 99.5 %% of the training set's labelled voxels)",
    )
    part.add_argument("--pictures", type=Path, metavar="FOLDER", help="write a picture of every flagged case here")
    part.idle("-f", "-chk", without="-m")


def _add_network_choice(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "-chk",
        default=FINAL_CHECKPOINT,
        metavar="NAME",
        help=f"checkpoint in the fold's folder (default: {FINAL_CHECKPOINT})",
    )
    part.add_argument("-device", default="auto", choices=["auto", "cuda", "cpu", "mps"], help="(default: auto)")


def _add_networks_of_images(images: Parser) -> None:
    networks = images.add_argument_group(
        "networks", "Weights come from files that you name; nothing is downloaded, and what has no network is left out."
    )
    networks.add_argument(
        "--lpips_weights", type=Path, metavar="FILE", help="torchvision's (default: from $TORCH_HOME/hub/checkpoints)"
    )
    networks.add_argument(
        "--lpips_net", choices=["alex", "vgg", "squeeze"], help="LPIPS' trunk (default: alex, or what is there)"
    )
    networks.add_argument("--fid_weights", type=Path, metavar="FILE", help="ResNet-50 for FID 2.5D")
    networks.add_argument(
        "--fid_extractor",
        choices=["radimagenet_resnet50", "imagenet_resnet50"],
        help="whose weights these are (default: radimagenet_resnet50, MAISI's)",
    )
    networks.add_argument(
        "--fid_size", type=positive, default=512, metavar="N", help="voxels of 1 mm along each axis (default: 512)"
    )
    networks.add_argument(
        "--network",
        type=Path,
        metavar="FOLDER",
        help="trained nnU-Net, <trainer>__<plans>__<configuration>: FID and KID of its features",
    )
    networks.add_argument("--fold", default="0", metavar="F", help="fold of that network, or `all` (default: 0)")
    networks.add_argument(
        "--chk", default=FINAL_CHECKPOINT, metavar="NAME", help=f"its checkpoint (default: {FINAL_CHECKPOINT})"
    )
    networks.add_argument("--tsne", type=Path, metavar="FILE.png", help="draw the cases by that network's features")
    networks.add_argument("-device", default="auto", choices=["auto", "cuda", "cpu", "mps"], help="(default: auto)")
    images.idle("--fid_extractor", "--fid_size", without="--fid_weights")
    images.idle("--fold", "--chk", "--tsne", without="--network")


def _add_part(parts: Any, name: str, description: str, example: str) -> Parser:
    frame = make_parser(f"fcas_evaluate {name}", description, example)
    part: Parser = parts.add_parser(
        name, help=description, description=description, epilog=frame.epilog, formatter_class=frame.formatter_class
    )
    part.add_argument("-o", type=Path, metavar="FILE.json", help="write the whole result here (docs/evaluation.md)")
    part.add_argument("--csv", type=Path, metavar="FILE.csv", help="write the cases' scores here as a table")
    if name == _COMPARE:  # of two files; the others read volumes
        part.set_defaults(np=None)
        return part
    part.add_argument(
        "-np",
        type=processes,
        metavar="N",
        help="most processes (default: nnUNet_def_n_proc, or the cores); fewer run where memory is short",
    )
    return part
