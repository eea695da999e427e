"""ImageALCAPA: 30 CT angiograms of children whose left coronary artery springs from the pulmonary artery."""

from __future__ import annotations

import re
from pathlib import Path

from fcas_nnunet.config.files import read_yaml
from fcas_nnunet.datasets.layout import CT, Layout, Place, PublicSet, find_scans
from fcas_nnunet.faults import InputError
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE

#: What the publishers say is labelled; which value is which they do not say.
STRUCTURES = ("myocardium", "left_ventricle", "right_ventricle", "pulmonary_artery", "aorta", "left_coronary_artery",
              "right_coronary_artery")  # fmt: skip


def imagealcapa(label_map: Path) -> PublicSet:
    """The set under a label map of the user, since no public source says what its label values mean.

    Args:
        label_map: YAML, `value in the files: name of the structure`; "background" drops a value.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is no such map.
    """
    content = read_yaml(label_map)
    faults = [
        f"{label_map}: entries must be a whole number from 1 and a name, got {value!r}: {name!r}. Correct it."
        for value, name in content.items()
        if type(value) is not int
        or value < (name != BACKGROUND)
        or not isinstance(name, str)
        or not name.strip()
        or name == IGNORE
    ]
    if not faults and set(content.values()) <= {BACKGROUND}:
        faults.append(f"{label_map}: map must name a structure, got none. Add entries.")
    if faults:
        raise InputError("\n".join(faults))
    return PublicSet.of_structures(
        {int(value): name.strip() for value, name in content.items()},
        key="imagealcapa",
        name="ImageALCAPA",
        channel=CT,
        offset=1024,
        reference="Zeng et al., ImageALCAPA, IEEE BIBM 2022",
        licence="Apache-2.0",
        doubts=("No public source says which label value is which structure: the names are those of --label-map.",),
    )


def find(source: Path) -> Layout:
    """Find `1_image.nii.gz`, `1_label.nii.gz`, ...

    Raises:
        MissingFileError: If there is no such folder.
        InputError: If no case is there.
    """
    pattern = r"(?:^|/)(\d+)_(image|label)\.nii(?:\.gz)?$"
    return find_scans(source, pattern, _place, "1_image.nii.gz, 1_label.nii.gz, ...")


def _place(match: re.Match[str]) -> Place:
    return Place(f"imagealcapa_{int(match[1]):02d}", is_label=match[2].lower() == "label")
