"""Plans of a synthetic data set: references, masks, templates, seeds and sources of its cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcas_nnunet.config.options import ReferenceSource, ScanSource
from fcas_nnunet.generator.plan import CasePlan, Changes, plan_cases, scan_sources

SOURCES = (ScanSource.DRAWN, ScanSource.WARPED, ScanSource.PAINTED)
SHARE = st.one_of(st.integers(1, 9).map(float), st.floats(0.01, 10))


@given(st.dictionaries(st.sampled_from(SOURCES), SHARE, min_size=1), st.integers(0, 100))
def test_after_every_case_each_source_has_its_share(shares: dict[ScanSource, float], seed: int) -> None:
    found = scan_sources(60, shares, seed)
    total = sum(shares.values())
    for number in range(61):
        for source, share in shares.items():
            assert abs(found[:number].count(source) - share / total * number) < 1 + 1e-9
    assert scan_sources(25, shares, seed) == found[:25]


def test_sources_are_not_tied_to_the_order_of_references() -> None:
    plans = plan_cases(60, ["a", "b", "c"], ["a", "b", "c"], ReferenceSource.MGM, 0, shares=dict.fromkeys(SOURCES, 1.0))
    assert {(plan.reference, plan.scan) for plan in plans} == {(name, source) for name in "abc" for source in SOURCES}
    assert all(plan.template == plan.reference for plan in plans if plan.scan != ScanSource.DRAWN)


def test_other_sources_leave_references_seeds_and_templates_of_drawn_cases() -> None:
    ids = ["a", "b", "c"]
    plain = plan_cases(12, ids, ids, ReferenceSource.BOTH, 7)
    assert all("scan" not in plan.to_record() for plan in plain)
    mixed = plan_cases(12, ids, ids, ReferenceSource.BOTH, 7, shares={ScanSource.DRAWN: 1, ScanSource.PAINTED: 1})
    assert [(plan.seed, plan.reference, plan.masks) for plan in mixed] == [
        (plan.seed, plan.reference, plan.masks) for plan in plain
    ]
    assert all(own == other for own, other in zip(mixed, plain, strict=True) if own.scan == ScanSource.DRAWN)
    for plan in mixed:
        assert CasePlan.from_record(plan.to_record()) == plan


def test_the_template_of_a_scan_that_is_not_drawn_follows_its_reference() -> None:
    warped = CasePlan("c", 1, "a", "a", ReferenceSource.MGM, ScanSource.WARPED)
    assert warped.of_reference("b").template == "b"
    drawn = CasePlan("c", 1, "a", "t", ReferenceSource.MGM)
    assert drawn.of_reference("b").template == "t"
    with pytest.raises(ValueError, match="'sketched' is not a valid ScanSource"):
        CasePlan.from_record(drawn.to_record() | {"scan": "sketched"})


@pytest.mark.parametrize(
    ("masks", "seed", "plain", "mixed", "changed"),
    [
        (ReferenceSource.GIVEN, 0, "c377ab7ef0bdf9e1", "8efa874424a8f9c8", "c24033e8e828946f"),
        (ReferenceSource.MGM, 7, "57fcf72bb259dd24", "90b19bc302974964", "338909a857982134"),
        (ReferenceSource.BOTH, 0, "eb55418d60ad6eef", "bbf342bef6153c5c", "c155104abada4c23"),
    ],
)
def test_plans_stay_as_they_were(masks: ReferenceSource, seed: int, plain: str, mixed: str, changed: str) -> None:
    """Sets that were begun go on with their plan, so it may never change."""

    def digest(*args: Any, templates: Sequence[str] = tuple("abcde")) -> str:
        records = [plan.to_record() for plan in plan_cases(40, [*"abcde"], templates, masks, seed, *args)]
        return hashlib.sha256(json.dumps(records).encode()).hexdigest()[:16]

    labels_of = {"a": [1, 2, 3], "b": [1, 2], "c": [1], "d": [1, 2, 3], "e": [2, 3]}
    shares = {ScanSource.DRAWN: 2, ScanSource.WARPED: 1, ScanSource.REGISTERED: 1}
    assert digest() == plain
    assert digest(labels_of, shares, templates=["b", "c", "d", "e"]) == mixed
    assert digest(labels_of, None, Changes({"fcas_00003": 2}, 10, ("b", "b", "c"))) == changed


def test_templates_that_have_the_masks_structures_are_taken():
    """Where none has them all, those that lack fewest; where all do, the plan is that without a look."""
    ids, plain = ["a", "b", "c"], partial(plan_cases, 30, ["a", "b", "c"], ["a", "b", "c"])
    labels_of = {"a": [1, 2, 3], "b": [1, 2], "c": [1]}
    for plan in plain(ReferenceSource.MGM, 0, labels_of):
        assert plan.template in {"a": "a", "b": "ab", "c": "abc"}[plan.reference]
    for plan in plain(ReferenceSource.GIVEN, 0, labels_of):
        assert plan.template in {"a": "b", "b": "a", "c": "ab"}[plan.reference]
    assert plain(ReferenceSource.BOTH, 0, dict.fromkeys(ids, [1, 2])) == plain(ReferenceSource.BOTH, 0)


def test_plan_of_fewer_is_the_beginning_of_more():
    ids = [f"p{i}" for i in range(5)]
    few, more = (plan_cases(n, ids, ids, ReferenceSource.BOTH, seed=3) for n in (4, 17))
    assert more[:4] == few
    assert sorted(plan.reference for plan in more[:5]) == ids  # every reference once a turn
    assert sorted(plan.reference for plan in more[5:10]) == ids
    assert [plan.masks for plan in more[:6]] == [ReferenceSource.GIVEN] * 5 + [ReferenceSource.MGM]
    assert all(plan.template != plan.reference for plan in more[:5])
    assert len({plan.seed for plan in more}) == 17
    assert plan_cases(4, ids, ids, ReferenceSource.BOTH, seed=4) != few
