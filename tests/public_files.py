"""Small real files in the layouts of public data sets."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import SimpleITK as sitk

#: (D, H, W)
SHAPE = (5, 6, 7)
#: Along x, y, z in mm, as files have it.
SPACING = (0.5, 0.75, 2.0)
ORIGIN = (-10.0, 20.0, 30.0)


def save(
    path: Path,
    array: np.ndarray,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = ORIGIN,
    direction: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> Path:
    """Write an array [D, H, W] in the format of the file's ending.

    ITK writes `1.img.nii.gz`, as ImageCAS calls its files, in Analyze's format, so it is given another name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tuple(spacing))
    image.SetOrigin(tuple(origin))
    image.SetDirection(tuple(map(float, direction)))
    plain = path.with_name(f"plain{''.join(path.suffixes[-2:] if path.suffix == '.gz' else path.suffixes[-1:])}")
    sitk.WriteImage(image, str(plain))
    return plain.rename(path)


def load(path: Path) -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """Array [D, H, W], spacing x, y, z and origin of a file."""
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image), image.GetSpacing(), image.GetOrigin()


def ct(seed: int, offset: int = 0, dtype: type = np.int16) -> np.ndarray:
    """A random scan in HU + offset, a fifth of it air."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-150, 700, SHAPE)
    values[0] = rng.integers(-990, -900, SHAPE[1:])
    return (values + offset).astype(dtype)


def labels(seed: int, values: Sequence[int], dtype: type = np.uint8) -> np.ndarray:
    """A random map that holds each of the values, and 0."""
    rng = np.random.default_rng(seed)
    array = rng.choice([0, *values], SHAPE)
    array.flat[: len(values) + 1] = [0, *values]
    return array.astype(dtype)


def digests(folder: Path) -> dict[str, str]:
    """Relative path → hash of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def save_workbook(path: Path, sheets: dict[str, list[list[str | int | None]]]) -> Path:
    """Write an .xlsx as Excel does: texts shared between cells, cells without content left out."""
    texts: list[str] = []
    members = {}
    for number, rows in enumerate(sheets.values(), start=1):
        members[f"xl/worksheets/sheet{number}.xml"] = _sheet(rows, texts)
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    entries = "".join(
        f'<sheet name="{escape(name)}" sheetId="{i}" r:id="rId{i}"/>' for i, name in enumerate(sheets, start=1)
    )
    members["xl/workbook.xml"] = f'<workbook {space} xmlns:r="{relation}"><sheets>{entries}</sheets></workbook>'
    targets = "".join(
        f'<Relationship Id="rId{i}" Type="x" Target="worksheets/sheet{i}.xml"/>' for i in range(1, len(sheets) + 1)
    )
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    members["xl/_rels/workbook.xml.rels"] = f'<Relationships xmlns="{package}">{targets}</Relationships>'
    shared = "".join(f"<si><t>{escape(text)}</t></si>" for text in texts)
    members["xl/sharedStrings.xml"] = f"<sst {space}>{shared}</sst>"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _sheet(rows: list[list[str | int | None]], texts: list[str]) -> str:
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = []
        for letter, value in zip("ABCDEFG", row, strict=False):
            if isinstance(value, int):
                cells.append(f'<c r="{letter}{number}"><v>{value}</v></c>')
            elif value is not None:
                texts.append(value)
                cells.append(f'<c r="{letter}{number}" t="s"><v>{len(texts) - 1}</v></c>')
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    return f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
