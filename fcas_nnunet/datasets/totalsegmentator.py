"""TotalSegmentator: what its label maps call their ids, and its command at work on one scan.

Source: github.com/wasserth/TotalSegmentator (Apache-2.0), release 2.18: `map_to_binary.py`, `python_api.py`,
`bin/TotalSegmentator.py`. It is a program of its own, which this package does not install.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel

from fcas_nnunet.faults import InputError

COMMAND = "TotalSegmentator"
#: Tasks that run with a licence alone, of those that show the heart.
LICENSED = frozenset({"heartchambers_highres", "coronary_arteries", "coronary_arteries_LEGACY", "aortic_sinuses"})
LICENCE_PAGE = "https://backend.totalsegmentator.com/license-academic/"


def _numbered(prefix: str, numbers: str) -> str:
    return " ".join(f"{prefix}{number}" for number in numbers.split())


_ONE_TO_TWELVE = " ".join(map(str, range(1, 13)))
_LIMBS = (
    "humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right femur_left femur_right "
    "hip_left hip_right"
)
_MUSCLES = (
    "gluteus_maximus_left gluteus_maximus_right gluteus_medius_left gluteus_medius_right gluteus_minimus_left "
    "gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left iliopsoas_right"
)
_CLASSES = {
    "total": (
        "spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left "
        "lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right "
        "esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left "
        "kidney_cyst_right sacrum",
        _numbered("vertebrae_", "S1 L5 L4 L3 L2 L1 T12 T11 T10 T9 T8 T7 T6 T5 T4 T3 T2 T1 C7 C6 C5 C4 C3 C2 C1"),
        "heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right subclavian_artery_left "
        "common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right "
        "atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left "
        "iliac_artery_right iliac_vena_left iliac_vena_right",
        _LIMBS,
        "spinal_cord",
        _MUSCLES,
        "brain skull",
        _numbered("rib_left_", _ONE_TO_TWELVE),
        _numbered("rib_right_", _ONE_TO_TWELVE),
        "sternum costal_cartilages",
    ),
    "total_mr": (
        "spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left "
        "lung_left lung_right esophagus small_bowel duodenum colon urinary_bladder prostate sacrum vertebrae "
        "intervertebral_discs spinal_cord heart aorta inferior_vena_cava portal_vein_and_splenic_vein "
        "iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right",
        _LIMBS,
        _MUSCLES,
        "brain",
    ),
    "heartchambers_highres": (
        "heart_myocardium heart_atrium_left heart_ventricle_left heart_atrium_right heart_ventricle_right aorta "
        "pulmonary_artery",
    ),
    "coronary_arteries": ("coronary_arteries",),
    "body": ("body_trunc body_extremities",),
    "lung_vessels": ("lung_airways lung_airways_wall lung_arteries lung_veins",),
    "pleural_pericard_effusion": ("lung_pleural pleural_effusion pericardial_effusion",),
    "trunk_cavities": ("abdominal_cavity thoracic_cavity pericardium mediastinum",),
}
#: Task → id → structure, of the multi-label maps of version 2.
CLASSES = {task: dict(enumerate(" ".join(names).split(), start=1)) for task, names in _CLASSES.items()}

_LABEL = re.compile(r'<Label\s[^>]*?Key="(\d+)"[^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|(.*?))\s*</Label>', re.DOTALL)
_NEEDS_LICENCE = re.compile(r"requires? a licen[sc]e|licen[sc]e number has not been set", re.IGNORECASE)
_INVALID_LICENCE = re.compile(r"invalid licen[sc]e", re.IGNORECASE)
_WRONG_USAGE = 2  # argparse's exit code
_SHOWN_LINES = 3


class UnusableError(InputError):
    """What would go wrong with every scan alike."""


def table_in_header(path: Path) -> dict[int, str] | None:
    """Id → structure, as a multi-label map's own header names them; None where it does not.

    TotalSegmentator, and others, write a label table into a header extension of NIfTI.

    Args:
        path: of a label map; of other formats than NIfTI nothing is known.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return None
    try:
        extensions = nibabel.Nifti1Image.from_filename(str(path)).header.extensions
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError, nibabel.wrapstruct.WrapStructError):
        return None  # whoever reads the voxels says what is wrong with the file
    for extension in extensions:
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        found = {int(key): html.unescape(plain) if plain else cdata for key, cdata, plain in _LABEL.findall(text)}
        if found:
            return {value: name for value, name in found.items() if value}
    return None


def find_command(by: str) -> str:
    """Where TotalSegmentator's command is: on the PATH, or beside this Python.

    Args:
        by: the flag that asks for it, for messages.

    Raises:
        InputError: when it is not installed.
    """
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = shutil.which(COMMAND, path=places)
    if found is None:
        raise InputError(
            f"{by}: the command {COMMAND} must be on the PATH, got none. Run: pip install TotalSegmentator (in an "
            "environment of its own if you like, with its bin folder on the PATH)."
        )
    return found


def segment(command: str, task: str, scan: Path, output: Path, options: Sequence[str], log: Path) -> None:
    """Run one task on one scan; a multi-label map with its names in the header is written.

    Args:
        command: as `find_command` gives it.
        task: of TotalSegmentator.
        scan: NIfTI, whose name has no dot but that of its ending: TotalSegmentator takes others for DICOM.
        output: `.nii.gz` to write; its folder must be there.
        options: further ones of the command.
        log: file that keeps what it said.

    Raises:
        UnusableError: when the licence is missing or refused, or an argument is unknown: no other scan would do better.
        InputError: when it ends with an error, or without a file.
    """
    line = [command, "-i", str(scan), "-o", str(output), "--ml", "--task", task, *options]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said = done.stdout.decode("utf-8", "replace").replace("\r", "\n")
    log.write_text(said, encoding="utf-8")
    if done.returncode == 0 and output.is_file():
        return
    if done.returncode and _NEEDS_LICENCE.search(said):
        raise UnusableError(
            f"task {task} must have a licence, got none. It is free for non-commercial use: get one at {LICENCE_PAGE}, "
            "run totalseg_set_license -l NUMBER once, then this command again."
        )
    if done.returncode and _INVALID_LICENCE.search(said):
        raise UnusableError(
            f"task {task} must have a valid licence, got one that TotalSegmentator refuses. Check its number, or get "
            f"one at {LICENCE_PAGE}, then run totalseg_set_license -l NUMBER."
        )
    last = " / ".join([text.strip() for text in said.splitlines() if text.strip()][-_SHOWN_LINES:]) or "nothing"
    got = f"exit code {done.returncode}" if done.returncode >= 0 else f"a kill by signal {-done.returncode}"
    fault = f"task {task} must end with a label map, got {got if done.returncode else 'none'}, and it said: {last}."
    if done.returncode == _WRONG_USAGE:
        raise UnusableError(f"{fault} Correct the task's name, or --totalsegmentator_options.")
    raise InputError(f"{fault} All that it said: {log}")
