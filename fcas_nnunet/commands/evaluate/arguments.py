"""Define the command line of fcas_evaluate, part by part."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.cli import (
    Parser,
    add_channel_argument,
    finite,
    make_parser,
    not_negative,
    processes,
    repeats,
    seed_number,
    voxels,
    whole_number,
)
from fcas_nnunet.commands.train import add_generator_choice
from fcas_nnunet.config.options import ConfidenceChoice
from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT

#: Keywords of options that several parts share.
_FOLDER: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
_FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
_PICTURE: dict[str, Any] = {"type": Path, "metavar": "FILE.png"}
_RANGE: dict[str, Any] = {"type": finite, "nargs": 2, "metavar": ("LOW", "HIGH")}


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of fcas_evaluate."""
    example = "\n".join(example.partition("\n")[0] for _, _, example in _PARTS.values())
    parser = make_parser(
        "fcas_evaluate",
        "Score segmentations, or synthetic scans, case by case. Interrupted, the same command with the same -o (or "
        "--csv) computes only the cases that are left; without either, it begins anew.",
        example,
    )
    parts = parser.add_subparsers(dest="what", required=True, metavar=f"{{{','.join(_PARTS)}}}")
    for name, (add_options, description, example) in _PARTS.items():
        frame = make_parser(f"fcas_evaluate {name}", description, example)
        part: Parser = parts.add_parser(
            name, help=description, description=description, epilog=frame.epilog, formatter_class=frame.formatter_class
        )
        part.add_argument(
            "-o",
            type=Path,
            metavar="FILE.json",
            help="write the whole result here (docs/evaluation.md)",
        )
        part.add_argument("--csv", type=Path, metavar="FILE.csv", help="write the cases' scores here as a table")
        if name != "compare":  # compare reads no volumes
            part.add_argument(
                "-np", type=processes, metavar="N",
                help="most processes (default: nnUNet_def_n_proc, or the cores); fewer run where memory is short",
            )  # fmt: skip
        add_options(part)
    return parser


def _add_segmentations(part: Parser) -> None:
    part.add_argument("-r", required=True, help="reference label maps", **_FOLDER)
    part.add_argument("-p", required=True, help="predicted label maps", **_FOLDER)
    part.add_argument(
        "--labels", type=Path, metavar="dataset.json",
        help="file that names the labels (default: beside the predictions, or in the references' data set)",
    )  # fmt: skip
    part.add_argument(
        "--radii", type=voxels, nargs="+", default=[1, 2, 3], metavar="N", help="RDice radii (voxels; default: 1 2 3)"
    )
    part.add_argument(
        "--tolerance_mm", type=not_negative, default=1.0, metavar="MM", help="tolerance of surface Dice (default: 1)"
    )
    part.add_argument("--overlap_only", action="store_true", help="Dice and RDice alone: quicker")
    part.idle("--tolerance_mm", beside="--overlap_only")


def _add_compare(part: Parser) -> None:
    part.add_argument("-a", required=True, type=Path, metavar="A.json", help="written by segmentations -o")
    part.add_argument("-b", required=True, type=Path, metavar="B.json", help="the same for the other result")
    part.add_argument(
        "--measure", default="dice", help="what is compared: dice, rdice.1, hd95_mm, surface_dice, … (default: dice)"
    )


def _add_images(part: Parser) -> None:
    part.add_argument("-r", required=True, metavar="REAL", help="real data set (id, name, folder), or folder of scans")
    part.add_argument(
        "-s", required=True, metavar="SYN", help="synthetic data set (id, name, folder), or folder of scans"
    )
    add_channel_argument(part)
    part.add_argument(
        "--range", help="values that become 0 and 1 (default: 0.5 and 99.5 %% of REAL's labelled voxels)", **_RANGE
    )
    group = part.add_argument_group(
        "networks", "Weights come from files that you name; nothing is downloaded, and what has no network is left out."
    )
    group.add_argument("--lpips_weights", help="torchvision's (default: from $TORCH_HOME/hub/checkpoints)", **_FILE)
    group.add_argument(
        "--lpips_net", choices=["alex", "vgg", "squeeze"], help="LPIPS' trunk (default: alex, or one with weights)"
    )
    group.add_argument("--fid_weights", help="ResNet-50 for FID 2.5D", **_FILE)
    group.add_argument(
        "--fid_extractor", choices=["radimagenet_resnet50", "imagenet_resnet50"],
        help="data set of these weights (default: radimagenet_resnet50, MAISI's)",
    )  # fmt: skip
    group.add_argument(
        "--fid_size", type=voxels, default=512, metavar="N", help="voxels of 1 mm along each axis (default: 512)"
    )
    group.add_argument(
        "--network", help="trained nnU-Net, <trainer>__<plans>__<configuration>: FID and KID of its features", **_FOLDER
    )
    group.add_argument("--fold", default="0", metavar="F", help="fold of that network, or `all` (default: 0)")
    _add_checkpoint(group, "--chk", "its checkpoint")
    group.add_argument("--tsne", help="draw the cases by that network's features", **_PICTURE)
    part.idle("--fid_extractor", "--fid_size", without="--fid_weights")
    part.idle("--fold", "--chk", "--tsne", without="--network")


def _add_fidelity(part: Parser) -> None:
    part.add_argument("-d", required=True, metavar="SYN", help="synthetic data set: id, name or folder")
    part.add_argument("-m", required=True, help="trained nnU-Net: <trainer>__<plans>__<configuration>", **_FOLDER)
    part.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds, averaged (default: all with the checkpoint, as nnU-Net does)"
    )
    _add_checkpoint(part, "-chk", "checkpoint in the fold's folder")
    part.add_argument(
        "--predictions", **_FOLDER,
        help="folder of the predictions, to resume a killed run (default: fcas_predictions in the model's folder)",
    )  # fmt: skip
    part.add_argument(
        "--real_scores", type=Path, metavar="FILE.json",
        help="scores of the same network on real scans, written by segmentations -o; training cases are recognised",
    )  # fmt: skip
    part.add_argument("--overlap_only", action="store_true", help="Dice and RDice alone: quicker")


def _add_memorisation(part: Parser) -> None:
    part.add_argument("-d", required=True, metavar="SYN", help="synthetic data set: id, name or folder")
    part.add_argument(
        "--train", required=True, metavar="REAL", help="data set that the generator was trained on: id, name or folder"
    )
    part.add_argument(
        "--held_out", metavar="REAL",
        help="real scans it was not trained on: a data set, or a folder imagesTs with labelsTs beside it "
        "(default: each training scan against the others)",
    )  # fmt: skip
    part.add_argument("-m", help="trained nnU-Net, to compare scans by its features too", **_FOLDER)
    part.add_argument("-f", default="0", metavar="FOLD", help="its fold (default: 0)")
    _add_checkpoint(part, "-chk", "checkpoint in the fold's folder")
    add_channel_argument(part)
    part.add_argument(
        "--range", **_RANGE,
        help="values that scans are clipped to (default: 0.5 and 99.5 %% of the training set's labelled voxels)",
    )  # fmt: skip
    part.add_argument("--pictures", help="write a picture of every flagged case here", **_FOLDER)
    part.idle("-f", "-chk", without="-m")


def _add_confidence(part: Parser) -> None:
    part.add_argument("-d", required=True, metavar="ID", help="data set the generator was trained on")
    add_generator_choice(part)
    part.add_argument(
        "--held_out", metavar="ID",
        help="data set of patients that the generator has not seen (default: with --fold, the fold's validation cases)",
    )  # fmt: skip
    part.add_argument("--cases", nargs="+", metavar="CASE", help="only these of them")
    part.add_argument(
        "--draws", type=whole_number(1, 1000), default=2, metavar="N", help="templates and seeds for each case (2)"
    )
    part.add_argument("--seed", type=seed_number, default=0, help="seed of templates and noise (0)")
    part.add_argument(
        "--confidence", type=ConfidenceChoice, choices=list(ConfidenceChoice), default=ConfidenceChoice.OWN,
        help="the map that is judged, as in fcas_generate (default: own)",
    )  # fmt: skip
    numbers: dict[str, Any] = {"type": repeats, "default": 4, "metavar": "N"}
    part.add_argument("--ensemble", help="control: spread over N seeds; 0 = without (4)", **numbers)
    part.add_argument("--prior_cases", help="training cases behind the class prior; 0 = without (4)", **numbers)
    part.add_argument("--no_random_weights", action="store_true", help="leave out the control with random weights")
    part.add_argument("--picture", help="best and worst case: scan, error, confidence", **_PICTURE)
    add_channel_argument(part)
    part.idle("--channel", without="--picture")


def _add_checkpoint(part: argparse._ActionsContainer, flag: str, what: str) -> None:
    """Add the checkpoint of a trained nnU-Net, and the device that it runs on."""
    part.add_argument(flag, default=FINAL_CHECKPOINT, metavar="NAME", help=f"{what} (default: {FINAL_CHECKPOINT})")
    part.add_argument("-device", default="auto", choices=["auto", "cuda", "cpu", "mps"], help="(default: auto)")


_NETWORK = "$nnUNet_results/Dataset901_Heart/nnUNetTrainer__nnUNetPlans__3d_fullres"
#: Name of a part → its options, its description, and example commands.
_PARTS = {
    "segmentations": (
        _add_segmentations,
        "Overlap (Dice, RDice), surfaces (HD95, surface Dice), topology and, for vessels, clDice, per label and case.",
        "fcas_evaluate segmentations -r $nnUNet_raw/Dataset901_Heart/labelsTs -p predictions -o dice.json",
    ),
    "compare": (
        _add_compare,
        "Compare two results for the same references: paired differences, bootstrap intervals, Holm-corrected tests.",
        "fcas_evaluate compare -a real_only.json -b with_synthetic.json\n"
        "fcas_evaluate compare -a real_only.json -b with_synthetic.json --measure hd95_mm -o comparison.json",
    ),
    "images": (
        _add_images,
        "Compare synthetic scans with real ones: SSIM, RMSE and LPIPS under the same masks; FID and KID of the sets.",
        "fcas_evaluate images -r 901 -s 902 -o quality.json --csv quality.csv\n"
        "fcas_evaluate images -r real_folder -s synthetic_folder --range -100 800\n"
        "fcas_evaluate images -r 901 -s 902 --fid_weights RadImageNet-ResNet50_notop.pth --tsne map.png \\\n"
        f"    --network {_NETWORK}",
    ),
    "fidelity": (
        _add_fidelity,
        "Judge whether the generator drew its masks: a trained nnU-Net segments the synthetic scans, and is scored "
        "against the masks they were drawn from.",
        f"fcas_evaluate fidelity -d 902 -m {_NETWORK} -o drawn.json\n"
        f"fcas_evaluate fidelity -d 902 -m {_NETWORK} -f 0 \\\n"
        "    --real_scores held_out.json -o drawn.json --csv drawn.csv",
    ),
    "memorisation": (
        _add_memorisation,
        "Find copies of training scans: the nearest one of each synthetic scan, compared with real scans' distances; "
        "and how often it is the template.",
        "fcas_evaluate memorisation -d 902 --train 901 --held_out $nnUNet_raw/Dataset901_Heart/imagesTs -o copies.json"
        "\n"
        "fcas_evaluate memorisation -d 902 --train 901 --held_out 903 --pictures copies \\\n"
        f"    -m {_NETWORK} -f 0",
    ),
    "confidence": (
        _add_confidence,
        "Judge how well the confidence finds the errors of drawn scans: held-out patients' masks are drawn and "
        "compared with their real scans, beside controls that know nothing of the drawing.",
        "fcas_evaluate confidence -d 901 --held_out 904 --preset cpu -o confidence.json --picture confidence.png\n"
        "fcas_evaluate confidence -d 901 --fold 0 --preset cpu -o confidence.json    # fold 0's validation cases",
    ),
}
