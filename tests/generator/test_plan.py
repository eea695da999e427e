"""Plans of a synthetic data set: references, masks, templates and seeds of its cases."""

from functools import partial

from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.generator.plan import plan_cases


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
