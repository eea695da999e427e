"""A reference of which no mask can be made gives its place to the next one, and the manifest says so."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from fcas_nnunet_small import LABELS, small_case

from fcas_nnunet.case import Case
from fcas_nnunet.config.generator import MaskConfig
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.generator.generate import reference_mask
from fcas_nnunet.generator.mgm.masks import NoMaskError
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.substitutes import MOST_REFERENCES, make_with_substitutes, planned, refuse_made_otherwise
from fcas_nnunet.labels.anatomy import label_roles

REFERENCES = [f"p{i}" for i in range(6)]
PLAN = CasePlan("fcas_00000", 7, "p4", "p0", ReferenceSource.MGM)


def maker(refused: set[str], tried: list[str]) -> Any:
    def make(plan: CasePlan) -> dict[str, Any]:
        tried.append(plan.reference)
        if plan.reference in refused:
            raise NoMaskError(f"{plan.reference}: mask: no way.")
        return plan.to_record() | {"preset": "tiny"}

    return make


def test_the_next_reference_takes_the_place_and_the_plan_stays_known(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []
    with caplog.at_level(logging.WARNING):
        record = make_with_substitutes(PLAN, REFERENCES, maker({"p4", "p5"}, tried), "Rest.")
    assert tried == ["p4", "p5", "p0"]
    assert (record["reference"], record["planned_reference"]) == ("p0", "p4")
    assert planned(record) == PLAN
    refuse_made_otherwise({"fcas_00000": record}, [PLAN], {"preset": "tiny"}, "out: same")
    with pytest.raises(ValueError, match=r"^out: same, got others: fcas_00000 \(reference p4 instead of p3\)\. Choose"):
        refuse_made_otherwise({"fcas_00000": record | {"planned_reference": "p3"}}, [PLAN], {}, "out: same")
    assert "fcas_00000: no mask can be made from p4" in caplog.text


SHARED = {"preset": "tiny", "sampling": {"steps": 25, "overlap": 0.5}, "references": ["p1"], "label_map": {"1": 2},
          "versions": {"fcas-nnunet": "0.2.0", "torch": "2.9"}}  # fmt: skip
OLDER = {"versions": {"fcas-nnunet": "0.1.0", "torch": "2.9"}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            SHARED | {"preset": "cpu", "label_map": {}},
            r"\(preset tiny instead of cpu; label_map {'1': 2} instead of {}\). C",
        ),
        (SHARED | {"sampling": {"steps": 9, "overlap": 0.5}}, r"\(sampling.steps 25 instead of 9\). Choose"),
        (
            SHARED | {"sampling": {"steps": 25}},
            r"\(sampling.overlap 0.5 instead of none\). They were made by an earlier state of fcas-nnunet 0.2.0, where",
        ),
        (
            {key: value for key, value in (SHARED | OLDER).items() if key != "references"},
            r"\(references \['p1'\] instead of none\). They were made by fcas-nnunet 0.1.0, this is 0.2.0, where "
            r"settings may differ: resume with that version. Or choose another -o, or delete the folder.$",
        ),
        ({"preset": "cpu"}, r"They were made by fcas-nnunet \(version unknown\), this is 0.2.0"),
        (SHARED | OLDER | {"seed": 8}, r"\(seed 7 instead of 8\). They were made by fcas-nnunet 0.1.0, this is 0.2.0"),
    ],
)
def test_what_differs_is_said_and_whether_another_version_made_it(line: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^out: same, got others: fcas_00000 .*{message}"):
        refuse_made_otherwise({"fcas_00000": PLAN.to_record() | line}, [PLAN], SHARED, "out: same")


def test_a_line_of_an_id_alone_is_none_of_the_plan() -> None:
    refuse_made_otherwise({"own": {"case_id": "own"}}, [PLAN], SHARED, "out: same")
    with pytest.raises(ValueError, match=r"got others: fcas_00000 \(preset tiny instead of none; .*version unknown"):
        refuse_made_otherwise({"fcas_00000": {"case_id": "fcas_00000"}}, [PLAN], SHARED, "out: same")


def test_another_version_alone_is_no_hindrance() -> None:
    refuse_made_otherwise({"fcas_00000": PLAN.to_record() | SHARED | OLDER}, [PLAN], SHARED, "out: same")


def test_a_plan_that_can_be_made_is_followed() -> None:
    assert make_with_substitutes(PLAN, REFERENCES, maker(set(), []), "Rest.") == PLAN.to_record() | {"preset": "tiny"}


def test_when_no_reference_will_do_each_is_named() -> None:
    tried: list[str] = []
    with pytest.raises(
        ValueError, match=r"p4: mask: no way\.\np5: mask: no way\.\np0: .*\np1: .*\n.* Rest\.$"
    ) as raised:
        make_with_substitutes(PLAN, REFERENCES, maker(set(REFERENCES), tried), "Rest.")
    assert not isinstance(raised.value, NoMaskError)
    assert len(tried) == MOST_REFERENCES


def test_a_mask_that_cannot_be_deformed_is_named_by_its_case() -> None:
    whole = small_case(4)
    empty = Case("p4", None, np.zeros_like(whole.mask), whole.affine)
    with pytest.raises(NoMaskError, match="^p4: mask: at least one voxel must be labelled"):
        reference_mask(PLAN, empty, MaskConfig(), label_roles(LABELS))
