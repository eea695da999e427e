"""The report expects more of maps that judge labels than of those that only say where a real scan ends."""

from __future__ import annotations

from typing import Any

import pytest

from fcas_nnunet.evaluation.report.checks import all_checks
from fcas_nnunet.evaluation.report.measures import Spread


@pytest.mark.parametrize(("more", "level"), [({}, "ok"), ({"segmenter": {"score": 0.9}}, "bad")])
def test_maps_of_warped_scans_may_be_flat_unless_their_labels_were_judged(more: dict[str, Any], level: str) -> None:
    checks = all_checks(60, {"a": {"scan": "warped", **more}}, Spread(0.98, 0.01, 0, 1), [], [], None, None, [])
    assert [check.level for check in checks if check.title == "Confidence spread"] == [level]
