"""Blinding, what is shown, readers' files, agreement and tests, each against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fcas_nnunet.config.files import to_dict
from fcas_nnunet.evaluation.reading.page import ShownBag, render_page
from fcas_nnunet.evaluation.reading.protocol import (
    PAPER_CRITERIA,
    Criterion,
    Key,
    Protocol,
    draw_bags,
    load_key,
    load_protocol,
    reading_id,
    refuse_named_methods,
)
from fcas_nnunet.evaluation.reading.results import blocks, evaluate_reading, method_tests, reading_table
from fcas_nnunet.evaluation.reading.scores import load_readers, ranks_of
from fcas_nnunet.evaluation.reading.shown import GREYS, QUALITY, shown_image, voxels_per_volume
from fcas_nnunet.evaluation.statistics.agreement import ordinal_alpha
from fcas_nnunet.evaluation.viewing.atlas import atlas_of

METHODS = ["ours", "theirs", "real"]
KEYS = [criterion.key for criterion in PAPER_CRITERIA]
NAN = math.nan


# --- blinding ---


def test_the_five_criteria_are_the_papers() -> None:
    assert [criterion.name.lower() for criterion in Protocol().criteria] == [
        "visual realism", "interlayer continuity", "topological consistency", "coronary detail preservation",
        "morphological heterogeneity",
    ]  # fmt: skip


def test_bags_hold_every_reference_once_and_letters_are_even() -> None:
    references = [f"case_{i}" for i in range(600)]
    bags = draw_bags(references, METHODS, 3)
    assert sorted(bag.reference for bag in bags) == sorted(references)
    assert [bag.reference for bag in bags] != references
    assert [bags[0].bag_id, bags[-1].bag_id] == ["bag-001", "bag-600"]
    assert all(sorted(bag.methods.values()) == sorted(METHODS) and list(bag.methods) == list("ABC") for bag in bags)
    # All six orders, 100 each on average: chi square with 5 degrees of freedom stays below its 99.9 % quantile.
    orders = Counter(tuple(bag.methods.values()) for bag in bags)
    assert len(orders) == 6
    assert sum((n - 100) ** 2 / 100 for n in orders.values()) < 20.5


def test_a_seed_makes_the_same_bags_and_another_does_not() -> None:
    assert draw_bags(["a", "b", "c"], METHODS, 7) == draw_bags(["a", "b", "c"], METHODS, 7)
    assert any(draw_bags(["a", "b", "c"], METHODS, 7) != draw_bags(["a", "b", "c"], METHODS, s) for s in (8, 9))


@pytest.mark.parametrize("methods", [["one"], [str(i) for i in range(27)]], ids=["one", "27"])
def test_bags_need_two_to_26_methods(methods: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"methods: there must be 2 to 26.*got {len(methods)}"):
        draw_bags(["a"], methods, 0)


def test_the_readings_id_depends_on_what_is_asked_and_shown_alone() -> None:
    same = reading_id(Protocol(), ["ab", "cd"])
    assert same == reading_id(Protocol(), ["ab", "cd"]) != reading_id(Protocol(highest=7), ["ab", "cd"])
    assert same != reading_id(Protocol(), ["cd", "ab"])


def test_texts_that_name_a_method_are_all_refused() -> None:
    refuse_named_methods({"title": "Visual realism of GANs"}, ["real", "GAN"])
    with pytest.raises(ValueError, match="label x: .*'Gan' in it(.|\n)*title: .*'real' in it"):
        refuse_named_methods({"label x": "a gan's", "title": "Is it REAL?"}, ["real", "Gan"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("criteria: [{key: a, name: A}, {key: a, name: B}]", "keys must be there and differ"),
        ("criteria: []", "keys must be there and differ"),
        ("criteria: [{key: Total Score, name: A}]", "small letters"),
        ("criteria: [{key: rank, name: A}]", "not total or rank"),
        ("criteria: [{name: A}]", "key"),
        ("lowest: 0\nhighest: 11", "over 2 to 11 levels, got 0 to 11"),
        ("lowest: 1.5", "lowest: must be a whole number, got 1.5"),
        ("scale: 5", "scale: must be left out, since there is no such setting, got 5"),
        ("- 1", "content must be a mapping"),
        ("a: [", "content must be YAML"),
    ],
)
def test_wrong_criteria_are_refused_with_their_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "criteria.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"criteria.yaml: (.|\n)*{message}"):
        load_protocol(path)


def test_other_criteria_leave_the_rest_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "criteria.yaml"
    path.write_text("criteria:\n  - {key: noise, name: Noise}\nhighest: 3\n")
    assert load_protocol(path) == Protocol(criteria=(Criterion("noise", "Noise"),), highest=3)
    with pytest.raises(FileNotFoundError, match="none.yaml: the file must exist"):
        load_protocol(tmp_path / "none.yaml")


# --- what is shown ---


def test_hu_survive_the_way_to_the_page() -> None:
    low, high = GREYS.knots
    ramp = np.linspace(low - 200, high + 200, 40).reshape(40, 1, 1) * np.ones((1, 32, 32))
    shown = shown_image(ramp, ramp.shape)
    expected = np.clip((ramp - low) / (high - low), 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.51


def test_a_page_too_small_for_its_volumes_is_refused() -> None:
    # 55 MB, three quarters of it pictures, over 80 volumes at one bit: 4.125 million voxels.
    assert voxels_per_volume(55, 80) == 4_125_000
    assert voxels_per_volume(1000, 4) == 12_000_000
    with pytest.raises(
        ValueError, match="--megabytes: page must leave 500000 voxels for each of its 80 volumes, got 75000"
    ):
        voxels_per_volume(1, 80)


def test_user_text_is_escaped_on_the_page() -> None:
    evil = '</script><img src=x onerror="alert(1)">'
    protocol = Protocol(criteria=(Criterion("a", evil, evil),), title=evil, introduction=evil, lowest_means=evil)
    volume = np.zeros((4, 20, 20), dtype=np.uint8)
    bag = ShownBag("bag-01", volume.shape, (1, 1, 1), {"A": atlas_of(volume, QUALITY)}, None)
    page = render_page(protocol, "id", [bag], {evil: 1})
    assert "<img" not in page
    assert page.count("</script>") == 3  # data, one picture, the code


# --- readers' files ---


def make_key(num_bags: int = 2) -> Key:
    """Bags in which letter A is another method each time: ours, theirs, real, ours, ..."""
    bags = draw_bags([f"case_{i}" for i in range(num_bags)], METHODS, 1)
    ids = {bag.bag_id: {letter: f"{method}_{bag.reference}" for letter, method in bag.methods.items()} for bag in bags}
    return Key("abc", 1, Protocol(), {method: f"Dataset_{method}" for method in METHODS}, tuple(bags), ids)


def write_scores(key: Key, path: Path, name: str, by_method: dict[str, list[int]], **changes: Any) -> Path:
    """A file in which every bag's images get `by_method`'s five scores; the ranking is left to the totals."""
    bags = {
        bag.bag_id: {
            "scores": {
                letter: dict(zip(KEYS, by_method[method], strict=True)) for letter, method in bag.methods.items()
            },
            "order": [[letter] for letter, _ in sorted(bag.methods.items(), key=lambda e: -sum(by_method[e[1]]))],
        }
        for bag in key.bags
    }
    content = {
        "schema": "fcas-nnunet/reading-scores", "schema_version": 1, "reading_id": key.reading_id,
        "reader": {"name": name, "experience": "radiologist"}, "bags": bags,
    }  # fmt: skip
    path.write_text(json.dumps(content | changes))
    return path


GIVEN = {"ours": [4, 5, 4, 4, 3], "theirs": [2, 3, 2, 1, 3], "real": [5, 5, 5, 5, 5]}


def test_letters_are_lifted_whatever_their_order(tmp_path: Path) -> None:
    key = make_key(5)
    assert len({tuple(bag.methods.values()) for bag in key.bags}) > 1
    (reader,) = load_readers(key, [write_scores(key, tmp_path / "a.json", " Ada  L. ", GIVEN)])
    assert (reader.name, reader.experience, reader.incomplete) == ("Ada L.", "radiologist", [])
    assert len(reader.images) == 15
    for image in reader.images:
        assert list(image.scores.values()) == GIVEN[image.method]
        assert image.total == sum(GIVEN[image.method])
        assert image.rank == {"real": 1, "ours": 2, "theirs": 3}[image.method]
        assert image.case_id == f"{image.method}_{image.reference}"


def test_equal_places_share_the_mean_rank() -> None:
    assert ranks_of([["C"], ["A", "D", "E"], ["B"]]) == {"C": 1, "A": 3, "D": 3, "E": 3, "B": 5}


def test_every_fault_of_every_file_is_listed(tmp_path: Path) -> None:
    key = make_key()
    good = write_scores(key, tmp_path / "good.json", "Ada", GIVEN)
    twice = write_scores(key, tmp_path / "twice.json", "ADA", GIVEN)
    other = write_scores(key, tmp_path / "other.json", "Bob", GIVEN, reading_id="xyz")
    kind = write_scores(key, tmp_path / "kind.json", "Bob", GIVEN, schema_version=2)
    nameless = write_scores(key, tmp_path / "nameless.json", " ", GIVEN)
    content = json.loads(good.read_text()) | {"reader": {"name": "Cy"}}
    content["bags"]["bag-01"]["scores"]["A"] |= {KEYS[0]: 6, KEYS[1]: 2.5, "beauty": 1}
    content["bags"]["bag-02"]["order"].reverse()
    content["bags"]["bag-09"] = {}
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(content))
    short = tmp_path / "short.json"
    content = json.loads(good.read_text()) | {"reader": {"name": "Di"}}
    del content["bags"]["bag-02"]
    short.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="twice.json") as caught:
        load_readers(key, [good, twice, other, kind, nameless, wrong, short, tmp_path / "none.json"])
    lines = str(caught.value).splitlines()
    for expected in (
        f"{twice}: reader must be another than in {good}, got 'ADA' in both",
        f"{other}: reading must be abc, the key's, got xyz",
        f"{kind}: schema_version of fcas-nnunet/reading-scores must be 1, got 2",
        f"{nameless}: reader must have a name",
        f"{wrong}: bags must be those of the key, got bag-09",
        f"{wrong}: bag-01: A: visual_realism must be a whole number from 1 to 5, got 6",
        f"{wrong}: bag-01: A: interlayer_continuity must be a whole number from 1 to 5, got 2.5",
        f"{wrong}: bag-01: A: criteria must be among",
        f"{wrong}: bag-02: order must follow the totals",
        f"{short}: all 2 bags must be complete, got 1 that are not: bag-02",
        f"{tmp_path / 'none.json'}: file must exist",
    ):
        assert sum(line.startswith(expected) for line in lines) == 1, expected
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "scores must be an object of letters"),
        ({"scores": {"Z": {}}}, "letters must be among A, B, C"),
        ({"scores": {"A": 3}}, "letters must be among A, B, C"),
        ({"scores": {}, "order": [["A"], ["A"], ["B"]]}, "order must be groups that name each of A, B, C once"),
        ({"scores": {}, "order": "ABC"}, "order must be groups"),
        ({"scores": {}, "order": [["A"], ["C"], ["B"]]}, "order must come with every score"),
    ],
)
def test_broken_bags_are_refused(tmp_path: Path, entry: Any, message: str) -> None:
    key = make_key(1)
    path = write_scores(key, tmp_path / "a.json", "Ada", GIVEN, bags={"bag-01": entry})
    with pytest.raises(ValueError, match=f"a.json: bag-01: {message}"):
        load_readers(key, [path], partial=True)


def test_a_partial_reading_counts_what_is_there(tmp_path: Path) -> None:
    key = make_key()
    path = write_scores(key, tmp_path / "a.json", "Ada", GIVEN)
    content = json.loads(path.read_text())
    letter = next(letter for letter, method in key.bags[0].methods.items() if method == "ours")
    del content["bags"]["bag-01"]["scores"][letter][KEYS[0]]
    content["bags"]["bag-01"]["order"] = None
    path.write_text(json.dumps(content))
    (reader,) = load_readers(key, [path], partial=True)
    assert reader.incomplete == ["bag-01"]
    report = evaluate_reading(key, [reader])
    ours = report["summary"]["ours"]
    assert (ours[KEYS[0]]["count"], ours[KEYS[1]]["count"], ours["total"]["count"], ours["rank"]["count"]) == (
        1,
        2,
        1,
        1,
    )
    assert report["tests"][KEYS[0]]["count"] == 1
    assert report["tests"][KEYS[1]]["count"] == 2


def test_a_broken_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"schema": "fcas-nnunet/reading-key", "schema_version": 1, "bags": {"b": {}}}))
    with pytest.raises(ValueError, match="key.json: reading_id: must be given, got nothing"):
        load_key(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="content must be a JSON object, got a list"):
        load_key(path)


# --- statistics ---


def test_alpha_of_krippendorffs_example() -> None:
    """Four observers, twelve units, gaps: ordinal alpha 0.815. Source: Krippendorff (2011), example D."""
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
    assert ordinal_alpha(ratings) == pytest.approx(0.815, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert ordinal_alpha([[1, 2, 3, 5], [1, 2, 3, 5]]) == 1
    # Two readers, two levels, opposite: observed disagreement 1, expected 2 · 2 · 2 / (4 · 3) = 2/3.
    assert ordinal_alpha([[1, 2], [2, 1]]) == pytest.approx(1 - 1 / (2 / 3))
    assert abs(ordinal_alpha(np.random.default_rng(0).integers(1, 6, (2, 4000)).tolist())) < 0.05
    assert math.isnan(ordinal_alpha([[3, 3], [3, 3]]))
    assert math.isnan(ordinal_alpha([[1, 2, NAN], [NAN, NAN, 3]]))


def test_friedman_and_wilcoxon_by_hand() -> None:
    """Six bags ranked 1, 2, 3 alike: chi square = n (k − 1) = 12; each pair 2 / 2^6, times three by Holm."""
    table = np.array([[1.0, 2.0, 3.0 + i / 10] for i in range(6)])
    tests = method_tests(table, METHODS)
    assert tests["friedman_statistic"] == pytest.approx(12)
    assert tests["friedman_p_value"] == pytest.approx(math.exp(-6))  # chi square with 2 degrees of freedom
    assert [(pair["first"], pair["second"]) for pair in tests["pairs"]] == [
        ("ours", "theirs"), ("ours", "real"), ("theirs", "real"),
    ]  # fmt: skip
    assert tests["pairs"][2]["p_value"] == pytest.approx(2 / 2**6)
    assert tests["pairs"][2]["holm_p_value"] == pytest.approx(6 / 2**6)
    assert [pair["difference"] for pair in tests["pairs"]] == pytest.approx([1, 2.25, 1.25])


def test_nothing_to_test_is_no_evidence() -> None:
    same = method_tests(np.full((4, 3), 2.0), METHODS)
    assert (same["friedman_statistic"], same["friedman_p_value"]) == (0, 1)
    assert {pair["holm_p_value"] for pair in same["pairs"]} == {1}
    two = method_tests(np.array([[1.0, 2], [1, 3], [2, 2]]), METHODS[:2])
    assert math.isnan(two["friedman_p_value"])
    assert two["pairs"][0]["p_value"] == pytest.approx(stats.wilcoxon([1, 2, 0]).pvalue)
    assert math.isnan(method_tests(np.empty((0, 2)), METHODS[:2])["pairs"][0]["p_value"])


def test_readers_are_averaged_within_a_bag_for_the_tests(tmp_path: Path) -> None:
    key = make_key()
    second = {"ours": [2, 5, 4, 4, 3], "theirs": [3, 3, 2, 1, 3], "real": [4, 5, 5, 5, 5]}
    readers = load_readers(
        key,
        [write_scores(key, tmp_path / "a.json", "Ada", GIVEN), write_scores(key, tmp_path / "b.json", "Bob", second)],
    )
    images = [image for reader in readers for image in reader.images]
    assert blocks(images, METHODS, KEYS[0]).tolist() == [[3, 2.5, 4.5]] * 2
    report = evaluate_reading(key, readers)
    realism = report["summary"]["ours"][KEYS[0]]
    assert realism == pytest.approx({"mean": 3, "std": math.sqrt(4 / 3), "count": 4, "median": 3})  # 4, 4, 2, 2
    assert list(report["summary"]) == ["real", "ours", "theirs"]  # the best mean rank first
    assert [report["summary"][method]["first_share"] for method in METHODS] == [0, 0, 1]
    assert report["agreement"][KEYS[1]] == 1
    assert report["agreement"][KEYS[0]] < 1
    header, rows = reading_table(report)
    assert header[0] == "method" and header[-1] == "first"
    assert rows[1][:2] == ["ours", "3.00 ± 1.15 (3.0)"]
    assert rows[0][-2:] == ["1.00 ± 0.00 (1.0)", "100%"]


def test_a_shared_first_place_counts_by_halves(tmp_path: Path) -> None:
    key = make_key(1)
    path = write_scores(key, tmp_path / "a.json", "Ada", GIVEN | {"ours": [5] * 5})
    content = json.loads(path.read_text())
    by_method = {method: letter for letter, method in key.bags[0].methods.items()}
    content["bags"]["bag-01"]["order"] = [[by_method["ours"], by_method["real"]], [by_method["theirs"]]]
    path.write_text(json.dumps(content))
    summary = evaluate_reading(key, load_readers(key, [path]))["summary"]
    assert {method: summary[method]["first_share"] for method in METHODS} == {"ours": 0.5, "theirs": 0, "real": 0.5}
    assert summary["ours"]["rank"]["mean"] == 1.5


def test_a_reading_without_a_score_is_refused(tmp_path: Path) -> None:
    key = make_key()
    path = write_scores(key, tmp_path / "a.json", "Ada", GIVEN, bags={})
    with pytest.raises(ValueError, match="readers: at least one image must be scored"):
        evaluate_reading(key, load_readers(key, [path], partial=True))
    assert to_dict(key.protocol)["highest"] == 5
