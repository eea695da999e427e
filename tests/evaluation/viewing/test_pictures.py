"""Still pictures of a case: which plane lies where, and in which colours."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from report_sets import SHAPE, heart, turned, turned_affine

from fcas_nnunet.evaluation.viewing.pictures import case_pictures


def picture(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/webp;base64,"))))


def test_what_is_dark_in_an_mr_is_not_black() -> None:
    """Structures far below the mean of a scan, all of them below the window of CT."""
    image, mask = heart()
    affine, colours = turned_affine((0, 1, 2), (False,) * 3), {1: "#000000", 2: "#000000", 3: "#000000"}
    shown = case_pictures(image - 1000, mask, None, affine, colours, "units")
    greys = np.asarray(picture(shown.still).convert("L")).astype(int)[:220, :220]
    assert picture(shown.still).size == (660, 440)
    middle = greys[110, 110]
    assert 60 < middle < 120, "100 between -100 and 500"
    assert greys.max() > 200


def test_pictures_show_the_plane_they_name() -> None:
    image, mask = heart()
    axes, flips = (2, 0, 1), (True, False, True)
    colours = {1: "#ff0000", 2: "#00ff00", 3: "#0000ff"}
    first = case_pictures(image, mask, None, turned_affine((0, 1, 2), (False,) * 3), colours)
    other = case_pictures(
        turned(image, axes, flips), turned(mask, axes, flips), None, turned_affine(axes, flips), colours
    )
    assert first == other
    strip = np.asarray(picture(first.strip).convert("RGB")).astype(int)
    assert strip.shape == (180, 540, 3)
    assert picture(first.still).size == (660, 440)
    with_confidence = case_pictures(image, mask, np.ones(SHAPE), turned_affine((0, 1, 2), (False,) * 3), colours)
    still = np.asarray(picture(with_confidence.still).convert("RGB")).astype(int)
    assert still.shape == (660, 660, 3)
    # the last row is confidence 1 throughout: viridis' yellow in the middle of each plane
    for column in range(3):
        np.testing.assert_allclose(still[550, 110 + 220 * column], [253, 231, 37], atol=12)
