"""ImageCHD: 110 CT scans of congenital heart disease with seven structures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fcas_nnunet.datasets.layout import CT, Layout, Place, PublicSet, find_scans
from fcas_nnunet.datasets.workbook import read_table
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.geometry import Triple, triple
from fcas_nnunet.listing import listed

IMAGECHD = PublicSet.of_structures(
    {1: "left_ventricle", 2: "right_ventricle", 3: "left_atrium", 4: "right_atrium", 5: "myocardium", 6: "aorta",
     7: "pulmonary_artery"},
    key="imagechd",
    name="ImageCHD",
    channel=CT,
    others_are_background=True,
    offset=1024,
    reference="Xu et al., ImageCHD, MICCAI 2020",
    doubts=(
        "The voxel sizes in ImageCHD's headers are not to be trusted, nor is the table of scan data that comes with "
        "it proven to name the same cases; they are corrected with --spacing alone.",
        "CHD68 holds 63 scans of ImageCHD under other names: never test on one what was trained on the other.",
    ),
)  # fmt: skip

SMALLEST_VOXEL_MM = 0.01
LARGEST_VOXEL_MM = 100.0

_COLUMNS = ("case", "x", "y", "z")


def find(source: Path, spacing_mm: Triple[float] | Path | None = None) -> Layout:
    """Find `ct_1001_image.nii.gz`, `ct_1001_label.nii.gz`, ...

    Args:
        source: The user's folder.
        spacing_mm: Voxel size along (D, H, W) of all cases, or a table of them; None keeps the headers'.

    Raises:
        MissingFileError: If there is no such folder or table.
        InputError: If no case is there, or the table is at fault.
    """
    pattern = r"(?:^|/)ct_(\d+)_(image|label)\.nii(?:\.gz)?$"
    layout = find_scans(source, pattern, _place, "ct_1001_image.nii.gz, ct_1001_label.nii.gz, ...")
    if not isinstance(spacing_mm, Path):
        return replace(layout, scans=[replace(scan, spacing_mm=spacing_mm) for scan in layout.scans])
    table = _read_spacings(spacing_mm)
    ids = {scan.case_id for scan in layout.scans}
    notes = [
        f"{len(names)} cases {what}: {listed(names)}"
        for what, names in (
            (f"of {spacing_mm.name} are not in SRC", sorted(table.keys() - ids)),
            (f"are not in {spacing_mm.name} and keep their header's voxel size", sorted(ids - table.keys())),
        )
        if names
    ]
    scans = [replace(scan, spacing_mm=table.get(scan.case_id)) for scan in layout.scans]
    return replace(layout, scans=scans, notes=notes)


def _place(match: re.Match[str]) -> Place:
    return Place(f"imagechd_{match[1]}", is_label=match[2].lower() == "label")


def _read_spacings(path: Path) -> Mapping[str, Triple[float]]:
    """Case id → voxel size in mm along (D, H, W), of a table in the files' own order x, y, z."""
    if not path.is_file():
        raise MissingFileError(f"{path}: --spacing must name a table or be three numbers, got no file. Fix the path.")
    header, *rows = [[cell.strip() for cell in row] for row in read_table(path, "")] or [["none"]]
    if tuple(map(str.lower, header)) != _COLUMNS:
        raise InputError(f"{path}: columns must be {', '.join(_COLUMNS)}, got {listed(header)}. Correct them.")
    table: dict[str, Triple[float]] = {}
    faults = []
    for case, *sizes in rows:
        name = re.fullmatch(r"(?:ct_|imagechd_)?(\d+)(?:_image(?:\.nii\.gz)?)?", case)
        try:
            x, y, z = map(float, sizes)
        except ValueError:
            x = y = z = float("nan")
        if name is None or not all(SMALLEST_VOXEL_MM < size < LARGEST_VOXEL_MM for size in (x, y, z)):
            faults.append(
                f"{path}: a line must be a case and three voxel sizes in mm, got {', '.join([case, *sizes])}. "
                "Correct it."
            )
        elif table.setdefault(f"imagechd_{name[1]}", triple((z, y, x))) != (z, y, x):
            faults.append(f"{path}: case {case} must be there once, got {', '.join(sizes)} besides. Remove one.")
    if faults:
        raise InputError("\n".join(faults))
    return table
