"""Registered templates of training pairs: where the ways lead, what is brought, and what the denoiser is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fcas_nnunet_small import LABELS, load_small_case

from fcas_nnunet.case import Case
from fcas_nnunet.config.generator import FCaSConfig, GridConfig, PairConfig
from fcas_nnunet.config.options import TemplateRegistration
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.autoencoder.latents import LOG_STD, MEAN
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import (
    REFERENCE,
    TEMPLATE,
    Variant,
    make_variants,
    read_image,
    read_tensors,
    save_tensors,
)
from fcas_nnunet.generator.sources.registered import IN_PLACE, MIRRORED, OWN
from fcas_nnunet.generator.sources.registration import Registration
from fcas_nnunet.generator.tcdm import templates
from fcas_nnunet.generator.tcdm.pairs import PairSampler, RegisteredEnd
from fcas_nnunet.generator.tcdm.templates import (
    GUESS,
    GUESS_CODES,
    ORIGIN,
    RegisteredTemplate,
    ThereAndBack,
    make_templates,
    partners_of,
    read_template,
    register_partners,
)

CASES = [f"p{number}" for number in range(2)]
SPACING = (2.0, 2.0, 2.0)
WHOLE = (slice(None),) * 3


def shifted(d: float = 0, h: float = 0, w: float = 0) -> Registration:
    """Every point of the reference lies so many mm further along in the template."""
    return replace(Registration.identity(), offset_mm=np.array([d, h, w], float))


def labels_of(codes: torch.Tensor) -> torch.Tensor:
    """Codes without the surroundings."""
    return torch.where(codes <= 3, codes, 0)


def config_of(**pairs: object) -> FCaSConfig:
    settings = PairConfig(num_shapes=2, num_contrasts=2, num_partners=1, **pairs)
    tcdm = replace(TINY.tcdm, pairs=settings, registration=TemplateRegistration.DEFORMABLE)
    autoencoder = replace(TINY.autoencoder, crop_size=(16, 16, 16))
    return replace(TINY, tcdm=tcdm, grid=GridConfig(crop_size=(16, 16, 16)), autoencoder=autoencoder)


def made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ways: dict[str, Registration], config: FCaSConfig
) -> TrainingData:
    """Variants and templates of two cases, registered by these ways from each case to the other."""

    def register(reference: Case, template: Case, num_labels: int) -> Registration:
        return ways[reference.case_id]

    monkeypatch.setattr(templates, "register", register)
    monkeypatch.setattr(templates, "local_share", lambda items, *_: items)
    data = TrainingData(CASES, load_small_case, LABELS, {})
    register_partners(data, folder, config, AloneAccelerator())  # type: ignore[arg-type]
    for case_id in CASES:
        make_variants(data, case_id, folder, SPACING, config)
        make_templates(data, case_id, folder, SPACING, config)
    return data


class AloneAccelerator:
    """One process."""

    def wait_for_everyone(self) -> None:
        """Nobody to wait for."""


def test_partners_are_training_cases_near_in_a_ring_and_mostly_each_others() -> None:
    training = [f"p{number}" for number in range(9)]
    of = {case_id: partners_of(case_id, training, 2) for case_id in training}
    assert all(len(set(found)) == 2 and case_id not in found for case_id, found in of.items())
    assert all(case_id in of[partner] for case_id, found in of.items() for partner in found)
    assert set(partners_of("held out", training, 4)) <= set(training)
    assert len(partners_of("held out", training, 4)) == 4
    assert partners_of("p0", ["p0", "p1"], 5) == ["p1"]


def test_there_and_back_ends_beside_where_it_began_as_far_as_it_counts() -> None:
    points = torch.tensor([[10.0, 20, 30], [58, 20, 30]])
    way = ThereAndBack(shifted(d=5), shifted(d=-3), (60.0,) * 3, None, SPACING)
    # the second point leaves the partner, whose border it is taken from
    assert way.points_mm(points).tolist() == [[12, 20, 30], [57, 20, 30]]
    share = np.zeros((32, 32, 32), np.float32)
    share[:16] = 2.0
    assert replace(way, share=share).points_mm(points).tolist() == [[14, 20, 30], [58, 20, 30]]


def test_a_way_that_goes_nowhere_shows_every_shape_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which also says that shapes, crops and contrasts of target and template are the same."""
    config = config_of()
    made(tmp_path, monkeypatch, dict.fromkeys(CASES, Registration.identity()), config)
    for variant in (Variant("p0", 0, 0), Variant("p1", 1, 0), Variant("p1", 1, 1)):
        path = tmp_path / RegisteredTemplate(variant.case_id, variant.shape, 0, False).file
        codes, image, guess, origin = read_template(path, variant.contrast, WHOLE)
        stored, real = read_tensors(tmp_path / variant.shape_file), read_image(tmp_path / variant.image_file)
        # one process closes the labels of deformed shapes, the other does not
        assert (codes[0] == stored[TEMPLATE]).float().mean() > 0.99
        assert ((origin[0] == MIRRORED) == (labels_of(codes[0]) != stored[REFERENCE])).float().mean() > 0.999
        assert (image.float() - real.float()).abs().mean() < 2e-3
        assert (guess.float() - real.float()).abs().mean() < 2e-3


def test_where_the_way_leads_elsewhere_the_template_is_moved_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, monkeypatch, {"p0": shifted(), "p1": shifted(d=3.0)}, config_of())
    found = read_tensors(tmp_path / RegisteredTemplate("p0", 0, 0, False).file)
    real = read_image(tmp_path / Variant("p0", 0, 0).image_file)
    mask = read_tensors(tmp_path / Variant("p0", 0, 0).shape_file)[REFERENCE]
    origin, wrong = found[ORIGIN], labels_of(found[TEMPLATE]) != mask
    assert 0.02 < wrong.float().mean() < 0.3
    assert torch.equal((origin != IN_PLACE)[:-4], wrong[:-4])  # the last ones are beyond the partner
    assert (origin[:-4] == MIRRORED).sum() > 0.9 * wrong[:-4].sum()
    # by three mm back, twice, where that leads elsewhere; the rest is kept
    near = found["image"][0, 16, 4:28, 4:28].float()
    assert (near - real[0, 19, 4:28, 4:28].float()).abs().median() < (near - real[0, 16, 4:28, 4:28]).abs().median()
    assert (found["image"][0, :, :2, :2] - real[0, :, :2, :2]).abs().max() < 0.01
    # every structure shows its own intensities in the guess
    for label in (1, 2):
        where = (mask == label) & (origin == MIRRORED)
        assert abs(found[GUESS][0][where].float().median() - real[0][mask == label].float().median()) < 0.02
        assert (found[GUESS_CODES][where] == label).all()


def test_what_left_the_partners_field_of_view_is_the_cases_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(self_pair_probability=0.5)
    made(tmp_path, monkeypatch, {"p0": shifted(d=20), "p1": shifted(d=-20)}, config)
    real = read_image(tmp_path / Variant("p0", 0, 1).image_file)
    for of_partner in (False, True):
        path = tmp_path / RegisteredTemplate("p0", 0, 0, of_partner).file
        _, _, guess, origin = read_template(path, 1, WHOLE)
        assert (origin[0, -10:] == OWN).all()
        assert (origin[0, :-10] == OWN).float().mean() < 0.02  # of the vessel, nothing else is left
        assert np.corrcoef(guess[0, -8:].flatten().float(), real[0, -8:].flatten().float())[0, 1] > 0.98


def test_a_partners_scan_takes_the_contrast_of_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(self_pair_probability=0.5)
    made(tmp_path, monkeypatch, dict.fromkeys(CASES, Registration.identity()), config)
    for contrast in (0, 1):
        path = tmp_path / RegisteredTemplate("p0", 1, 0, True).file
        codes, image, _, origin = read_template(path, contrast, WHOLE)
        real = read_image(tmp_path / Variant("p0", 1, contrast).image_file)
        mask = read_tensors(tmp_path / Variant("p0", 1, 0).shape_file)[TEMPLATE]
        for label in (1, 2):
            both = (codes[0] == label) & (mask == label) & (origin[0] == IN_PLACE)
            ours, theirs = image[0][both].float(), real[0][both].float()
            assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=5e-3)
            assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)
    assert np.corrcoef(ours, theirs)[0, 1] < 0.5, "the texture is another patient's"


def test_pairs_are_read_with_the_templates_of_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(self_pair_probability=0.5)
    made(tmp_path, monkeypatch, dict.fromkeys(CASES, Registration.identity()), config)
    for case_id in CASES:
        for shape in range(2):
            for contrast in range(2):
                latents = torch.zeros(4, 8, 8, 8).half()
                path = tmp_path / Variant(case_id, shape, contrast).latents_file
                save_tensors({MEAN: latents, LOG_STD: latents - 5}, path)
    pairs = config.tcdm.pairs
    registered = PairSampler(CASES, tmp_path, pairs, (0, 1), (16, 16, 16), 0, "training", num_partners=1)
    plain = PairSampler(CASES, tmp_path, pairs, (0, 1), (16, 16, 16), 0, "training")
    kinds = set()
    for number in range(12):
        pair = plain.pair(number)
        for ours, theirs in zip(registered.batch([number]), plain.batch([number]), strict=True):
            assert isinstance(ours, RegisteredEnd)
            assert torch.equal(ours.reference, theirs.reference)
            kinds.add(pair.a.case_id == pair.b.case_id)
            if pair.a.case_id == pair.b.case_id:
                assert (ours.image.float() - theirs.image.float()).abs().mean() < 3e-3
            assert (ours.guess.float() - theirs.image.float()).abs().mean() < 0.05
    assert kinds == {True, False}
