"""Labels of one data set under the names of another: nothing is merged or lost without a word."""

from __future__ import annotations

import pytest

from fcas_nnunet.labels.matching import Unmatched, compare_labels, labels_to_write, match_labels


def labels(*names: str) -> dict[str, int]:
    return {"background": 0} | {name: number for number, name in enumerate(names, start=1)}


def test_an_exact_name_goes_before_an_alias() -> None:
    ours = labels("ascending_aorta", "LV", "aorta")
    assert match_labels(ours, ours) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert match_labels(labels("aorta"), labels("aorta", "ascending_aorta")) == {0: 0, 1: 1}
    assert match_labels(labels("Ascending Aorta", "aorta"), labels("aorta", "ascending_aorta")) == {0: 0, 1: 2, 2: 1}


def test_names_that_mean_one_structure_match() -> None:
    ours = labels("left ventricle cavity", "heart_atrium_left", "thoracic_aorta", "spleen")
    theirs = labels("spleen", "ascending_aorta", "LA", "lv")
    assert match_labels(ours, theirs) == {0: 0, 1: 4, 2: 3, 3: 2, 4: 1}


def test_parts_become_their_whole() -> None:
    match = compare_labels(labels("LCA", "RCA", "aorta"), labels("aorta", "coronary_arteries"))
    assert match.names == {"LCA": "coronary_arteries", "RCA": "coronary_arteries", "aorta": "aorta"}
    assert match.describe() == ["  coronary_arteries <- LCA, RCA"]
    match = compare_labels(labels("LAD", "LCX", "RCA"), labels("left_coronary_artery", "right_coronary_artery"))
    assert match.ids(labels("LAD", "LCX", "RCA"), labels("LCA", "RCA")) == {0: 0, 1: 0, 2: 0, 3: 0}
    assert match_labels(labels("LAD", "LCX", "RCA"), labels("LCA", "RCA")) == {0: 0, 1: 1, 2: 1, 3: 2}


def test_a_whole_does_not_become_one_of_its_parts() -> None:
    match = compare_labels(labels("LV", "coronary_arteries"), labels("LV", "LCA", "RCA"))
    assert match.names == {"LV": "LV"}
    assert match.unmatched == ["coronary_arteries"]
    assert match.missing == {"LCA": "coronary_arteries", "RCA": "coronary_arteries"}
    assert match.describe("ignore") == ["  ignore <- coronary_arteries", "  nothing stands for LCA, RCA"]


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (("LV", "left_ventricle"), ("left_ventricle",), "got LV and left_ventricle of one data set for left_ventricle"),
        (("myo",), ("LVM", "Myocardium"), "got myo of one data set for LVM and Myocardium of the other"),
        (("aorta", "ascending_aorta"), ("thoracic_aorta",), "got aorta and ascending_aorta of one data set for"),
        (("aorta", "ascending_aorta"), ("aorta",), "got aorta and ascending_aorta of one data set for aorta of"),
        (("Left-Ventricle", "left ventricle"), ("left_ventricle",), "got Left-Ventricle and left ventricle of one"),
    ],
)
def test_two_labels_of_one_structure_are_named(ours: tuple[str], theirs: tuple[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"labels: one must be the counterpart of one, {message}"):
        match_labels(labels(*ours), labels(*theirs))


def test_labels_without_any_match_are_refused() -> None:
    with pytest.raises(ValueError, match="labels: at least one must match between .* got none"):
        match_labels(labels("vessel"), labels("coronary_arteries"))


def test_targets_that_nothing_stands_for_are_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"got none for LCA \(part of coronaries\), RCA \(part of coronaries\), SVC; -d"
    ):
        labels_to_write(labels("LV", "coronaries"), labels("LV", "LCA", "RCA", "SVC"), Unmatched.REFUSE)
    assert labels_to_write(labels("LV", "coronaries"), labels("LV"), Unmatched.REFUSE) == (
        labels("LV"), {0: 0, 1: 1, 2: 0},
    )  # fmt: skip


def test_what_they_may_be_part_of_is_ignored_on_request() -> None:
    ours, theirs = labels("LV", "coronaries"), labels("LV", "LCA", "RCA")
    assert labels_to_write(ours, theirs, Unmatched.BACKGROUND) == (theirs, {0: 0, 1: 1, 2: 0})
    assert labels_to_write(ours, theirs, Unmatched.IGNORE) == (theirs | {"ignore": 4}, {0: 0, 1: 1, 2: 4})
    assert labels_to_write(ours, labels("LV", "CA"), Unmatched.IGNORE) == (labels("LV", "CA"), {0: 0, 1: 1, 2: 2})


def test_what_no_label_holds_cannot_be_ignored() -> None:
    with pytest.raises(ValueError, match="--unmatched: ignore must find the labels of -d that hold RA, got none"):
        labels_to_write(labels("LV", "coronaries"), labels("LV", "LCA", "RA"), Unmatched.IGNORE)
    written, becomes = labels_to_write(labels("LV", "structure 7"), labels("LV", "RA"), Unmatched.IGNORE)
    assert (written["ignore"], becomes) == (3, {0: 0, 1: 1, 2: 3})


@pytest.mark.parametrize(
    ("ours", "theirs", "incomplete"),
    [
        (("LV", "LCA"), ("LV", "coronary_arteries"), {"LCA": "coronary_arteries"}),
        (("LV", "LAD", "RCA"), ("LV", "CA"), {"LAD": "CA", "RCA": "CA"}),
        (("LV", "LM", "RCA"), ("LV", "CA"), {"LM": "CA", "RCA": "CA"}),
        (("LAD", "RCA"), ("LCA", "RCA"), {"LAD": "LCA"}),
        (("LAD", "LCX", "RCA"), ("CA",), {}),
        (("CA", "LCA"), ("coronaries",), {}),
    ],
)
def test_a_whole_needs_all_its_parts(ours: tuple[str], theirs: tuple[str], incomplete: dict[str, str]) -> None:
    match = compare_labels(labels(*ours), labels(*theirs))
    assert match.incomplete == incomplete
    assert set(match.unmatched) == set(incomplete)
    assert set(match.missing) == set(incomplete.values())
    assert match.with_incomplete().missing == {}
    assert match.with_incomplete().unmatched == []


def test_a_part_does_not_stand_for_its_whole_without_a_word() -> None:
    ours, theirs = labels("LV", "LCA"), labels("LV", "coronary_arteries")
    with pytest.raises(ValueError, match=r"got none for coronary_arteries \(only a part of it: LCA\); -d has LV, LCA"):
        labels_to_write(ours, theirs, Unmatched.REFUSE)
    with pytest.raises(ValueError, match="ignore must find the labels of -d that hold coronary_arteries, got none"):
        labels_to_write(ours, theirs, Unmatched.IGNORE)
    assert labels_to_write(ours, theirs, Unmatched.BACKGROUND) == (theirs, {0: 0, 1: 1, 2: 2})
    assert match_labels(ours, theirs) == {0: 0, 1: 1, 2: 0}
    assert compare_labels(ours, theirs).describe() == [
        "  background <- LCA", "  nothing stands for coronary_arteries (only a part of it: LCA)",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="labels: at least one must match between .* got none"):
        match_labels(labels("LCA"), labels("coronary_arteries"))
