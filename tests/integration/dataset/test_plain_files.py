"""Nothing that a checkpoint or a pickle holds is run; what is not whole is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_files import Payload

from fcas_nnunet.integration.dataset.plain_files import read_checkpoint, read_pickle


def test_a_checkpoint_with_numpys_values_is_read(tmp_path: Path) -> None:
    content = {"network_weights": {"a": torch.ones(2)}, "log": [np.float64(0.5), np.int64(3)], "x": np.arange(3)}
    torch.save(content, tmp_path / "plain.pth")
    read = read_checkpoint(tmp_path / "plain.pth")
    assert torch.equal(read["network_weights"]["a"], torch.ones(2))
    assert read["log"] == [0.5, 3]
    assert read["x"].tolist() == [0, 1, 2]


def test_nnunets_properties_are_read(tmp_path: Path) -> None:
    properties = {
        "sitk_stuff": {"spacing": (0.4, 0.4, 0.5), "origin": (0.0, -1.5, 3.0), "direction": (1.0,) * 9},
        "spacing": [0.5, 0.4, 0.4], "shape_before_cropping": (4, 5, 6), "bbox_used_for_cropping": [[0, 4], [1, 5]],
        "class_locations": {1: np.array([[0, 1, 2, 3]]), 2: []}, "mean": np.float32(1.5),
    }  # fmt: skip
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(properties, protocol=protocol))
        read = read_pickle(path)
        np.testing.assert_array_equal(read.pop("class_locations")[1], [[0, 1, 2, 3]])
        assert read == {key: value for key, value in properties.items() if key != "class_locations"}


@pytest.mark.parametrize("content", [b"", b"3\xff" * 200, pickle.dumps([1.5] * 50)[:-20]])
def test_files_cut_short_or_of_another_kind_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    for read in (read_checkpoint, read_pickle):
        with pytest.raises(ValueError, match=r"broken\.pth: .* plain values alone, got a file that is cut short"):
            read(path)


def test_missing_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: checkpoint must exist"):
        read_checkpoint(tmp_path / "gone.pth")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="must hold network_weights, got state_dict"):
        read_checkpoint(tmp_path / "foreign.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="must hold network_weights, got a list"):
        read_checkpoint(tmp_path / "list.pth")


def test_code_is_not_run(tmp_path: Path) -> None:
    payload = {"network_weights": {}, "extra": Payload(str(tmp_path / "was_run"))}
    torch.save(payload, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth: .* alone, got code, (posix|nt)\.mkdir"):
        read_checkpoint(tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(payload))
    with pytest.raises(ValueError, match=r"evil\.pkl: .* alone, got code, (posix|nt)\.mkdir"):
        read_pickle(tmp_path / "evil.pkl")
    assert not (tmp_path / "was_run").exists()
