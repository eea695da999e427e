"""Rows of a table as publishers give it: a sheet of an .xlsx workbook, or a .csv file."""

from __future__ import annotations

import csv
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from fcas_nnunet.faults import InputError, MissingFileError

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_table(path: Path, sheet: str) -> list[list[str]]:
    """The rows of a table, every cell as text.

    Args:
        path: A .csv file or an .xlsx workbook.
        sheet: Name of the workbook's sheet; where there is none of that name, its last one is read.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it cannot be read.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: file must exist, got none. Fix the path.")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as stream:
                return [row for row in csv.reader(stream) if any(row)]
        return _sheet_rows(path, sheet)
    except (csv.Error, UnicodeDecodeError, zipfile.BadZipFile, ElementTree.ParseError, KeyError, IndexError) as error:
        raise InputError(
            f"{path}: file must be a table, .xlsx or .csv, got an error: {error}. Download it again, or save the sheet "
            "as CSV."
        ) from error


def _sheet_rows(path: Path, sheet: str) -> list[list[str]]:
    """A sheet of a workbook: a zip archive of XML files, in which texts that repeat are numbered."""
    with zipfile.ZipFile(path) as archive:
        texts = []
        if "xl/sharedStrings.xml" in archive.namelist():
            entries = ElementTree.fromstring(archive.read("xl/sharedStrings.xml")).findall(f"{_MAIN}si")
            texts = ["".join(part.text or "" for part in entry.iter(f"{_MAIN}t")) for entry in entries]
        sheets = ElementTree.fromstring(archive.read("xl/workbook.xml")).findall(f"{_MAIN}sheets/{_MAIN}sheet")
        wanted = next((entry for entry in sheets if entry.attrib["name"] == sheet), sheets[-1])
        relations = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
        targets = {relation.attrib["Id"]: relation.attrib["Target"] for relation in relations}
        target = targets[wanted.attrib[_RELATION]]
        member = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
        rows = ElementTree.fromstring(archive.read(member)).findall(f"{_MAIN}sheetData/{_MAIN}row")
    return [[_text(cell, texts) for cell in _filled(row)] for row in rows]


def _filled(row: ElementTree.Element) -> list[ElementTree.Element | None]:
    """The cells of a row in order, None for those that the file leaves out."""
    cells: dict[int, ElementTree.Element] = {}
    for position, cell in enumerate(row.findall(f"{_MAIN}c")):
        letters = re.match(r"[A-Z]+", cell.attrib.get("r", ""))
        number = 0
        for letter in letters[0] if letters else "":
            number = number * 26 + ord(letter) - ord("A") + 1
        cells[number - 1 if letters else position] = cell
    return [cells.get(column) for column in range(max(cells, default=-1) + 1)]


def _text(cell: ElementTree.Element | None, texts: list[str]) -> str:
    if cell is None:
        return ""
    if cell.attrib.get("t") == "inlineStr":
        return "".join(part.text or "" for part in cell.iter(f"{_MAIN}t"))
    value = cell.findtext(f"{_MAIN}v") or ""
    return texts[int(value)] if cell.attrib.get("t") == "s" and value else value
