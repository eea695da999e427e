"""The channels that a generator draws, against those of a data set."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fcas_nnunet.commands.runtime.channels import generator_channel_faults
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset


def dataset(*names: str) -> RawDataset:
    described = {"channel_names": {str(number): name for number, name in enumerate(names)}}
    return RawDataset(Path("Dataset901_Heart"), {}, {}, [], described)


def record(count: int, *names: str) -> Any:
    return SimpleNamespace(channel_names=names, tcdm=SimpleNamespace(image_channels=count))


@pytest.mark.parametrize(
    ("known", "names", "got"),
    [
        (record(1, "CT"), ["ct"], None),
        (record(2, "T1", "T2"), ["T1", "T2"], None),
        (record(1), ["MRI"], None),  # of an earlier version
        (record(1), ["CT", "PET"], "CT, PET, got one channel"),
        (record(1, "CT"), ["MRI"], "MRI, got CT"),
        (record(2, "T1", "T2"), ["T2", "T1"], "T2, T1, got T1, T2"),
        (record(2, "T1", "T2"), ["T1"], "T1, got T1, T2"),
    ],
)
def test_a_generator_draws_the_channels_it_has_learnt(known: Any, names: list[str], got: str | None) -> None:
    faults = generator_channel_faults(Path("model"), known, dataset(*names))
    wanted = f"model: the generator's channels must be those of Dataset901_Heart, {got}. Delete the folder"
    assert [fault.startswith(wanted) for fault in faults] == ([] if got is None else [True])


def test_a_channel_that_is_not_there_is_named() -> None:
    assert dataset("T1", "T2").showing(1).channel_name == "T2"
    with pytest.raises(ValueError, match=r"must be one of .'0': 'T1', '1': 'T2'., got 2\. Name one by --channel"):
        dataset("T1", "T2").showing(2)
