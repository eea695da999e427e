"""Names, ids and priorities of joined label maps, on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fcas_nnunet.labels.anatomy import Role
from fcas_nnunet.labels.merging import Canvas, Part, Structure, assign_ids, name_faults, usual_priority, values_of


def layer(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.uint8).reshape(1, 1, -1)


def test_what_is_painted_first_stays_and_who_lost_is_counted() -> None:
    canvas = Canvas.blank((1, 1, 6))
    canvas.paint(layer(0, 3, 3, 0, 0, 0))
    canvas.paint(layer(1, 1, 0, 1, 0, 0))
    canvas.paint(layer(2, 2, 3, 2, 2, 0))  # loses a voxel to 3 and two to 1; 3 on 3 is no loss
    assert canvas.ids.ravel().tolist() == [1, 3, 3, 1, 2, 0]
    assert {(int(a), int(b)): int(canvas.met[a, b]) for a, b in np.argwhere(canvas.met)} == {
        (3, 1): 1, (3, 2): 1, (1, 2): 2,
    }  # fmt: skip
    assert canvas.counts()[:4].tolist() == [1, 2, 1, 2]


def test_surroundings_give_way_to_labels() -> None:
    canvas = Canvas.blank((1, 1, 4))
    canvas.paint(layer(5, 5, 6, 0))
    lost = canvas.give_way(layer(9, 0, 9, 9))
    assert canvas.ids.ravel().tolist() == [0, 5, 0, 0]
    assert (lost[9, 5], lost[9, 6], lost.sum()) == (1, 1, 2)


def test_ids_stay_and_new_names_follow_with_ignore_last() -> None:
    assert assign_ids(["LA", "ignore", "LV", "LA", "RA"], {"background": 0, "LV": 4}) == {
        "LV": 4, "LA": 5, "RA": 6, "ignore": 7,
    }  # fmt: skip
    assert assign_ids(["b", "a"], {}) == {"b": 1, "a": 2}


@pytest.mark.parametrize(("name", "priority"), [("coronary_arteries", 1), ("LAD", 1), ("left_atrium", 0), ("x", 0)])
def test_thin_vessels_win_of_themselves(name: str, priority: int) -> None:
    assert usual_priority(name) == priority
    assert usual_priority(name, {"x": (Role.THIN,)}) == (1 if name == "x" else priority)


def test_one_structure_under_two_names_is_named() -> None:
    found = name_faults(
        [
            ("a", Structure("LV", Part.LABELS, 0)),
            ("a", Structure("lung-left", Part.SURROUNDINGS, 0)),
            ("b", Structure("left_ventricle", Part.LABELS, 0)),
            ("b", Structure("Lung Left", Part.SURROUNDINGS, 0)),
            ("b", Structure("LV", Part.SURROUNDINGS, 0)),  # another part: no fault
            ("b", Structure("LV", Part.LABELS, 1)),
        ]
    )
    assert [line.split(", got ")[1].split(". ")[0] for line in found] == [
        "left_ventricle for what is called LV in a",
        "Lung Left for what is called lung-left in a",
    ]


@pytest.mark.parametrize(
    "array",
    [np.arange(-3, 5, dtype=np.int16), np.array([0, 1 << 30], dtype=np.int64), np.array([7, 7], dtype=np.uint8)],
    ids=["negative", "far", "one"],
)
def test_values_are_all_found(array: np.ndarray) -> None:
    assert values_of(array.reshape(-1, 1, 1)) == set(array.tolist())
    assert values_of(array.reshape(1, 1, -1)) == set(array.tolist())
