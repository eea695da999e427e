"""The variants of a training case: volumes smaller than a training crop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from channel_cases import two_channels
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, small_case
from safetensors.torch import load_file

from fcas_nnunet.config.generator import GridConfig
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.data.contrasts import draw_contrasts
from fcas_nnunet.generator.data.grid import WorkingGrid, label_codes, to_unit_range
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import (
    IMAGE,
    REFERENCE,
    TEMPLATE,
    Variant,
    make_variants,
    read_crop,
    read_image,
    read_tensors,
    save_tensors,
    stored_shape,
    variants_of,
)
from fcas_nnunet.labels.anatomy import label_roles
from fcas_nnunet.labels.components import label_components

DATA = TrainingData(["p0", "p1"], load_small_case, LABELS, SURROUNDINGS)


def written(folder, crop_size):
    """(reference codes, image) of every variant of a case of 32³ voxels, 2 mm."""
    grid = replace(GridConfig(max_voxels=48**3), crop_size=crop_size)
    make_variants(DATA, "p0", folder, (2, 2, 2), replace(TINY, grid=grid))
    return [
        (load_file(folder / variant.shape_file)[REFERENCE], load_file(folder / variant.image_file)[IMAGE])
        for variant in variants_of("p0", TINY.tcdm.pairs)
    ]


def test_a_small_volume_is_padded_up_to_the_crop_with_its_border(tmp_path):
    own = written(tmp_path / "own", (32, 32, 32))
    padded = written(tmp_path / "padded", (48, 32, 64))
    assert {codes.shape for codes, _ in own} == {(32, 32, 32)}
    assert {codes.shape for codes, _ in padded} == {(48, 32, 64)}
    as_it_is = [variant for variant in variants_of("p0", TINY.tcdm.pairs)].index(Variant("p0", 0, 0))
    for small, large in zip(own[as_it_is], padded[as_it_is], strict=True):
        large, small = (volume.view(volume.shape[-3:]) for volume in (large, small))
        assert torch.equal(large[:32, :, :32], small)
        assert torch.equal(large[32:, :, :32], small[31:].expand(16, -1, -1))
        assert torch.equal(large[:32, :, 32:], small[..., 31:].expand(-1, -1, 32))


def test_stored_tensors_are_read_in_whole_and_in_part(tmp_path):
    path, tensor = tmp_path / "a.safetensors", torch.arange(2 * 4 * 5 * 6.0).view(2, 4, 5, 6)
    save_tensors({"x": tensor}, path)
    assert torch.equal(read_tensors(path)["x"], tensor)
    assert stored_shape(path, "x") == (4, 5, 6)
    assert torch.equal(read_crop(path, "x", (slice(1, 3), slice(5), slice(2, 4))), tensor[:, 1:3, :, 2:4])


@pytest.mark.parametrize("kept", [0, 5, 200])
def test_a_damaged_cache_is_named(tmp_path, kept):
    path = tmp_path / "a.safetensors"
    save_tensors({"x": torch.zeros(4, 5, 6)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    crop = (slice(1), slice(1), slice(1))
    for read in (read_tensors, lambda p: stored_shape(p, "x"), lambda p: read_crop(p, "x", crop)):
        with pytest.raises(ValueError, match=r"a\.safetensors: cached tensors must be whole, got a damaged .* Delete"):
            read(path)


def test_a_thin_vessel_is_one_piece_in_every_condition_on_a_coarser_grid(tmp_path):
    """The masks that training sees, and the error model, are those that drawing sees: the vessel whole in each."""
    case = small_case(0)
    thread = np.arange(32)
    mask = np.where(case.mask == 3, 2, case.mask)
    mask[thread, 31 - thread, thread] = 3
    case = replace(case, mask=mask, surroundings=np.where(mask > 0, 0, case.surroundings))
    grid = replace(GridConfig(max_voxels=48**3), crop_size=(16, 16, 16))
    roles = label_roles(LABELS)
    data = replace(DATA, load_case=lambda _: case)
    make_variants(
        data,
        "p0",
        tmp_path,
        (5, 5, 5),
        replace(TINY, grid=grid, autoencoder=replace(TINY.autoencoder, crop_size=(16, 16, 16))),
    )
    stored = load_file(tmp_path / Variant("p0", 0, 0).shape_file)
    working = WorkingGrid.of_case(case, (5, 5, 5), TINY.tcdm, grid.crop_size)
    assert working.resampled_shape == (13, 13, 13)
    assert label_components(working.labels_to_working(mask).numpy() == 3)[1] > 1  # by the nearest label alone
    for key, codes in ((REFERENCE, mask), (TEMPLATE, label_codes(case, 3)[1])):
        assert label_components(stored[key].numpy() == 3)[1] == 1
        drawn = working.labels_to_working(codes, roles.thin)
        assert torch.equal(drawn == 3, stored[key] == 3)


def test_each_channel_has_contrasts_of_its_own_and_the_first_those_of_a_single_one():
    three = draw_contrasts(4, 3, 5, 80.0, 20.0, seed=7)
    assert three.shape == (4, 3, 256)
    np.testing.assert_array_equal(three[:, :1], draw_contrasts(4, 1, 5, 80.0, 20.0, seed=7))
    np.testing.assert_array_equal(three[:2, :2], draw_contrasts(2, 2, 5, 80.0, 20.0, seed=7))
    correlation = np.corrcoef(three[:, :, 1:].transpose(1, 0, 2).reshape(3, -1))
    assert np.abs(correlation - np.eye(3)).max() < 0.15


def test_shapes_of_all_channels_are_one_and_contrasts_are_not(tmp_path):
    data = TrainingData(
        ["p0", "p1"], lambda case_id: two_channels(int(case_id[1])), LABELS, SURROUNDINGS, {}, ("CT", "T2")
    )
    make_variants(data, "p0", tmp_path, (2, 2, 2), TINY)
    images = {
        variant: read_image(tmp_path / variant.image_file).float() for variant in variants_of("p0", TINY.tcdm.pairs)
    }
    assert {image.shape for image in images.values()} == {(2, 32, 32, 32)}
    plain = two_channels(0)
    grid = WorkingGrid.of_case(plain, (2, 2, 2), TINY.tcdm)
    mask = grid.labels_to_working(plain.mask)
    expected = to_unit_range(grid.image_to_working(plain.standard_image), TINY.grid.intensity_range)
    torch.testing.assert_close(images[Variant("p0", 0, 0)], expected, atol=1e-3, rtol=0)
    codes = read_tensors(tmp_path / Variant("p0", 1, 0).shape_file)[REFERENCE]
    for channel, image in enumerate(images[Variant("p0", 1, 0)]):  # the same field for both
        inside, before = image[codes == 1].mean(), expected[channel][mask == 1].mean()
        assert inside == pytest.approx(float(before), abs=0.02)
    changes = images[Variant("p0", 0, 1)] - images[Variant("p0", 0, 0)]
    first, second = (float(change[mask == 1].median()) for change in changes)
    assert abs(first - second) > 0.002


def test_an_image_that_an_earlier_version_cached_is_read_as_one_channel(tmp_path):
    image = torch.rand(4, 5, 6).half()
    save_tensors({IMAGE: image}, tmp_path / "old.safetensors")
    assert torch.equal(read_image(tmp_path / "old.safetensors"), image[None])
    crop = (slice(1, 3), slice(0, 5), slice(2, 4))
    assert torch.equal(read_image(tmp_path / "old.safetensors", crop), image[None, 1:3, :, 2:4])
