"""Of many faults alike the first ones are listed, and the others counted."""

from __future__ import annotations

from fcas_nnunet.listing import few_of_a_kind, listed


def test_words_are_counted_behind_the_first_ones() -> None:
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed(range(9), 2, separator="; ") == "0; 1 and 7 more"
    assert listed(word for word in ()) == ""


def test_faults_that_differ_in_case_numbers_and_paths_are_of_one_kind() -> None:
    missing = [f"case_{i}: image must exist, got no file /raw/case_{i}_0000.nii.gz. Add it." for i in range(8)]
    shapes = [
        f"p{i}: shape of label must be that of the image (4, {i}, 4), got (5, 4, 4). Resample it." for i in range(6)
    ]
    copies = [f"/pre/c{i}: copy of /raw/c{i} must have its {i} bytes, got {i + 1}. Copy it." for i in range(5)]
    other = "case_0: label must exist, got no file. Add it."
    mixed = [fault for pair in zip(missing, shapes, strict=False) for fault in pair] + missing[6:] + copies + [other]
    assert few_of_a_kind(mixed) == [
        *mixed[:10],
        "and 3 more: image must exist",
        "and 1 more: shape of label must be that of the image",
        *copies,
        other,
    ]


def test_rules_about_their_subject_alone_are_all_listed() -> None:
    settings = [f"tcdm.setting_{i}: must be 1 or more, got 0" for i in range(9)]
    lines = ["free text", "  more of it"] * 9
    assert few_of_a_kind(settings + lines) == settings + lines
