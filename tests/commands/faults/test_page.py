"""docs/reliability.md says how many faults are tried; it must stay true."""

from __future__ import annotations

from pathlib import Path

from fault_counts import faults, table

import fcas_nnunet

PAGE = Path(fcas_nnunet.__file__).parents[1] / "docs" / "reliability.md"


def test_the_page_has_the_counts_of_the_tables() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), f"write into the page:\n{table()}"
    total = len(list(faults()))
    assert f"{total} faults" in PAGE.read_text(encoding="utf-8"), f"the page must say {total} faults"
