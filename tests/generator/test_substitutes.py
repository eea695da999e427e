"""A reference of which no mask can be made gives its place to the next one, and the manifest says so."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from fcas_nnunet_small import LABELS, small_case

from fcas_nnunet.anatomy import label_roles
from fcas_nnunet.case import Case
from fcas_nnunet.choices import ReferenceSource
from fcas_nnunet.config import MaskConfig
from fcas_nnunet.generator.masks import NoMaskError
from fcas_nnunet.generator.production import CasePlan, reference_mask
from fcas_nnunet.generator.substitutes import MOST_REFERENCES, made_otherwise, make_with_substitutes, planned

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
        record = make_with_substitutes(PLAN, REFERENCES, maker({"p4", "p5"}, tried))
    assert tried == ["p4", "p5", "p0"]
    assert (record["reference"], record["planned_reference"]) == ("p0", "p4")
    assert planned(record) == PLAN
    assert made_otherwise({"fcas_00000": record}, [PLAN], {"preset": "tiny"}) == []
    assert made_otherwise({"fcas_00000": record | {"planned_reference": "p3"}}, [PLAN], {}) == ["fcas_00000"]
    assert "fcas_00000: no mask can be made from p4" in caplog.text


def test_a_plan_that_can_be_made_is_followed() -> None:
    assert make_with_substitutes(PLAN, REFERENCES, maker(set(), [])) == PLAN.to_record() | {"preset": "tiny"}


def test_when_no_reference_will_do_each_is_named() -> None:
    tried: list[str] = []
    with pytest.raises(ValueError, match=r"p4: mask: no way\.\np5: mask: no way\.\np0: .*\np1: ") as raised:
        make_with_substitutes(PLAN, REFERENCES, maker(set(REFERENCES), tried))
    assert not isinstance(raised.value, NoMaskError)
    assert len(tried) == MOST_REFERENCES


def test_a_mask_that_cannot_be_deformed_is_named_by_its_case() -> None:
    whole = small_case(4)
    empty = Case("p4", None, np.zeros_like(whole.mask), whole.affine)
    with pytest.raises(NoMaskError, match="^p4: mask: at least one voxel must be labelled"):
        reference_mask(PLAN, empty, MaskConfig(), label_roles(LABELS))
