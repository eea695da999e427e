"""The palette: who can tell its colours apart, and which label gets which."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from skimage.color import rgb2lab

from fcas_nnunet.evaluation.viewing.colours import HEART_WINDOW, STRUCTURE_COLOURS, label_colours, label_map, window_of

#: Machado et al. 2009, severity 1, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_structures_stay_apart_for_every_reader(deficiency: str) -> None:
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in STRUCTURE_COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(DEFICIENCIES[deficiency]).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)[None])[0]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2)) > 15  # 2.3 is just noticeable


def test_a_structure_keeps_its_colour_whatever_its_id() -> None:
    colours = label_colours({"aorta": 1, "something": 2, "LV": 3, "other": 4})
    assert (colours["aorta"], colours["LV"]) == (STRUCTURE_COLOURS[5], STRUCTURE_COLOURS[2])
    assert len(set(colours.values())) == 4


def test_pictures_and_pages_agree_on_colours() -> None:
    labels = {"background": 0, "aorta": 3, "LV": 1}
    colours = label_map(labels)
    assert {name: to_hex(colours(labels[name] - 1)).upper() for name in ("aorta", "LV")} == label_colours(labels)
    assert colours(1)[3] == 0  # no label has the id 2


def test_only_ct_is_shown_in_the_window_of_ct() -> None:
    image = np.arange(-1000.0, 1001.0).reshape(3, 667, 1)
    assert window_of(image, "HU") == HEART_WINDOW
    assert window_of(image, "units") == (-990.0, 990.0)
    low, high = window_of(np.zeros((2, 2, 2)), "units")
    assert low < high, "a width that can be divided by"
