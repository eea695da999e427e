"""What the report computes: measures, verdicts, reduced volumes, tables of results, curves, colours."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_sets import LABELS, SHAPE, SPACING_MM, heart, image_quality, record, write_result

from fcas_nnunet.commands.evaluate import memorisation
from fcas_nnunet.commands.report import page
from fcas_nnunet.evaluation.images.intensities import structure_histograms
from fcas_nnunet.evaluation.report.checks import (
    Level,
    check_confidence,
    check_contrast,
    check_count,
    check_expected_error,
    check_files,
    check_masks,
    check_structures,
    check_weights,
    verdict,
)
from fcas_nnunet.evaluation.report.curves import generator_curves, nnunet_curves
from fcas_nnunet.evaluation.report.measures import (
    CaseMeasures,
    Spread,
    confidence_spread,
    measure_case,
    summarise_structures,
)
from fcas_nnunet.evaluation.report.provenance import common_fields, run_seed
from fcas_nnunet.evaluation.report.results import show_result
from fcas_nnunet.evaluation.results import COMPARISON, FIDELITY, MEMORISATION, SEGMENTATIONS, VERSIONS, read_result
from fcas_nnunet.evaluation.viewing.charts import intensity_chart, nice_ticks
from fcas_nnunet.generator.confidence.calibration import Curve, Scale

LINE = Curve((0.0, 1.0), (0.0, 1.0))
NAMES = [name for name in LABELS if LABELS[name]]


def measured(brighter: int = 0, trust: float = 0.5) -> CaseMeasures:
    image, mask = heart()
    return measure_case(image + brighter, mask, np.full(SHAPE, trust), LABELS, SPACING_MM)


# ---- Measures


def test_a_case_is_counted_as_it_is() -> None:
    image, mask = heart()
    confidence = np.where(mask == 2, 0.2, 0.6)
    case = measure_case(image, mask, confidence, LABELS, SPACING_MM)
    assert case.voxels == {name: np.count_nonzero(mask == LABELS[name]) for name in NAMES}
    assert case.volumes_ml["coronary_arteries"] == pytest.approx(15 * 3 / 1000)
    expected = structure_histograms(image, mask, LABELS)
    for name in NAMES:
        np.testing.assert_allclose(case.intensities[name], expected[name], rtol=1e-6)
    # 0.2 and 0.6 are 51/255 and 153/255 exactly
    assert case.confidence["ascending_aorta"][51] == 1
    assert case.confidence["left_ventricle"][153] == 1
    part = case.voxels["ascending_aorta"] / sum(case.voxels.values())
    assert case.mean_confidence == pytest.approx(0.2 * part + 0.6 * (1 - part), abs=1e-6)


def test_what_is_not_there_has_no_measures() -> None:
    image, mask = heart()
    case = measure_case(image, np.where(mask == 3, 0, mask).astype(np.uint8), None, LABELS, SPACING_MM)
    assert case.voxels["coronary_arteries"] == 0
    assert "coronary_arteries" not in case.intensities
    assert case.inside is None
    assert math.isnan(case.mean_confidence)


def test_structures_over_two_sets() -> None:
    synthetic, real = [measured(0), measured(30)], [measured(0), measured(60)]
    summary = {s.name: s for s in summarise_structures(synthetic, real, NAMES)}["coronary_arteries"]
    assert summary.contrast is not None
    assert (summary.contrast.synthetic.mean, summary.contrast.real.mean) == (
        pytest.approx(365),
        pytest.approx(380),
    )
    assert summary.contrast.wasserstein == pytest.approx(15, abs=1e-3)  # half of the voxels are moved by 30
    assert summary.variety == pytest.approx(0.5)
    assert (summary.shown, summary.shown_real) == (2, 2)
    assert summary.volume_ml.mean == pytest.approx(0.045)
    assert summary.confidence == Spread(pytest.approx(128 / 255), pytest.approx(0, abs=1e-9), 128 / 255, 128 / 255)
    alone = summarise_structures(synthetic, None, NAMES)[0]
    assert (alone.contrast, alone.variety, alone.volume_ml_real) == (None, None, None)


def test_confidence_spread_by_hand() -> None:
    shares = np.zeros(256)
    shares[[0, 255]] = 0.04, 0.96
    other = np.zeros(256)
    other[[0, 51]] = 0.1, 0.9
    spread = confidence_spread([shares, other])
    assert spread is not None
    mean = (0.96 + 0.9 * 0.2) / 2
    assert spread.mean == pytest.approx(mean)
    assert spread.std == pytest.approx(math.sqrt((0.96 + 0.9 * 0.04) / 2 - mean**2))
    assert (spread.low, spread.high) == (0, 1)  # 7 % lie at 0
    assert confidence_spread([]) is None


# ---- Verdicts


@pytest.mark.parametrize(("count", "level"), [(9, "bad"), (10, "look"), (49, "look"), (50, "ok")])
def test_the_number_of_cases(count: int, level: str) -> None:
    assert check_count(count).level == level


@pytest.mark.parametrize(("std", "mean", "levels"), [
    (0.01, 0.98, ["bad", "ok"]), (0.03, 0.4, ["look", "look"]), (0.2, 0.1, ["ok", "bad"]), (0.2, 0.8, ["ok", "ok"]),
])  # fmt: skip
def test_a_flat_or_low_confidence_is_named(std: float, mean: float, levels: list[str]) -> None:
    assert [check.level for check in check_confidence(Spread(mean, std, 0, 1), [])] == levels


def test_missing_maps_are_named() -> None:
    assert [(c.level, c.value) for c in check_confidence(None, ["a"])] == [("bad", "no maps")]
    missing = check_confidence(Spread(0.8, 0.2, 0, 1), [f"case_{n}" for n in range(5)])[-1]
    assert (missing.level, missing.value) == ("bad", "case_0, case_1, case_2 and 2 more")


def test_contrast_variety_and_volumes() -> None:
    structures = summarise_structures([measured(100), measured(101)], [measured(0), measured(60)], NAMES)
    contrast, variety, volumes = check_contrast(structures, "Dataset711_Heart")
    assert (contrast.level, contrast.value[:5]) == ("look", "70 HU")  # 100 and 101 against 0 and 60
    assert variety.level == "bad"  # a spread of 1 against 60
    assert volumes.level == "ok"
    half = [replace(case, voxels={n: v // 4 for n, v in case.voxels.items()}) for case in (measured(0), measured(60))]
    volumes = check_contrast(summarise_structures(half, [measured(0), measured(60)], NAMES), "real")[-1]
    assert (volumes.level, volumes.value[:4]) == ("bad", "0.20")  # 3 of the artery's 15 voxels


def test_structures_that_are_missing_or_hardly_weighed() -> None:
    cases = [measured(trust=0.2), measured(trust=0.2)]
    without = replace(cases[1], voxels=cases[1].voxels | {"coronary_arteries": 0}, intensities={}, confidence={})
    assert check_structures(summarise_structures(cases, None, NAMES), 2, None).level == "ok"
    some = check_structures(summarise_structures([cases[0], without], None, NAMES), 2, None)
    assert (some.level, some.value) == ("look", "coronary arteries in 1 of 2")
    nowhere = summarise_structures([without, without], None, NAMES)
    assert check_structures(nowhere, 2, None).level == "bad"
    # not asked for where the real scans do not show it either
    assert check_structures(summarise_structures([without] * 2, [without] * 2, NAMES), 2, 2).level == "ok"
    weights = check_weights(summarise_structures(cases, None, NAMES))
    assert weights is not None
    assert (weights.level, weights.value[:4]) == ("look", "0.20")


def drawn_by(factor: float) -> tuple[Spread, dict[str, dict[str, Any]]]:
    """Confidence and manifest of 60 cases whose errors are so many times those of a good generator, calibrated anew."""
    errors = factor * np.random.default_rng(0).exponential(50, (60, 500))
    scale = Scale(LINE, LINE, *np.percentile(errors, (5, 95)))
    shares = [np.bincount(np.rint(255 * scale.to_confidence(case)).astype(int), minlength=256) / 500 for case in errors]
    records = {
        f"c{number}": {"expected_error": {"mean": float(case.mean()), "at_confidence_1": scale.certain,
                                             "at_confidence_0": scale.uncertain}}
        for number, case in enumerate(errors)
    }  # fmt: skip
    spread = confidence_spread(shares)
    assert spread is not None
    return spread, records


def test_a_generator_made_worse_lowers_the_verdict() -> None:
    """Its maps are those of the good one, since they lie between percentiles of its own errors: only HU can tell."""
    verdicts = {}
    for factor in (1.0, 2.0, 10.0):
        spread, records = drawn_by(factor)
        assert vars(spread) == pytest.approx(vars(drawn_by(1.0)[0]), abs=1e-3)
        checks = [check_count(60), *check_confidence(spread, []), *check_expected_error(records)]
        verdicts[factor] = verdict(checks).level
    assert verdicts == {1.0: Level.OK, 2.0: Level.LOOK, 10.0: Level.BAD}


def test_a_generator_that_is_126_hu_off_is_not_worth_training_on() -> None:
    entry = {"mean": 126.0, "at_confidence_1": 40.0, "at_confidence_0": 300.0}
    error, scale = check_expected_error({"a": {"expected_error": entry}})
    assert (error.level, error.value) == (Level.BAD, "126 HU inside the structures")
    assert (scale.level, scale.value) == (Level.OK, "1 = 40 HU, 0 = 300 HU")


def test_a_scale_without_a_difference_and_none_at_all() -> None:
    entry = {"mean": 60.0, "at_confidence_1": 55.0, "at_confidence_0": 65.0}
    assert check_expected_error({"a": {"expected_error": entry}})[1].level == Level.BAD
    (unknown,) = check_expected_error({"a": {"expected_error": entry}, "b": {"expected_error": None}})
    assert (unknown.level, unknown.value) == (Level.LOOK, "not known in HU")
    assert check_expected_error({}) == []


def test_masks_and_files() -> None:
    assert check_masks({"a": {"masks": "given"}}) is None
    records = {f"c{n}": {"masks": "mgm", "mgm": {"rejections": ["why"] * n}} for n in range(4)}
    check = check_masks(records)
    assert check is not None
    assert (check.level, check.value) == ("look", "6 for 4 new masks")
    assert [check_files(*arguments).level for arguments in (([], True), ([], False), (["gone"], True))] == [
        Level.OK, Level.LOOK, Level.BAD,
    ]  # fmt: skip


def test_the_verdict_is_the_worst_check() -> None:
    good, look, bad = check_count(99), check_count(20), check_count(1)
    assert verdict([good]).headline == "Worth training on"
    assert verdict([good, look]).level == "look"
    assert verdict([look, bad, good]).sentence == "Mend first: number of cases."


# ---- Results


def test_image_quality_as_a_table(tmp_path: Path) -> None:
    shown = show_result(read_result(write_result(tmp_path / "quality.json", image_quality())))
    assert shown.title == "Image quality"
    assert shown.tables[0].rows[0] == ["SSIM", "0.7000", "0.1000", "3"]
    assert shown.scores["SSIM"]["fcas_00001"] == pytest.approx(0.7)


def test_segmentations_as_a_table() -> None:
    entry = {"dice": {"mean": 0.91234, "std": 0.02, "count": 4},
             "rdice": {"1": {"mean": 0.95, "std": None, "count": 4}},
             "both_empty": 0, "only_prediction_empty": 1, "only_reference_empty": 0,
             "hd95_mm": {"mean": None, "std": None, "count": 0}}  # fmt: skip
    content = {
        "schema": "fcas-nnunet/segmentations", "references": "labelsTs", "predictions": "out",
        "settings": {"labels": {"aorta": 1}, "rdice_radii_voxels": [1], "empty_masks": "no score"},
        "summary": {
            "labels": {"aorta": entry}, "foreground_mean": {"dice": 0.91234, "rdice": {"1": 0.95}, "hd95_mm": None},
        },
        "cases": {"a": {"aorta": {"dice": 0.5}, "lv": {"dice": None}}},
    }  # fmt: skip
    shown = show_result(content)
    assert shown.tables[0].header == ["label", "Dice %", "RDice 1 %", "HD95 mm (n)", "cases", "empty in one"]
    assert shown.tables[0].rows[0] == ["aorta", "91.2 ± 2.0", "95.0", "– (0)", "4", "1 missed, 0 false"]
    assert shown.scores == {"mean Dice": {"a": 0.5}}


def test_comparisons_as_a_table() -> None:
    label = {"first_mean": 0.8, "second_mean": 0.85, "difference": 0.05, "interval": [0.01, 0.09], "p_value": 0.0313,
             "holm_p_value": None, "count": 6}  # fmt: skip
    content = {"schema": "fcas-nnunet/comparison", "first": "a.json", "second": "b.json",
               "settings": {"measure": "dice"}, "labels": {"aorta": label}}  # fmt: skip
    assert show_result(content).tables[0].rows == [
        ["aorta", "0.8000", "0.8500", "+0.0500", "+0.0100 … +0.0900", "0.0313", "–", "6"]
    ]


def test_memorisation_is_shown_as_it_is_printed() -> None:
    entry = {
        "synthetic": {"median": 0.3}, "real": {"median": 0.35}, "threshold": {"value": 0.25, "rule": "5 % quantile"},
        "flagged": 1, "expected_flagged": 0.5, "nearer": {"share": 0.6, "interval": [0.4, 0.8]},
    }  # fmt: skip
    content = {
        "schema": MEMORISATION, "schema_version": 2, "training": "Dataset901_Heart", "flagged": [], "cases": {},
        "settings": {"patch_mm": 32, "features": None, "real_scans": {"count": 4, "kind": "held_out"}},
        "summary": {"image": entry}, "nearest_is_template": {"measures": {}, "cases_without": 2},
    }  # fmt: skip
    shown = page.shown_result(content)
    assert (shown.title, shown.subtitle) == ("Memorisation", "training: Dataset901_Heart")
    assert shown.settings["patch mm"] == "32"
    assert [table.title for table in shown.tables] == ["Summary"]
    assert (shown.tables[0].header, shown.tables[0].rows) == memorisation.table(content)
    assert shown.tables[0].rows[0][:5] == ["image (1 − correlation)", "0.3000", "0.3500", "0.2500", "1"]
    assert "2 synthetic cases without a template in Dataset901_Heart" in shown.notes
    del content["summary"]
    with pytest.raises(ValueError, match="memorisation: fields must be those of docs/evaluation.md, got none.*summary"):
        page.shown_result(content)


def test_a_result_within_a_result_is_shown_too() -> None:
    content = {"schema": "fcas-nnunet/fidelity", "settings": {}, "segmentations": image_quality(1)}
    printed = SimpleNamespace(table=lambda _: (["label", "Dice"], [["aorta", "91.2"]]), notes=lambda _: ["worst: a"])
    shown = show_result(content, printed)
    assert (shown.tables[0].header, shown.tables[0].rows, shown.notes) == (
        ["label", "Dice"], [["aorta", "91.2"]], ["worst: a"],
    )  # fmt: skip
    assert shown.tables[1].title == "Image quality: Pairs under the same mask, and whole sets"
    assert shown.tables[1].rows[0][:2] == ["SSIM", "0.7000"]
    assert shown.scores["SSIM"] == {"fcas_00000": 0.8}


def test_results_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"none.json: file must exist, got none. Name a result .* -o .*/none.json$"
    ):
        read_result(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken.json: content must be JSON.* -o .*/broken_2.json$"):
        read_result(tmp_path / "broken.json")
    with pytest.raises(
        ValueError, match=r"schema must be one of fcas-nnunet/seg.*, got other/thing.* -o .*/other_2.json$"
    ):
        read_result(write_result(tmp_path / "other.json", {"schema": "other/thing"}))
    with pytest.raises(ValueError, match=r"schema must be one of .*, got None"):
        read_result(write_result(tmp_path / "list.json", {}))
    old = write_result(tmp_path / "drawn.json", {"schema": FIDELITY, "schema_version": 1})  # of all scans alike
    with pytest.raises(ValueError, match=r"must be 2, got 1\. .*: fcas_evaluate fidelity \.\.\. -o .*/drawn"):
        read_result(old)
    for version in (0, 99, None):
        with pytest.raises(
            ValueError, match=rf"version of .*/comparison must be 1, got {version}\. .* compare .* -o .*/old.json$"
        ):
            read_result(write_result(tmp_path / "old.json", {"schema": COMPARISON, "schema_version": version}))
    known = write_result(tmp_path / "other.json", {"schema": COMPARISON, "schema_version": VERSIONS[COMPARISON]})
    with pytest.raises(
        ValueError, match=r"one of fcas-nnunet/segmentations, got fcas-nnunet/comp.* -o .*/other_2.json$"
    ):
        read_result(known, [SEGMENTATIONS])
    with pytest.raises(ValueError, match=r"fcas-nnunet/comparison: fields must be those of docs/evaluation.md"):
        show_result({"schema": "fcas-nnunet/comparison"})


# ---- Curves


def test_the_generators_log_is_read_and_the_last_telling_counts() -> None:
    log = (
        "step 100: loss 0.50000, validation 0.40000, learning rate 1.00e-03\n"
        "step 200: loss 0.30000, validation nan, learning rate 1.00e-03\nnoise\n"
        "step 200: loss 0.20000, validation 0.25000, learning rate 1.00e-03\nstep 300: loss 0.1"
    )
    curves = generator_curves("Generator, tcdm", log)
    assert curves is not None
    assert (curves.x, curves.train, curves.validation) == ([100, 200], [0.5, 0.2], [0.4, 0.25])
    assert curves.last == "step 200: training 0.2, validation 0.25"
    assert 'class="line train" d="M52.0' in curves.chart
    assert curves.dice_chart == ""
    assert generator_curves("x", "nothing here") is None


def test_nnunets_log_is_read() -> None:
    log = """
2026-01-02 10:11:12.123456: Epoch 0
2026-01-02 10:11:12.123456: Current learning rate: 0.01
2026-01-02 10:12:12.123456: train_loss -0.1234
2026-01-02 10:12:12.123456: val_loss -0.2
2026-01-02 10:12:12.123456: Pseudo dice [np.float32(0.5), np.float32(0.7), nan]
2026-01-02 10:12:13.123456: Epoch 1
2026-01-02 10:13:12.123456: train_loss nan
2026-01-02 10:13:12.123456: val_loss -0.3
2026-01-02 10:13:12.123456: Pseudo dice [0.6, 0.8]
2026-01-02 10:13:13.123456: Epoch 2
2026-01-02 10:14:12.123456: train_loss -0.4"""
    curves = nnunet_curves("fold 0", [log])
    assert curves is not None
    assert curves.x == [0, 1]  # the third epoch has not ended
    assert curves.train[0] == -0.1234
    assert math.isnan(curves.train[1])
    assert curves.dice == pytest.approx([0.6, 0.7])
    again = nnunet_curves("fold 0", [log, "2026-01-03 10:10:10.1: Epoch 1\nx: train_loss -0.9\nx: val_loss -0.8"])
    assert again is not None
    assert again.train == [-0.1234, -0.9]
    assert nnunet_curves("fold 0", ["no epoch"]) is None


# ---- Provenance


def test_what_records_share() -> None:
    records = {f"fcas_{n:05d}": record(f"fcas_{n:05d}", n) for n in range(3)}
    common = common_fields(records)
    assert common["source"] == "Dataset711_Heart"
    assert not {"case_id", "seed", "reference", "mgm"} & common.keys()
    assert run_seed(records) == 7
    assert common_fields({}) == {}


# ---- Charts


@given(st.floats(-2000, 2000), st.floats(1e-3, 5000))
def test_ticks_are_few_and_within(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert 1 <= len(ticks) <= 4
    assert all(low - 1e-6 * width <= tick <= low + width + 1e-6 * width for tick in ticks)


def test_an_intensity_chart_spans_what_is_shown() -> None:
    shares = np.zeros(4096)
    shares[1024 + 100 : 1024 + 200] = 0.01  # 100 to 199 HU
    chart = intensity_chart(shares, None, -1024, "#123456", "left & <ventricle>")
    assert 'aria-label="left &amp; &lt;ventricle&gt;"' in chart
    assert "fill:#123456" in chart
    assert ">150<" in chart or ">160<" in chart
    assert intensity_chart(None, None, -1024, "#123456", "x") == ""
