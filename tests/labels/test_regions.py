"""Names of the single ids below regions."""

from __future__ import annotations

from fcas_nnunet.labels.regions import regions_of, single_ids


def test_plain_labels_keep_names_and_order() -> None:
    labels = {"background": 0, "b": 2, "a": 1, "ignore": 3}
    assert list(single_ids(labels).items()) == [("background", 0), ("b", 2), ("a", 1)]
    assert regions_of(labels) == {}


def test_ids_without_a_name_are_named_after_the_smallest_region() -> None:
    """BraTS: whole tumour, core, enhancing; 7 is in the whole alone, and 2 in the core, too."""
    labels = {"background": 0, "whole_tumor": [7, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 8}
    names = ["background", "core_2", "enhancing", "whole_tumor_7"]
    assert list(single_ids(labels).items()) == list(zip(names, [0, 2, 3, 7], strict=True))
    assert regions_of(labels) == {"whole_tumor": [2, 3, 7], "core": [2, 3]}


def test_a_user_names_ids_of_regions() -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": 2}
    assert single_ids(labels, {"edema": 1}) == {"background": 0, "edema": 1, "core": 2, "whole_3": 3}
    assert single_ids(labels, {"necrosis": 2}) == {"background": 0, "whole_1": 1, "necrosis": 2, "whole_3": 3}


def test_no_two_ids_have_one_name() -> None:
    labels = {"background": 0, "whole": [1, 2], "whole_1": 2}
    assert single_ids(labels) == {"background": 0, "whole_1_": 1, "whole_1": 2}


def test_a_region_of_background_alone_is_none() -> None:
    assert single_ids({"background": 0, "air": [0], "a": [0, 1]}) == {"background": 0, "a_1": 1}
