"""What a mask is made of, and the gate that compares it with its source."""

from __future__ import annotations

import numpy as np
import pytest

from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.generator.mgm.quality import label_volumes_ml, mask_faults, volume_bounds_ml
from fcas_nnunet.generator.mgm.topology import describe_mask
from fcas_nnunet.labels.anatomy import LabelRoles
from fcas_nnunet.labels.components import count_tunnels

SPACING_MM = (1.0, 2.0, 0.5)


def test_a_ring_two_cubes_and_a_border_are_described() -> None:
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[3:5, 2:9, 2:9] = 1
    mask[3:5, 4:7, 4:7] = 0  # a ring: one tunnel, three voxels wide
    mask[8:10, 0:2, 2:4] = mask[8:10, 8:10, 2:4] = 3
    ring, cubes = describe_mask(mask, vessel_ids=[1]).values()
    assert (ring.num_voxels, ring.components, ring.tunnels) == (2 * (49 - 9), 1, 1)
    assert (cubes.num_voxels, cubes.components, cubes.tunnels) == (16, 2, None)
    assert ring.touched_faces == frozenset()
    assert cubes.touched_faces == {"first H"}


def test_tunnels_are_counted_without_cavities() -> None:
    shell = np.ones((5, 5, 5), bool)
    shell[2, 2, 2] = False
    assert count_tunnels(shell) == 0
    shell[:, 2, 2] = False
    assert count_tunnels(shell) == 1
    shell[2, :, 2] = False  # two crossing bores: four mouths, three independent loops
    assert count_tunnels(shell) == 3


def test_every_fault_is_named() -> None:
    source = np.zeros((12, 12, 12), np.uint8)
    source[2:8, 2:8, 2:8] = 1
    source[9:11, 2:10, 2:4] = 2
    source[1, 1, 1] = 3
    broken = np.zeros_like(source)
    broken[0:2, 2:8, 2:8] = 1
    broken[9:11, 2:5, 2:4] = broken[9:11, 7:10, 2:4] = 2
    broken[6, 6, 6] = 7
    assert mask_faults(broken, source, SPACING_MM) == [
        "class 1 is newly cut by the border at first D",
        "class 1 has 0.33 of its source's volume, outside [0.4, 2.0]",
        "class 2 has 2 components, its source 1",
        "class 3 vanished",
        "class 7 is not in the source",
    ]
    assert not mask_faults(source, source, SPACING_MM)


def test_a_vessel_must_keep_its_tunnels_and_touch_its_root() -> None:
    """A ring that touches a cube by a corner; then the ring is cut open, and then it is moved away."""
    source = np.zeros((12, 12, 12), np.uint8)
    source[0:4, 0:4, 0:4] = 1
    source[4, 4:9, 4:9] = 2
    source[4, 5:8, 5:8] = 0
    roles = LabelRoles(thin=frozenset([2]), roots=frozenset([1]))
    open_ring, away = source.copy(), source.copy()
    open_ring[4, 8, 6] = 0
    away[source == 2] = 0
    away[6, 5:10, 5:10] = 2
    away[6, 6:9, 6:9] = 0
    assert mask_faults(open_ring, source, SPACING_MM, roles=roles) == ["class 2 has 0 tunnels, its source 1"]
    assert mask_faults(away, source, SPACING_MM, roles=roles) == ["class 2 no longer touches class 1"]
    assert not mask_faults(open_ring, source, SPACING_MM)
    assert not mask_faults(open_ring, source, SPACING_MM, roles=roles, config=MaskConfig(max_tunnel_change=1))


def test_volumes_are_bounded_by_what_the_data_set_shows() -> None:
    """Masks of 10 and 40 mL: three standard deviations of the logarithm, 0.98, about 20 mL."""
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[:5] = 1
    assert label_volumes_ml(mask, SPACING_MM, [1, 2]) == {1: 0.5, 2: 0.0}
    low, high = volume_bounds_ml([{1: 10.0, 2: 0.0}, {1: 40.0}])[1]
    assert (low, high) == pytest.approx((20 * np.exp(-3 * 0.9803), 20 * np.exp(3 * 0.9803)), rel=1e-3)
    alike = volume_bounds_ml([{1: 10.0}, {1: 10.0}])
    assert alike[1] == pytest.approx((10 * np.exp(-0.9), 10 * np.exp(0.9)))
    assert set(volume_bounds_ml([{1: 10.0, 2: 0.0}])) == {1}


def test_a_volume_no_patient_has_is_a_fault() -> None:
    source, grown = np.zeros((2, 20, 20, 20), np.uint8)
    source[5:15, 5:15, 5:15] = 1
    grown[4:16, 4:16, 5:15] = 1
    assert not mask_faults(grown, source, SPACING_MM)
    assert mask_faults(grown, source, SPACING_MM, bounds_ml={1: (0.5, 1.2)}) == [
        "class 1 has 1.4 mL, the data set's masks allow 0.5 to 1.2 mL"
    ]
    assert not mask_faults(grown, source, SPACING_MM, bounds_ml={1: (0.5, 1.5)})
    assert not mask_faults(source, source, SPACING_MM, bounds_ml={1: (0.1, 0.5)})  # its own source is believable
