"""One scale of confidence for all cases: the curve, the scale, and a generator that is calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config

from fcas_nnunet.config.generator import CalibrationConfig, ConfidenceConfig, SamplingConfig
from fcas_nnunet.config.options import ConfidenceChoice, ConfidenceEstimator, ConfidenceNorm, ReferenceSource, Solver
from fcas_nnunet.generator import calibrate as calibrating
from fcas_nnunet.generator import checkpoint
from fcas_nnunet.generator.calibrate import new_shape, plan_drawings
from fcas_nnunet.generator.confidence.calibration import Calibration, Curve, Scale, fit_curve
from fcas_nnunet.generator.confidence.error_model import CHANNEL_MEASURES, MASK_MEASURES, ErrorModel
from fcas_nnunet.generator.data.tensors import MODEL_FILE
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import new_shape_of
from fcas_nnunet.generator.drawing import draw_image
from fcas_nnunet.generator.generate import CaseMaker, Drawer
from fcas_nnunet.generator.plan import plan_cases
from fcas_nnunet.generator.train import add_calibration, train_generator

CPU = torch.device("cpu")
SMALL = CalibrationConfig(num_drawings=4, num_voxels=4000, width=8, num_steps=30, batch_voxels=512)
LINE = Curve((0.0, 1.0), (0.0, 1.0))
SSV = ConfidenceConfig().chosen(ConfidenceChoice.SSV)


def training_data() -> TrainingData:
    return TrainingData([f"p{i}" for i in range(4)], load_small_case, LABELS, SURROUNDINGS)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "fcas__tiny"
    config = replace(short_config(), calibration=SMALL)
    train_generator(training_data(), config, folder, Accelerator(cpu=True))
    return folder


def test_curve_is_the_mean_error_by_doubt_and_never_falls() -> None:
    rng = np.random.default_rng(0)
    doubt = rng.uniform(0, 10, 200_000)
    error = rng.exponential(5 + 3 * doubt)
    curve = fit_curve(doubt, error)
    at = np.array([1.0, 5.0, 9.0])
    assert curve(at) == pytest.approx(5 + 3 * at, rel=0.05)
    assert (np.diff(curve.error) >= 0).all()
    falling = fit_curve(doubt, rng.exponential(40 - 3 * doubt))
    assert falling.error == pytest.approx([25] * len(falling.error), rel=0.02)  # the best monotone one is flat
    assert fit_curve(np.ones(1000), np.full(1000, 7.0))(np.array([0.0, 1.0, 2.0])).tolist() == [7, 7, 7]


def test_confidence_is_a_straight_line_of_expected_error() -> None:
    scale = Scale(LINE, LINE, certain=20, uncertain=120)
    assert scale.to_confidence(np.array([0.0, 20, 70, 120, 400])) == pytest.approx([1, 1, 0.5, 0, 0])
    flat = Scale(LINE, LINE, certain=50, uncertain=50)
    assert flat.to_confidence(np.array([0.0, 50, 100])).tolist() == [1, 1, 1]


def test_surroundings_have_a_scale_of_their_own_unless_it_is_refused() -> None:
    both, structures = calibration(), np.array([True, False, False])
    error = np.array([70.0, 70, 220])
    assert both.to_confidence(error, structures, own_scale_outside=True) == pytest.approx([0.5, 1, 0.5])
    assert both.to_confidence(error, structures, own_scale_outside=False) == pytest.approx([0.5, 0.5, 0])
    doubt = np.array([0.25, 0.25, 0.25])
    assert both.expected_error(ConfidenceEstimator.SSV, doubt, structures) == pytest.approx([0.25, 0.5, 0.5])
    assert both.expected_error(ConfidenceEstimator.ERROR_MODEL, doubt, structures) == pytest.approx([0.25] * 3)


def test_a_calibration_holds_for_the_settings_it_was_made_with() -> None:
    scale = calibration()
    drawn = SamplingConfig(solver=Solver.DPMSOLVER, num_inference_steps=12)
    ssv = SSV.for_generator(calibrated=True)
    assert scale.fits(ssv, drawn) is None
    assert scale.fits(ssv, replace(drawn, num_inference_steps=25)) == "dpmsolver++ of 12 steps"
    assert scale.fits(ssv, replace(drawn, strength=0.5)) == "dpmsolver++ of 12 steps, strength 1"
    assert scale.fits(replace(ssv, num_snapshots=5), drawn) == "9 snapshots x_0"
    assert scale.fits(replace(ConfidenceConfig(num_snapshots=5)).for_generator(calibrated=True), drawn) is None


def test_what_is_left_open_follows_the_generator() -> None:
    own = ConfidenceConfig().for_generator(calibrated=True)
    assert (own.estimator, own.norm) == (ConfidenceEstimator.ERROR_MODEL, ConfidenceNorm.CALIBRATED)
    without = ConfidenceConfig().for_generator(calibrated=False)
    assert (without.estimator, without.norm) == (ConfidenceEstimator.SSV, ConfidenceNorm.ROBUST_STD)
    older = ConfidenceConfig(norm=ConfidenceNorm.ROBUST_STD).for_generator(calibrated=True)
    assert (older.estimator, older.norm) == (ConfidenceEstimator.SSV, ConfidenceNorm.ROBUST_STD)
    for choice in (ConfidenceChoice.ERROR_MODEL, ConfidenceChoice.SSV_CALIBRATED):
        with pytest.raises(ValueError, match="ssv or paper for a generator that is not calibrated"):
            ConfidenceConfig().chosen(choice).for_generator(calibrated=False)
    paper = ConfidenceConfig().chosen(ConfidenceChoice.PAPER).for_generator(calibrated=True)
    assert (paper.source, paper.norm) == ("x_t", ConfidenceNorm.MINMAX_VARIANCE)
    with pytest.raises(ValueError, match="norm: must be calibrated with the error model, got robust_std"):
        ConfidenceConfig(estimator=ConfidenceEstimator.ERROR_MODEL, norm=ConfidenceNorm.ROBUST_STD)


def test_training_ends_with_a_calibration(calibrated: Path) -> None:
    generator = checkpoint.load_generator(calibrated, CPU)
    assert generator.calibrated is not None
    scale = generator.calibrated.calibration
    assert scale.held_out == ("p3",)  # the validation case
    for part in (scale.inside, scale.outside):
        assert 0 < part.certain < part.uncertain
    assert scale.sampling.solver == Solver.DPMSOLVER
    assert not (calibrated / "cache").exists()


def test_calibration_draws_as_generation_does(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 where it is fast, whatever the precision of the training."""
    drawn = []

    def stop(*args: object) -> None:
        drawn.append(args[5])
        raise KeyboardInterrupt

    monkeypatch.setattr("fcas_nnunet.generator.optimisation.precision.supports_bf16", lambda device: True)
    monkeypatch.setattr(calibrating, "draw_on_grid", stop)
    generator = checkpoint.load_generator(calibrated, CPU)
    with pytest.raises(KeyboardInterrupt):
        calibrating.calibrate(generator, training_data(), SMALL, tmp_path, Accelerator(cpu=True))
    assert drawn == [torch.bfloat16]


def test_default_confidence_is_the_error_models(calibrated: Path) -> None:
    generator = checkpoint.load_generator(calibrated, CPU)
    template = load_small_case("p1")
    reference = replace(load_small_case("p3"), image=None, surroundings=None)
    drawing = draw_image(generator, reference, template, 1, CPU, torch.float32)
    assert drawing.spread is None  # no intermediate image was decoded
    assert 0 <= drawing.confidence.min() < drawing.confidence.max() <= 1
    by_ssv = with_confidence(generator, ConfidenceChoice.SSV_CALIBRATED)
    other = draw_image(by_ssv, reference, template, 1, CPU, torch.float32)
    assert np.array_equal(drawing.image, other.image)  # how confidence is found does not change what is drawn
    assert other.spread is not None
    seen = draw_image(generator, reference, template, 1, CPU, torch.float32, with_spread=True)
    assert np.array_equal(seen.confidence, drawing.confidence)
    assert seen.spread == pytest.approx(other.spread)


def test_a_case_says_where_its_confidence_comes_from(calibrated: Path) -> None:
    generator = checkpoint.load_generator(calibrated, CPU)
    plan = plan_cases(1, ["p0", "p1"], ["p0", "p1"], ReferenceSource.GIVEN, seed=0)[0]
    case, record = CaseMaker.of_generator(Drawer(generator, CPU, torch.float32), load_small_case).make(plan)
    assert record["confidence"]["estimator"] == "error_model"
    inside = case.confidence[case.mask > 0]
    assert record["std_confidence_in_structures"] == pytest.approx(inside.std(), abs=1e-5)
    scale, error = generator.calibrated.calibration.inside, record["expected_error"]
    ends = scale.certain, scale.uncertain
    assert (error["at_confidence_1"], error["at_confidence_0"]) == pytest.approx(ends, abs=1e-3)
    # where the confidence is neither 0 nor 1, it is a line of the expected error between these two
    assert ends[0] < error["mean"]
    by_ssv = with_confidence(generator, ConfidenceChoice.SSV)
    assert (
        CaseMaker.of_generator(Drawer(by_ssv, CPU, torch.float32), load_small_case).make(plan)[1]["expected_error"]
        is None
    )


def test_a_generator_trained_before_learns_the_same(calibrated: Path, trained: Path) -> None:
    """Trained without and calibrated later, killed in between: the same weights and scale."""
    assert checkpoint.load_generator(trained, CPU).calibrated is None
    drawn, original = [], calibrating._draw

    def dies_at_the_third(*args: object) -> None:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(original(*args))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "_draw", dies_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            add_calibration(training_data(), SMALL, trained, Accelerator(cpu=True))
    assert not checkpoint.calibration_exists(trained)
    again: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "_draw", lambda *args: again.append(original(*args)))
        add_calibration(training_data(), SMALL, trained, Accelerator(cpu=True))
    assert len(again) == 2  # two drawings were there
    for name in (MODEL_FILE, checkpoint.CONFIG_FILE):
        there, here = (folder / checkpoint.CALIBRATION / name for folder in (calibrated, trained))
        assert there.read_bytes() == here.read_bytes()


def test_calibration_counts_into_the_hash_of_what_uses_it(calibrated: Path) -> None:
    own = ConfidenceConfig().for_generator(calibrated=True)
    assert checkpoint.weights_sha256(calibrated, own) != checkpoint.weights_sha256(calibrated, SSV)


def test_drawings_are_of_unseen_shapes_and_every_fourth_is_held_out(calibrated: Path) -> None:
    record = checkpoint.load_record(calibrated)
    planned = plan_drawings(record, replace(SMALL, num_drawings=8))
    assert [p.reference for p in planned if p.held_out] == ["p3", "p3"]
    assert [p.reference for p in planned if not p.held_out] == ["p0", "p1", "p2", "p0", "p1", "p2"]
    assert all(p.template not in (p.reference, "p3") for p in planned)
    case = load_small_case("p0")
    deformation = new_shape_of(case.mask, case.spacing_mm, record.config.masks, 5)
    shaped = new_shape(case, record, deformation)
    assert not np.array_equal(shaped.mask, case.mask)
    assert set(np.unique(shaped.mask)) == set(np.unique(case.mask))
    assert shaped.surroundings is None or not (shaped.surroundings[shaped.mask > 0]).any()
    # image and mask move together: each structure keeps its mean HU, about; the vessel is three voxels wide
    for label, tolerance in ((1, 30), (2, 30), (3, 100)):
        before, after = case.image[0][case.mask == label].mean(), shaped.image[0][shaped.mask == label].mean()
        assert after == pytest.approx(before, abs=tolerance)


def with_confidence(generator: checkpoint.Generator, choice: ConfidenceChoice) -> checkpoint.Generator:
    config = replace(generator.record.config, confidence=ConfidenceConfig().chosen(choice))
    return replace(generator, record=replace(generator.record, config=config))


def calibration() -> Calibration:
    return Calibration(
        SMALL, SamplingConfig(solver=Solver.DPMSOLVER, num_inference_steps=12), SSV.for_generator(calibrated=False),
        Scale(LINE, LINE, 20, 120), Scale(Curve((0.0, 1.0), (0.0, 2.0)), LINE, 120, 320), ("p3",),
    )  # fmt: skip


@pytest.mark.parametrize("filled", [True, False])
def test_labels_that_fill_every_volume_leave_one_scale_for_both(filled: bool) -> None:
    """And so do structures that resampling has lost."""
    rng = np.random.default_rng(0)
    drawing = {
        calibrating.MEASURES: torch.from_numpy(rng.normal(size=(500, CHANNEL_MEASURES + MASK_MEASURES))),
        calibrating.CODES: torch.full((500,), int(filled), dtype=torch.uint8),
        calibrating.ERROR: torch.from_numpy(rng.exponential(30.0, 500)),
        calibrating.SPREAD: torch.from_numpy(rng.exponential(10.0, 500)),
    }
    inside, outside = calibrating._scales(ErrorModel(8).requires_grad_(False), [drawing], SMALL)
    assert inside == outside
    assert inside.ssv(np.array([5.0])) == pytest.approx(30, rel=0.5)
