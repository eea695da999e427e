"""A volume as one picture: where its slices lie, and what its grey values mean."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fcas_nnunet.evaluation.reading.shown import QUALITY
from fcas_nnunet.evaluation.report.packing import GREYS
from fcas_nnunet.evaluation.viewing.atlas import atlas_of


def test_grey_values_at_their_knots() -> None:
    hu = np.array([-3000, -1024, -200, 200, 600, 2000, 9000])
    assert GREYS.codes(hu).tolist() == [0, 0, 32, 128, 224, 255, 255]


@pytest.mark.parametrize("lossless", [True, False])
def test_an_atlas_lays_slices_out_row_by_row(lossless: bool) -> None:
    grid = np.indices((7, 20, 33)).astype(float)
    volume = np.rint(20 * grid[0] + 2 * grid[1] + 2 * grid[2]).astype(np.uint8)
    atlas = atlas_of(volume, 0 if lossless else QUALITY)
    picture = Image.open(io.BytesIO(atlas.data))
    assert atlas.tile == (32, 48)
    assert not set(picture.info) & {"exif", "icc_profile", "xmp"}
    pixels = np.asarray(picture.convert("L")).astype(int)
    for index in range(7):
        row, column = divmod(index, atlas.columns)
        tile = pixels[row * 32 : row * 32 + 20, column * 48 : column * 48 + 33]
        assert np.abs(tile - volume[index]).max() <= (0 if lossless else 6)
