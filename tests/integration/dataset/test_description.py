"""What is wrong with a dataset.json is said without a look at the volumes."""

from __future__ import annotations

import pytest

from fcas_nnunet.integration.dataset.description import description_faults

CONTENT = {
    "channel_names": {"0": "CT"}, "labels": {"background": 0, "aorta": 1}, "numTraining": 1, "file_ending": ".nii.gz",
}  # fmt: skip


@pytest.mark.parametrize(
    "entry",
    [None, {"images": ["imagesTr/a_0000.nii.gz"]}, {"images": ["a", "b"], "label": "c"}, {"images": [1], "label": "c"}],
)
def test_a_described_case_must_have_its_files(entry: object) -> None:
    whole = {"images": ["/scans/b.nii.gz"], "label": "/masks/b.nii.gz"}
    assert description_faults(CONTENT | {"dataset": {"b": whole}}) == []
    (fault,) = description_faults(CONTENT | {"dataset": {"a": entry, "b": whole}})
    assert fault == f"dataset must name 1 images and a label of each case, got {entry} for 'a'. Fix it."
    assert description_faults(CONTENT | {"dataset": [entry]}) == [
        "dataset must be an object of case and files, got a list. Fix the file."
    ]
