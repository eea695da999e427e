"""How thick structures are."""

import numpy as np
import pytest

from fcas_nnunet.generator.data.calibre import voxels_across


def test_a_thread_a_bar_and_a_slab() -> None:
    labels = np.zeros((24, 24, 24), dtype=np.uint8)
    labels[:, 2, 2] = 1
    labels[:, 8:13, 8:13] = 2
    labels[:, 18:21, :] = 3
    across = voxels_across(labels, (1, 1, 1), (1, 1, 1))
    assert across == pytest.approx({1: 1, 2: 5, 3: 3})
    assert voxels_across(labels, (1, 1, 1), (2, 2, 2)) == pytest.approx({1: 0.5, 2: 2.5, 3: 1.5})
    assert voxels_across(np.zeros((4, 4, 4), np.uint8), (1, 1, 1), (1, 1, 1)) == {}


def test_a_thin_vessel_on_a_thick_wall_is_thin_and_slices_count_as_they_are() -> None:
    labels = np.zeros((20, 40, 40), dtype=np.uint8)
    labels[:, 5:20, 5:35] = 1
    labels[:, 20:24, 15:19] = 2
    across = voxels_across(labels, (5, 0.5, 0.5), (5, 1, 1))  # in-plane halves
    assert across[2] == pytest.approx(1.5, abs=0.51)
    assert across[1] > 6
