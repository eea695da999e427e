"""What training sees: every direction once a round, another order each time, and the promised share of self-pairs."""

from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from fcas_nnunet_small import load_small_case

from fcas_nnunet.config.generator import GridConfig, MaskConfig, PairConfig
from fcas_nnunet.config.options import ItemsPerEpoch
from fcas_nnunet.config.presets import PAPER, TINY
from fcas_nnunet.generator.autoencoder.crops import CropSampler
from fcas_nnunet.generator.autoencoder.latents import LOG_STD, MEAN
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import make_variants, save_tensors, variants_of
from fcas_nnunet.generator.optimisation.batches import Batch
from fcas_nnunet.generator.optimisation.loop import total_steps
from fcas_nnunet.generator.tcdm.pairs import PairSampler

CASES = [f"p{i}" for i in range(6)]
PATIENTS = PairConfig(self_pair_probability=0.0, num_shapes=3, num_contrasts=4)
SELVES = replace(PATIENTS, self_pair_probability=1.0)
LABELS = {"background": 0, "left_ventricle": 1, "left_myocardium": 2, "coronary_arteries": 3}


def sampler(pairs, cases=CASES, shapes=(0, 1, 2), name="training", seed=0, folder=Path("unread"), **more):
    return PairSampler(cases, folder, pairs, shapes, (16, 16, 16), seed, name, **more)


def cases_of(pairs):
    return [(pair.a.case_id, pair.b.case_id) for pair in pairs]


def epoch(sampler, number):
    return [sampler.pair(len(sampler) * number + i) for i in range(len(sampler))]


def test_an_epoch_has_every_direction_once():
    items = sampler(PATIENTS)
    assert len(items) == 15
    for number in (0, 1, 7):
        directions = [direction for a, b in cases_of(epoch(items, number)) for direction in ((a, b), (b, a))]
        assert sorted(directions) == sorted(permutations(CASES, 2))


def test_one_direction_makes_them_items_of_their_own():
    items = sampler(replace(PATIENTS, one_direction=True))
    assert len(items) == 30
    assert sorted(cases_of(epoch(items, 3))) == sorted(permutations(CASES, 2))


def test_every_epoch_has_another_order_and_orientation():
    items = sampler(PATIENTS)
    first, second = cases_of(epoch(items, 0)), cases_of(epoch(items, 1))
    assert [set(pair) for pair in first] != [set(pair) for pair in second]
    assert 0 < sum(pair in second for pair in first) < 15  # some are turned round, some are not
    other_seed = cases_of(epoch(sampler(PATIENTS, seed=1), 0))
    assert first not in (other_seed, cases_of(epoch(sampler(PATIENTS, name="other"), 0)))


def test_self_pairs_visit_the_cases_in_turn_in_two_shapes_and_one_contrast():
    items = sampler(SELVES)
    assert len(items) == 6
    orders = [[pair.a.case_id for pair in epoch(items, number)] for number in range(20)]
    assert all(sorted(order) == CASES for order in orders)
    assert len({tuple(order) for order in orders}) > 15
    pairs = [items.pair(i) for i in range(1200)]
    assert all(pair.a.case_id == pair.b.case_id for pair in pairs)
    assert all(pair.a.shape != pair.b.shape and pair.a.contrast == pair.b.contrast for pair in pairs)
    # every visit draws anew: each case has been seen in all 3 · 2 orders of shapes under all 4 contrasts
    seen = Counter((pair.a.case_id, pair.a.shape, pair.b.shape, pair.a.contrast) for pair in pairs)
    assert len(seen) == 6 * 6 * 4
    positions = np.array([pair.position for pair in pairs])
    assert positions.min() < 0.01
    assert positions.max() > 0.99
    np.testing.assert_allclose(positions.mean(0), 0.5, atol=0.03)


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_a_mixture_keeps_rounds_of_all_pairs_and_the_share_of_self_pairs(share):
    items = sampler(replace(PATIENTS, self_pair_probability=share))
    assert len(items) == np.ceil(15 / (1 - share))
    pairs = [items.pair(i) for i in range(4000)]
    selves = [pair.a.case_id for pair in pairs if pair.a.case_id == pair.b.case_id]
    assert len(selves) == pytest.approx(4000 * share, abs=1)
    assert all(sorted(selves[i : i + 6]) == CASES for i in range(0, 600, 6))
    others = [frozenset(ends) for ends in cases_of(pairs) if ends[0] != ends[1]]
    assert all(len(set(others[i : i + 15])) == 15 for i in range(0, 600, 15))
    contrasts = [pair.a.contrast == pair.b.contrast for pair in pairs if pair.a.case_id != pair.b.case_id]
    assert np.mean(contrasts) == pytest.approx(0.25, abs=0.06)  # of different patients they are independent


@pytest.mark.parametrize("one_direction", [False, True])
def test_an_epoch_of_the_cases_has_each_of_them_twice(one_direction):
    """Once to be drawn from another's template, once the other way round."""
    per_case = replace(PATIENTS, items_per_epoch=ItemsPerEpoch.CASES, one_direction=one_direction)
    items = sampler(per_case)
    assert len(items) == 6
    for number in (0, 1, 7):
        pairs = cases_of(epoch(items, number))
        assert all(a != b for a, b in pairs)
        assert Counter(case for pair in pairs for case in pair) == dict.fromkeys(CASES, 2)
        if one_direction:
            assert sorted(a for a, _ in pairs) == sorted(b for _, b in pairs) == CASES
    neighbours = {frozenset(pair) for number in range(60) for pair in cases_of(epoch(items, number))}
    assert len(neighbours) == 15, "in time, every case meets every other"
    half = sampler(replace(per_case, self_pair_probability=0.5))
    assert len(half) == 6
    ends = Counter(case for number in (0, 1) for pair in cases_of(epoch(half, number)) for case in pair)
    assert ends == dict.fromkeys(CASES, 4)


def test_the_papers_epochs_are_its_cases():
    """200 epochs of 200 cases in batches of 4; of all pairs with their self-pairs it would be 1,990,000 steps."""
    cases = [f"p{i}" for i in range(200)]
    items = sampler(PAPER.tcdm.pairs, cases, shapes=(0, 1))
    assert total_steps(PAPER.tcdm.optimisation, len(items)) == 10_000


def test_an_unseen_shape_is_one_end_of_every_pair():
    for pairs in (PATIENTS, SELVES):
        drawn = [sampler(pairs, shapes=(0, 1), new_shape=2).pair(i) for i in range(200)]
        assert all((pair.a.shape == 2) != (pair.b.shape == 2) for pair in drawn)
        assert 60 < sum(pair.a.shape == 2 for pair in drawn) < 140


def test_a_single_case_is_paired_with_itself_if_it_has_two_shapes():
    assert set(cases_of(epoch(sampler(PATIENTS, cases=["p5"]), 0))) == {("p5", "p5")}
    with pytest.raises(
        ValueError, match=r"training cases: .*num_shapes of at least 2, got 1 .*Raise tcdm.pairs.num_shapes"
    ):
        sampler(PATIENTS, cases=["p5"], shapes=(0,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Variants of two cases, with made-up latents."""
    folder = tmp_path_factory.mktemp("variants")
    pairs = PairConfig(num_shapes=2, num_contrasts=2)
    tcdm, grid = replace(TINY.tcdm, pairs=pairs), GridConfig(crop_size=(16, 16, 16))
    autoencoder = replace(TINY.autoencoder, crop_size=(16, 16, 16))
    config = replace(TINY, tcdm=tcdm, grid=grid, autoencoder=autoencoder, masks=MaskConfig())
    data = TrainingData(["p0", "p1"], load_small_case, LABELS, {})
    for number, case_id in enumerate(data.case_ids):
        make_variants(data, case_id, folder, (2, 2, 2), config)
        for i, variant in enumerate(variants_of(case_id, pairs)):
            latents = torch.full((4, 8, 8, 8), number + i / 10).half()
            save_tensors({MEAN: latents, LOG_STD: latents - 5}, folder / variant.latents_file)
    return folder


def same(one: Batch, other: Batch, rows=slice(None)):
    return all(torch.equal(getattr(one, name)[rows], getattr(other, name)) for name in one.__dataclass_fields__)


def test_pairs_are_read_as_stored_and_alike_whatever_they_are_read_with(folder):
    items = sampler(replace(SELVES, num_contrasts=2), cases=["p0", "p1"], shapes=(0, 1), folder=folder)
    a, b = items.batch(range(3, 9))
    assert {name: getattr(a, name).dtype for name in a.__dataclass_fields__} == {
        "mean": torch.float16, "log_std": torch.float16, "image": torch.float16,
        "reference": torch.uint8, "template": torch.uint8,
    }  # fmt: skip
    assert a.image.shape == (6, 1, 16, 16, 16)
    assert a.mean.shape == (6, 4, 4, 4, 4)
    for row, number in enumerate(range(3, 9)):
        alone = items.batch([number])
        assert same(a, alone[0], slice(row, row + 1))
        assert same(b, alone[1], slice(row, row + 1))


def test_crops_visit_every_variant_once_an_epoch(folder):
    variants = [v for case_id in ("p0", "p1") for v in variants_of(case_id, PairConfig(num_shapes=2, num_contrasts=2))]
    whole = CropSampler(variants, folder, (32, 32, 32), seed=0, name="training")
    assert len(whole) == 8
    sums = {v: float(CropSampler([v], folder, (32,) * 3, 0, "x").batch([0]).images.double().sum()) for v in variants}
    for number in (0, 1):  # crops of the whole volume tell the variants apart
        images = whole.batch(range(8 * number, 8 * number + 8)).images.double().sum(dim=(1, 2, 3, 4)).tolist()
        assert sorted(images) == sorted(sums.values())
    small = CropSampler(variants, folder, (16, 16, 16), seed=0, name="training")
    batch = small.batch(range(64))
    assert batch.images.dtype == torch.float16
    assert batch.labels.dtype == torch.uint8
    assert batch.noise.shape == (64, 4, 4, 4, 4)
    assert same(batch, small.batch([17]), slice(17, 18))
    centres = batch.labels[:, 0, 8, 8, 8] > 0
    assert centres.float().mean() > 0.6  # two thirds are centred on the heart, as far as the border lets them


def test_crops_are_centred_on_every_label_alike(folder):
    """A vessel of a fiftieth of the voxels is as often the centre as the chamber, as nnU-Net oversamples."""
    crops = CropSampler(variants_of("p0", PairConfig())[:1], folder, (8, 8, 8), 0, "training")
    centres = torch.cat([crops.batch(range(i, i + 50)).labels[:, 0, 4, 4, 4] for i in range(0, 400, 50)])
    share = [float((centres == label).sum() / (centres > 0).sum()) for label in (1, 2, 3)]
    assert share == pytest.approx([1 / 3] * 3, abs=0.12)  # the uniform third of the centres falls on large ones
