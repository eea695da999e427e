"""A data set that is killed at any step of its finishing, and finished again, is the same to the byte."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from fcas_nnunet.commands.generate.workers import finish
from fcas_nnunet.commands.runtime.shares import Share
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.generator.plan import CasePlan, plan_cases
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.locks import Workplace
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON, write_dataset_json

PLANS = plan_cases(3, ["a", "b"], ["a", "b"], ReferenceSource.MGM, 0)
STRAYS = (
    "imagesTr/fcas_00007_0000.nii.gz", "labelsTr/.fcas_00001.nii.gz.0a1b2c3d.part", ".dataset.json.0a1b2c3d.part",
    ".fcas_manifest.jsonl.0a1b2c3d.part",
)  # fmt: skip


class Killed(BaseException):
    """Nothing after it gets done, clean-up included."""


def lay_out(folder: Path) -> Path:
    """All cases there, in two journals and a manifest; and what killed runs may leave."""
    output = folder / "Dataset902_X"
    for plan in PLANS:
        for part, suffix in (("imagesTr", "_0000"), ("confidenceTr", ""), ("labelsTr", "")):
            (output / part).mkdir(parents=True, exist_ok=True)
            (output / part / f"{plan.case_id}{suffix}.nii.gz").write_text(f"{part} of {plan.case_id}")
    manifest = Manifest(output)
    manifest.append(PLANS[2].to_record())
    for plan in PLANS[:2]:
        manifest.new_journal().append(plan.to_record())
    for stray in STRAYS:
        (output / stray).write_text("half")
    return output


def finish_set(output: Path, share: Share | None = None) -> bool:
    def describe(count: int) -> None:
        write_dataset_json(output, {"background": 0, "x": 1}, count)

    return finish(PLANS, share or Share(), output, describe, num_channels=1)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def kill_at(step: int, patch: pytest.MonkeyPatch) -> list[str]:
    """From change number `step` of the file system on, raise instead. Returns the changes that were let pass."""
    passed: list[str] = []

    def mortal(name: str, change):
        def wrapper(*args, **kwargs):
            if len(passed) == step:
                raise Killed
            passed.append(name)
            return change(*args, **kwargs)

        return wrapper

    for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "rmdir")):
        patch.setattr(owner, name, mortal(name, getattr(owner, name)))
    return passed


def test_finished_the_folder_holds_the_data_set_and_nothing_else(tmp_path: Path) -> None:
    output = lay_out(tmp_path)
    assert finish_set(output)
    there = tree(output)
    assert len(there) == 3 + 9 + 2, "three folders, nine volumes, manifest and dataset.json"
    assert json.loads(there[DATASET_JSON] or b"")["numTraining"] == 3
    assert [
        CasePlan.from_record(json.loads(line)) for line in (there["fcas_manifest.jsonl"] or b"").splitlines()
    ] == PLANS
    assert finish_set(output)
    assert tree(output) == there


def test_killed_at_every_step(tmp_path: Path) -> None:
    expected = lay_out(tmp_path / "undisturbed")
    finish_set(expected)
    step = 0
    while True:
        output = lay_out(tmp_path / "killed")
        with pytest.MonkeyPatch.context() as patch:
            passed = kill_at(step, patch)
            try:
                finish_set(output)
                break
            except Killed:
                pass
        if (output / DATASET_JSON).exists():
            there = tree(output)
            assert {name: there.get(name) for name in tree(expected)} == tree(expected)
            assert {name.split("/")[0] for name in there.keys() - tree(expected).keys()} <= {WORK_FOLDER}
        assert finish_set(output)
        assert tree(output) == tree(expected), f"killed after {passed}"
        shutil.rmtree(output)
        step += 1
    assert step >= len(STRAYS) + 8, "strays, manifest, two journals, dataset.json, lock, folder"


def test_nobody_finishes_beside_another_at_work(tmp_path: Path) -> None:
    output = lay_out(tmp_path)
    before = tree(output)
    pid = os.fork()
    if pid == 0:
        with Workplace(output):
            os._exit(0 if not finish_in_child(output) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert {name for name in tree(output) if name in before} == set(before)


def finish_in_child(output: Path) -> bool:
    """Another process than the one that is in the folder tries to finish."""
    pid = os.fork()
    if pid == 0:
        os._exit(int(finish_set(output)))
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def test_without_locks_no_part_finishes_but_a_whole_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = lay_out(tmp_path)
    monkeypatch.setattr("fcas_nnunet.integration.dataset.locks.Workplace.has_locks", False)
    assert not finish_set(output, Share(0, 2, "--part"))
    assert not (output / DATASET_JSON).exists()
    assert finish_set(output)
