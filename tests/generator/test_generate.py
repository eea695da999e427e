"""From a few labelled cases to synthetic ones: real networks, few steps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config, small_case
from safetensors.torch import load_file

from fcas_nnunet.config.files import load_config, save_config
from fcas_nnunet.config.generator import ConfidenceConfig, FCaSConfig
from fcas_nnunet.config.options import ConfidenceChoice, ReferenceSource, Solver
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.generator import checkpoint, drawing
from fcas_nnunet.generator.data.grid import GEOMETRY
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import REFERENCE, Variant, make_variants
from fcas_nnunet.generator.drawing import draw_image
from fcas_nnunet.generator.generate import CaseMaker, Drawer, replayed_mask
from fcas_nnunet.generator.mgm.recipe import Recipe
from fcas_nnunet.generator.mgm.resampling import deform_labels
from fcas_nnunet.generator.plan import CasePlan, plan_cases
from fcas_nnunet.generator.tcdm.conditions import build_condition
from fcas_nnunet.generator.train import train_generator
from fcas_nnunet.labels.anatomy import label_roles
from fcas_nnunet.orientation import Orientation

CPU = torch.device("cpu")
SSV = ConfidenceConfig().chosen(ConfidenceChoice.SSV)


def training_data(count=4):
    return TrainingData([f"p{i}" for i in range(count)], load_small_case, LABELS, SURROUNDINGS)


def maker(generator):
    return CaseMaker.of_generator(Drawer(generator, CPU, torch.float32), load_small_case)


def test_training_leaves_weights_and_a_record(trained):
    record = checkpoint.load_record(trained)
    assert record.labels == LABELS
    assert record.working_spacing_mm == (2, 2, 2)
    assert record.validation_cases == ("p3",)
    assert record.cases["p2"] == checkpoint.case_sha256(small_case(2))
    assert record.geometry == GEOMETRY
    assert not (trained / "cache").exists()
    for part in ("autoencoder", "tcdm"):
        assert (trained / part / "progress.png").is_file()


def test_same_settings_train_the_same_weights_interrupted_or_not_and_shown_or_not(trained, tmp_path, monkeypatch):
    calls = []
    original = checkpoint.save_weights

    def dies_after_the_autoencoder(module, path, metadata=None):
        original(module, path, metadata)
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_weights", dies_after_the_autoencoder)
    with pytest.raises(KeyboardInterrupt):
        train_generator(training_data(), short_config(), tmp_path, Accelerator(cpu=True))
    monkeypatch.setattr(checkpoint, "save_weights", original)
    config = short_config()
    shown = replace(config.tcdm, optimisation=replace(config.tcdm.optimisation, sample_every=3))
    train_generator(training_data(), replace(config, tcdm=shown), tmp_path, Accelerator(cpu=True))
    assert [path.name for path in (tmp_path / "tcdm" / "samples").iterdir()] == ["step_000003.png"]
    assert checkpoint.weights_sha256(tmp_path, SSV) == checkpoint.weights_sha256(trained, SSV)


def test_other_settings_do_not_go_on_with_a_run(trained):
    with pytest.raises(ValueError, match=r"fcas__tiny: a run must resume with .*, got seed 1 instead of 0\. Give your"):
        train_generator(training_data(), replace(short_config(), seed=1), trained, Accelerator(cpu=True))
    with pytest.raises(ValueError, match="data it started with, got cases"):
        train_generator(training_data(3), short_config(), trained, Accelerator(cpu=True))


def test_one_case_is_too_few():
    with pytest.raises(ValueError, match="at least 2, since a pair needs two, got 1"):
        training_data(1)


def test_two_cases_validate_on_an_unseen_shape(tmp_path):
    train_generator(training_data(2), short_config(2), tmp_path, Accelerator(cpu=True), keep_cache=True)
    assert checkpoint.load_record(tmp_path).validation_cases == ()
    assert (tmp_path / "cache" / "p1__s2c1__latents.safetensors").is_file()


def test_same_plan_same_case(trained):
    generator = checkpoint.load_generator(trained, CPU)
    plan = plan_cases(2, ["p0", "p1", "p2"], ["p0", "p1", "p2"], ReferenceSource.MGM, seed=0)[1]
    case, record = maker(generator).make(plan)
    again, _ = maker(generator).make(CasePlan.from_record(record))
    np.testing.assert_array_equal(case.image, again.image)
    np.testing.assert_array_equal(case.confidence, again.confidence)
    np.testing.assert_array_equal(case.mask, again.mask)
    assert case.image.dtype == np.int16
    assert -1000 <= case.image.min() < case.image.max() <= 1000
    assert 0 <= case.confidence.min() < case.confidence.max() <= 1
    np.testing.assert_array_equal(case.affine, small_case(0).affine)
    np.testing.assert_array_equal(
        replayed_mask(record, load_small_case(plan.reference), label_roles(LABELS)), case.mask
    )
    assert not np.array_equal(case.mask, load_small_case(plan.reference).mask)


def test_a_case_is_made_again_from_its_line(trained):
    generator = checkpoint.load_generator(trained, CPU)
    for masks in (ReferenceSource.MGM, ReferenceSource.GIVEN):
        plan = plan_cases(1, ["p0", "p1"], ["p0", "p1"], masks, seed=3)[0]
        case, record = maker(generator).make(plan)
        stored = json.loads(json.dumps(record))
        again, its_record = maker(generator).remake(stored)
        for name in ("image", "mask", "confidence"):
            np.testing.assert_array_equal(getattr(again, name), getattr(case, name))
        assert json.loads(json.dumps(its_record)) == stored
        assert record["parents_sha256"]["template"] == checkpoint.case_sha256(load_small_case(plan.template))


def test_given_masks_are_drawn_as_they_are(trained):
    generator = checkpoint.load_generator(trained, CPU)
    plan = plan_cases(1, ["p0", "p1"], ["p0", "p1"], ReferenceSource.GIVEN, seed=0)[0]
    case, _ = maker(generator).make(plan)
    np.testing.assert_array_equal(case.mask, load_small_case(plan.reference).mask)


def test_surroundings_are_drawn_as_they_were_trained(trained, tmp_path, monkeypatch):
    """The paper's other setting: the reference mask holds lungs as well, in training and when drawing."""
    generator = checkpoint.load_generator(trained, CPU)
    record = generator.record
    pairs = replace(record.tcdm.pairs, reference_surroundings=True)
    record = replace(record, tcdm=replace(record.tcdm, pairs=pairs))
    generator = replace(generator, record=record)
    drawn = []

    def seen(reference, *others, **options):
        drawn.append(reference[0, 0])
        return build_condition(reference, *others, **options)

    monkeypatch.setattr(drawing, "build_condition", seen)
    case, _ = maker(generator).make(CasePlan("a", 1, "p0", "p1", ReferenceSource.GIVEN))
    data = TrainingData(["p0", "p1"], load_small_case, LABELS, SURROUNDINGS)
    make_variants(data, "p0", tmp_path, record.working_spacing_mm, replace(record.config, tcdm=record.tcdm))
    assert torch.equal(drawn[0], load_file(tmp_path / Variant("p0", 0, 0).shape_file)[REFERENCE])
    assert drawn[0].unique().tolist() == [0, 1, 2, 3, 4]
    assert case.surroundings is None  # the data set's labels are the structures alone
    np.testing.assert_array_equal(case.mask, small_case(0).mask)

    plan = CasePlan("b", 1, "p0", "p1", ReferenceSource.MGM)
    case, made = maker(generator).make(plan)
    lungs = deform_labels(small_case(0).surroundings, Recipe.from_dict(made["mgm"]).deformation, (2.0, 2.0, 2.0))
    turn = Orientation.of(case.affine).turn
    np.testing.assert_array_equal(drawn[1].numpy(), turn(np.where(case.mask > 0, case.mask, 4 * lungs)))
    assert not np.array_equal(lungs, small_case(0).surroundings)

    with pytest.raises(ValueError, match="a: reference must have surroundings, since the generator was trained with"):
        draw_image(generator, replace(case, case_id="a"), small_case(1), 0, CPU, torch.float32)


def test_all_that_is_wrong_with_a_training_is_listed_before_a_scan_is_read(tmp_path):
    """Three cases leave one shape to validate on, which two shapes do not give."""

    def unread(case_id):
        raise AssertionError(case_id)

    config = short_config()
    tcdm = replace(config.tcdm, pairs=replace(config.tcdm.pairs, num_shapes=2, reference_surroundings=True))
    sampling = replace(config.sampling, solver=Solver.EULER)
    data = TrainingData(["p0", "p1", "p2"], unread, LABELS, {})
    with pytest.raises(ValueError, match="must be") as error:
        train_generator(data, replace(config, tcdm=tcdm, sampling=sampling), tmp_path, Accelerator(cpu=True))
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "tcdm.pairs.reference_surroundings", "solver", "tcdm.pairs.num_shapes",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_yaml(tmp_path, name):
    save_config(PRESETS[name], tmp_path / "config.yaml")
    assert load_config(FCaSConfig, tmp_path / "config.yaml") == PRESETS[name]
