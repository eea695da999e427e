"""A table is read from a workbook as from CSV."""

from __future__ import annotations

from pathlib import Path

import pytest
from public_files import save_workbook

from fcas_nnunet.datasets.workbook import read_table


def test_the_named_sheet_is_read_with_its_gaps(tmp_path: Path) -> None:
    path = save_workbook(
        tmp_path / "split.xlsx",
        {"v1": [["old", 1]], "v2": [["five-fold", None, None], ["FileName", "Split-1", "A & B"], [1, None, "Val"]]},
    )
    assert read_table(path, "v2") == [["five-fold"], ["FileName", "Split-1", "A & B"], ["1", "", "Val"]]
    assert read_table(path, "v1") == [["old", "1"]]


def test_without_a_sheet_of_that_name_the_last_one_is_read(tmp_path: Path) -> None:
    path = save_workbook(tmp_path / "split.xlsx", {"first": [["a"]], "second": [["b"]]})
    assert read_table(path, "v2") == [["b"]]


def test_csv_is_read_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_bytes(b"\xef\xbb\xbfFileName,Split-1\n\n1,Training\n")
    assert read_table(path, "v2") == [["FileName", "Split-1"], ["1", "Training"]]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.xlsx"
    path.write_text("no zip archive")
    with pytest.raises(ValueError, match="split.xlsx: file must be a table, .xlsx or .csv, got an error"):
        read_table(path, "v2")
    with pytest.raises(FileNotFoundError, match="none.csv: file must exist, got none"):
        read_table(tmp_path / "none.csv", "v2")
