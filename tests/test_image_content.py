"""A scan's hash: the same for the same voxels, however they are stored; another for any other scan."""

import nibabel
import numpy as np
import pytest
from fcas_nnunet_small import small_case

from fcas_nnunet.image_content import image_sha256
from fcas_nnunet.integration.dataset.volumes import read_volume, write_volume

CASE = small_case(0)
SCAN = np.rint(CASE.image[0]).astype(np.int16)[:20, :24]  # three different edges
HASH = image_sha256(SCAN, CASE.affine)


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_the_data_type_does_not_matter(dtype) -> None:
    assert image_sha256(SCAN.astype(dtype), CASE.affine) == HASH


@pytest.mark.parametrize("axes", [(2, 1, 0), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2)])
def test_the_order_and_direction_of_the_axes_do_not_matter(axes, flipped) -> None:
    """The same voxels at the same places, stored along other axes."""
    turned, affine = SCAN.transpose(axes), CASE.affine[:, [*axes, 3]].copy()
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
        affine[:3, axis] *= -1
    assert image_sha256(np.flip(turned, flipped), affine) == HASH


def test_a_header_that_rescales_does_not_matter(tmp_path) -> None:
    """CT is often stored from 0 with an intercept of -1024, or with a slope below 1."""
    path = tmp_path / "scan.nii.gz"
    write_volume(path, SCAN, CASE.affine)
    stored = nibabel.load(path)
    shifted = nibabel.Nifti1Image((np.asarray(stored.dataobj).astype(np.int32) + 1024) * 4, stored.affine)
    shifted.header.set_slope_inter(0.25, -1024)
    nibabel.save(shifted, path)
    volume = read_volume(path)
    assert volume.array.dtype.kind == "f"
    assert image_sha256(volume.array, volume.affine) == HASH


def test_other_scans_are_told_apart() -> None:
    one_voxel = SCAN.copy()
    one_voxel[3, 4, 5] += 1
    others = [one_voxel, SCAN[:, :, 1:], SCAN + 1, SCAN[::-1]]
    assert len({HASH, *(image_sha256(other, CASE.affine) for other in others)}) == 5


@pytest.mark.parametrize("unit", [1e-3, 3e-7, 1e-12])
def test_scans_of_small_values_are_told_apart(unit: float) -> None:
    scan = SCAN.astype(np.float32) / 2000 * unit
    first = image_sha256(scan, CASE.affine)
    assert image_sha256(scan.astype(np.float64), CASE.affine) == first
    assert image_sha256(scan[:, :, ::-1] * 0.9, CASE.affine) != first
    one_voxel = scan.copy()
    one_voxel[3, 4, 5] += 0.01 * unit
    assert image_sha256(one_voxel, CASE.affine) != first
