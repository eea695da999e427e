"""A generator of registered templates: trained, resumed, calibrated, and drawn with; registrations are cut short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config, small_case
from scipy.ndimage import distance_transform_edt

from fcas_nnunet.config.generator import CalibrationConfig, ConfidenceConfig, FCaSConfig
from fcas_nnunet.config.options import ConfidenceChoice, ReferenceSource, TemplateRegistration
from fcas_nnunet.generator import calibrate, checkpoint, drawing, generate
from fcas_nnunet.generator.data.grid import WorkingGrid
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.drawing import Registered, condition_on_grid, draw_image, guide, prior_image, with_detail
from fcas_nnunet.generator.generate import CaseMaker, Drawer
from fcas_nnunet.generator.mgm.recipe import Recipe
from fcas_nnunet.generator.mgm.resampling import deform_image
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.sources import registration
from fcas_nnunet.generator.sources.registered import mend
from fcas_nnunet.generator.sources.registration import Registration
from fcas_nnunet.generator.tcdm import templates
from fcas_nnunet.generator.tcdm.conditions import guess_of, origin_of
from fcas_nnunet.generator.train import train_generator

CPU = torch.device("cpu")
SSV = ConfidenceConfig().chosen(ConfidenceChoice.SSV)


def config() -> FCaSConfig:
    short = short_config()
    pairs = replace(short.tcdm.pairs, num_shapes=2, num_contrasts=2, num_partners=1, self_pair_probability=0.5)
    tcdm = replace(short.tcdm, pairs=pairs, registration=TemplateRegistration.DEFORMABLE)
    small = CalibrationConfig(num_drawings=4, num_voxels=2000, width=8, num_steps=5, batch_voxels=512)
    return replace(short, preset="registered", tcdm=tcdm, calibration=small)


@pytest.fixture(scope="module", autouse=True)
def short_registrations() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "_AFFINE_STEPS", 8)
        patch.setattr(registration, "_FLOW_STEPS", 2)
        yield


def data() -> TrainingData:
    return TrainingData([f"p{number}" for number in range(4)], load_small_case, LABELS, SURROUNDINGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator") / "fcas__registered"
    train_generator(data(), config(), folder, Accelerator(cpu=True))
    return folder


def maker(folder: Path, registrations: Path | None = None) -> CaseMaker:
    generator = checkpoint.load_generator(folder, CPU)
    made = CaseMaker.of_generator(Drawer(generator, CPU, torch.float32), load_small_case)
    made.registrations = registrations
    return made


def test_its_record_says_so_and_a_killed_training_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checkpoint.load_record(folder).tcdm.registers
    found: list[str] = []
    register, save = registration.register, templates.save_tensors

    def dies(*arguments: object) -> Registration:
        found.append("registered")
        if len(found) == 3:
            raise KeyboardInterrupt
        return register(*arguments)  # type: ignore[arg-type]

    def dies_later(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if len(list(path.parent.glob("*__by0*"))) == 3:
            raise KeyboardInterrupt
        save(tensors, path)

    monkeypatch.setattr(templates, "register", dies)
    with pytest.raises(KeyboardInterrupt):
        train_generator(data(), config(), tmp_path, Accelerator(cpu=True))
    assert len(list((tmp_path / "cache").glob("*__to__*"))) == 2
    monkeypatch.setattr(templates, "save_tensors", dies_later)
    with pytest.raises(KeyboardInterrupt):
        train_generator(data(), config(), tmp_path, Accelerator(cpu=True))
    monkeypatch.setattr(templates, "save_tensors", save)
    train_generator(data(), config(), tmp_path, Accelerator(cpu=True))
    assert len(found) == 1 + len({*range(len(found) - 1)})  # the third was begun twice, no other
    assert checkpoint.weights_sha256(tmp_path, SSV) == checkpoint.weights_sha256(folder, SSV)


def test_a_mask_is_drawn_from_the_template_that_was_brought_onto_it(folder: Path, tmp_path: Path) -> None:
    """The registration is found once, and composed with the mask's deformation."""
    seen: list[Registered] = []
    original = generate.draw_image

    def watched(generator: object, reference: object, template: Registered, *more: object) -> object:
        seen.append(template)
        return original(generator, reference, template, *more)  # type: ignore[arg-type]

    plan = CasePlan("a", 1, "p0", "p1", ReferenceSource.MGM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "draw_image", watched)
        case, record = maker(folder, tmp_path).make(plan)
        assert len(list(tmp_path.iterdir())) == 1
        patch.setattr(generate, "register", None)  # it is read
        again, _ = maker(folder, tmp_path).remake(record)
    np.testing.assert_array_equal(again.image, case.image)
    np.testing.assert_array_equal(again.confidence, case.confidence)
    (way,) = (Registration.load(path) for path in tmp_path.iterdir())
    deformation = Recipe.from_dict(record["mgm"]).deformation
    generator = checkpoint.load_generator(folder, CPU)
    expected = guide(generator.record, small_case(0), small_case(1), deformation, way)
    assert isinstance(expected, Registered)
    np.testing.assert_array_equal(seen[0].brought.image, expected.brought.image)
    np.testing.assert_array_equal(seen[0].own, deform_image(small_case(0).image, deformation, (2.0, 2.0, 2.0)))


def test_a_reference_that_is_its_own_template_needs_no_registration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "register", None)
    case, _ = maker(folder, tmp_path).make(CasePlan("a", 1, "p0", "p0", ReferenceSource.GIVEN))
    assert not list(tmp_path.iterdir())
    generator = checkpoint.load_generator(folder, CPU)
    guided = guide(generator.record, small_case(0), small_case(0), registration=Registration.identity())
    prior = prior_image(generator, replace(small_case(0), image=None), guided, CPU)
    assert np.abs(prior - small_case(0).image).mean() < 3  # the working grid is the scan's
    assert case.image is not None


def test_the_guess_is_the_mended_template_on_the_working_grid(folder: Path) -> None:
    generator = checkpoint.load_generator(folder, CPU)
    record, reference, template = generator.record, small_case(0), small_case(1)
    assert reference.image is not None
    shift = replace(Registration.identity(), offset_mm=np.array([12.0, 0, 0]))
    guided = guide(record, reference, template, registration=shift)
    assert isinstance(guided, Registered)
    grid = WorkingGrid.of_case(reference, record.working_spacing_mm, record.tcdm)
    condition, _ = condition_on_grid(record, reference, guided, grid, CPU)
    guess = guess_of(condition, record.tcdm)
    assert guess is not None
    values = guess[0, 0].numpy() * 2000 - 1000
    origin = condition[0, 17].numpy()
    assert (origin[-6:] == 1).all()  # 12 mm are beyond the template
    mended = mend(guided.brought, reference.mask, guided.own, max(LABELS.values()))
    turn = grid.orientation.turn  # else, the grids are the same
    difference = np.abs(values - turn(mended.image[0]).clip(-1000, 1000))
    np.testing.assert_array_equal(turn(mended.origin), np.round(2 * origin))
    assert difference[origin == 0].max() < 1  # of two borders as near, either may be the mirror
    assert difference[origin == 1].max() < 20  # what is clipped before does not count for its contrast
    for label in (1, 2):
        wanted = (turn(reference.mask) == label) & (origin == 0.5)
        assert wanted.any()
        assert np.median(values[wanted]) == pytest.approx(np.median(template.image[0][template.mask == label]), abs=15)


def test_the_calibration_draws_as_generation_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[object] = []
    original = calibrate.draw_on_grid

    def watched(generator: object, reference: object, template: object, *more: object) -> object:
        seen.append(template)
        return original(generator, reference, template, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate, "draw_on_grid", watched)
    generator = checkpoint.load_generator(folder, CPU)
    assert generator.calibrated is not None
    few = replace(generator.calibrated.calibration.config, num_drawings=4)
    calibrate.calibrate(generator, data(), few, tmp_path, Accelerator(cpu=True))
    assert [type(template) for template in seen] == [Registered] * 4


def test_a_template_that_is_not_registered_is_no_guide_for_it(folder: Path) -> None:
    generator = checkpoint.load_generator(folder, CPU)
    with pytest.raises(AssertionError, match="has registered it"):
        draw_image(generator, small_case(0), small_case(1), 0, CPU, torch.float32)
    assert drawing.guide(short_record(generator), small_case(0), small_case(1)) is not None


def short_record(generator: checkpoint.Generator) -> checkpoint.GeneratorRecord:
    """The record of a generator of the paper's mode."""
    tcdm = replace(generator.record.tcdm, registration=TemplateRegistration.NONE)
    return replace(generator.record, tcdm=tcdm)


def test_what_the_autoencoder_loses_of_a_template_in_place_is_there_again(folder: Path) -> None:
    generator = checkpoint.load_generator(folder, CPU)
    record, reference = generator.record, small_case(0)
    shift = replace(Registration.identity(), offset_mm=np.array([4.0, 0, 0]))
    guided = guide(record, reference, small_case(1), registration=shift)
    grid = WorkingGrid.of_case(reference, record.working_spacing_mm, record.tcdm)
    condition, _ = condition_on_grid(record, reference, guided, grid, CPU)
    guess, mirrored = guess_of(condition, record.tcdm), (origin_of(condition, record.tcdm) == 0.5)[0, 0]
    assert guess is not None
    with torch.no_grad():
        rebuilt = generator.autoencoder.decode(generator.autoencoder.encode(guess)[0])[0]
        found = with_detail(generator, rebuilt, condition)
    unsure = mirrored.numpy().copy()
    unsure[30] = True  # from there on, the scan is the reference's own
    far = torch.from_numpy(distance_transform_edt(~unsure, sampling=(2.0, 2.0, 2.0)) >= 4)
    assert (rebuilt - guess[0])[0][far].abs().mean() > 1e-3
    torch.testing.assert_close(found[0][far], guess[0, 0][far], atol=1e-6, rtol=0)
    assert torch.equal(found[0][unsure], rebuilt[0][unsure])
    plain = replace(generator, record=short_record(generator))
    assert with_detail(plain, rebuilt, condition) is rebuilt
