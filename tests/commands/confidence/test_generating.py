"""fcas_generate --network: a set is judged when it is finished, and refused before it is begun."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from held_out_folds import HELD_OUT
from nnunet_cases import REAL, Prepared

from fcas_nnunet.commands.confidence.command import main as confidence
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.config.options import SEGMENTER
from fcas_nnunet.integration.dataset.checks import dataset_faults
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, read_confidence
from fcas_nnunet.integration.provenance.parents import Role, judges_in

WARP = ["-d", "901", "--source", "warped", "--masks", "given", "-np", "1", "-device", "cpu"]


@pytest.fixture
def raw(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Room for synthetic sets beside the real one."""
    shutil.copytree(prepared.real.folder, tmp_path / "raw" / REAL)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_set_is_judged_and_stays_so_when_it_grows(raw: Path, model: Path) -> None:
    references = ["--references", f"901:{HELD_OUT['0']},{HELD_OUT['1']}"]
    judged, plain = raw / "Dataset905_Judged", raw / "Dataset905_Plain"
    generate([*WARP, *references, "-n", "2", "-o", plain.name])
    plain = plain.rename(raw.parent / "plain")
    generate([*WARP, *references, "-n", "2", "-o", judged.name, "--network", str(model), "--combine", "product"])
    records = Manifest(judged).read()
    assert {record[SEGMENTER]["network"].split(",")[1] for record in records.values()} == {" fold 0", " fold 1"}
    assert {record[SEGMENTER]["combination"] for record in records.values()} == {"product"}
    before = {case_id: read_confidence(RawDataset.open(judged).confidence_path(case_id)).array for case_id in records}
    assert all(0.05 < array.mean() < 0.95 for array in before.values())
    generate([*WARP, *references, "-n", "3", "-o", judged.name])
    grown = RawDataset.open(judged)
    assert dataset_faults(grown) == []
    for case_id, array in before.items():
        np.testing.assert_array_equal(read_confidence(grown.confidence_path(case_id)).array, array)
    known = judges_in(grown.dataset_json)
    assert {parent.roles for parent in known} == {(Role.JUDGE,)}
    assert len(known) == 5
    confidence(["-d", judged.name, "--restore", "-np", "1"])
    ours, theirs = files(judged), files(plain)
    for name in ("imagesTr/fcas_00000_0000", "confidenceTr/fcas_00000", "confidenceTr/fcas_00001"):
        assert ours[f"{name}.nii.gz"] == theirs[f"{name}.nii.gz"]


def test_a_set_that_nobody_may_judge_is_not_begun(raw: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*more: str) -> str:
        with pytest.raises(SystemExit, match="^2$"):
            generate([*WARP, "-n", "5", "-o", "Dataset905_Judged", *more])
        assert not (raw / "Dataset905_Judged").exists()
        return capsys.readouterr().err

    error = refused("--network", str(model))
    for fold in ("3", "4"):  # nobody has held their cases out
        assert f"at least one fold must not have learnt from the reference {HELD_OUT[fold]}, got none of fold" in error
    assert HELD_OUT["0"] not in error
    error = refused("--network", str(model), "--fold", "2", "--references", f"901:{HELD_OUT['0']}")
    assert f"fold 2: validation cases must stay unseen, got {HELD_OUT['2']} (trained the judge of its labels)" in error
    assert "--rule: must go with --network" in refused("--rule", "freemask")
