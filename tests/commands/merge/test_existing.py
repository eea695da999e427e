"""What is there already stays, or is replaced on the user's word; killed runs go on to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merge_sources import CORONARY, LV, NAME, RV, SHAPE, enter, read, write_map, write_masks

from fcas_nnunet.commands.merge import command, finishing, jobs
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

CASES = ["a", "b", "c"]
FOLDER = Path("raw") / NAME
BOTH = ["--masks", "predictions", "totalseg:totalseg.yaml"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch, CASES)
    write_masks(Path("totalseg"), CASES)
    Path("totalseg.yaml").write_text("into: surroundings\nstructures:\n  lung_*: lungs\n")
    return tmp_path


def run(*arguments: str) -> None:
    command.main(["-d", "901", "-np", "1", *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="^2$"):
        run(*arguments)
    return capsys.readouterr().err


def contents() -> dict[str, bytes]:
    return {str(path.relative_to(FOLDER)): path.read_bytes() for path in sorted(FOLDER.rglob("*")) if path.is_file()}


def label_by_hand(case_id: str, **names: int) -> Path:
    """An expert's label of one case, and a dataset.json that names its ids."""
    path = FOLDER / "labelsTr" / f"{case_id}.nii.gz"
    write_map(path, RV * names["RV"] + CORONARY * names.get("coronary_arteries", 0))
    content = json.loads((FOLDER / "dataset.json").read_text())
    atomic_write_json(FOLDER / "dataset.json", content | {"labels": {"background": 0, **names}, "numTraining": 1})
    return path


def test_again_nothing_is_done_and_nothing_changes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*BOTH)
    before, said = contents(), capsys.readouterr().out
    run(*BOTH)
    assert contents() == before
    assert capsys.readouterr().out == said  # the whole summary, from the record


def test_an_experts_label_is_not_written_over(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_by_hand("b", RV=1)
    before = contents()
    said = refused(capsys, *BOTH)
    assert "b: labels must be new, got a file that this command did not write" in said
    assert "a: labels" not in said
    assert contents() == before


def test_kept_labels_keep_their_ids_and_the_others_get_the_same(home: Path) -> None:
    Path("rv.yaml").write_text("structures: {1: ignored}")
    expert = label_by_hand("b", RV=1)
    before = expert.read_bytes()
    run("--masks", "predictions:rv.yaml", "totalseg:totalseg.yaml", "--keep")
    assert expert.read_bytes() == before
    assert np.array_equal(read(FOLDER / "labelsTr" / "a.nii.gz"), RV * 1)
    around = read(FOLDER / "surroundingsTr" / "b.nii.gz")
    assert not around[RV].any() and around[LV & ~RV].all()  # gives way to the kept label
    assert RawDataset.open(FOLDER).dataset_json["numTraining"] == 3


def test_structures_that_kept_labels_do_not_know_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_by_hand("b", RV=1)
    said = refused(capsys, *BOTH, "--keep")
    assert "--keep: labels that stay must know every structure, got b without left_ventricle" in said


def test_on_the_users_word_labels_are_replaced_and_numbered_anew(home: Path) -> None:
    label_by_hand("b", RV=1, coronary_arteries=2)
    run(*BOTH, "--overwrite")
    assert RawDataset.open(FOLDER).labels == {"background": 0, "left_ventricle": 1, "RV": 2}
    assert np.array_equal(read(FOLDER / "labelsTr" / "b.nii.gz"), LV * 1 + RV * 2)


def test_with_new_numbers_no_old_label_may_stay(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_by_hand("b", RV=1)
    (Path("predictions") / "b.nii.gz").unlink()
    said = refused(capsys, *BOTH, "--overwrite", "--missing", "skip")
    assert "b: labels must be replaced, since ids are given anew, got no source for" in said


def test_without_it_ids_that_are_there_stay_and_new_ones_follow(home: Path) -> None:
    label_by_hand("b", RV=1, coronary_arteries=2).unlink()
    run(*BOTH)
    assert RawDataset.open(FOLDER).labels == {"background": 0, "RV": 1, "coronary_arteries": 2, "left_ventricle": 3}
    assert np.array_equal(read(FOLDER / "labelsTr" / "b.nii.gz"), LV * 3 + RV * 1)


def test_other_sources_replace_earlier_results_on_the_users_word_alone(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*BOTH)
    write_map(Path("predictions") / "c.nii.gz", LV * 1)
    before = contents()
    said = refused(capsys, *BOTH)
    assert "c: labels must be those of these sources, got earlier ones of others" in said
    assert "c: surroundings must be" in said and "a: " not in said
    assert contents() == before
    run(*BOTH, "--overwrite")
    assert np.array_equal(read(FOLDER / "labelsTr" / "c.nii.gz"), LV * 1)
    changed = {name for name, content in contents().items() if content != before[name]}
    assert changed == {"labelsTr/c.nii.gz", "surroundingsTr/c.nii.gz", "fcas_merge.jsonl"}


def test_a_label_that_was_changed_since_is_somebody_elses(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*BOTH)
    before = contents()
    write_map(FOLDER / "labelsTr" / "c.nii.gz", RV)
    assert "c: labels must be new, got a file that this command did not write" in refused(capsys, *BOTH)
    run(*BOTH, "--overwrite")
    assert contents() == before


def test_surroundings_alone_leave_labels_and_description_as_they_are(home: Path) -> None:
    path = label_by_hand("b", RV=1)
    before = path.read_bytes(), (FOLDER / "dataset.json").read_bytes()
    run("--masks", "totalseg:totalseg.yaml")
    assert (path.read_bytes(), (FOLDER / "dataset.json").read_bytes()) == before
    assert sorted(path.name for path in (FOLDER / "surroundingsTr").iterdir()) == [f"{i}.nii.gz" for i in CASES]


@pytest.mark.parametrize(("choice", "labelled"), [("skip", ["a", "c"]), ("background", CASES)])
def test_what_a_source_lacks_is_said_and_then_as_the_user_wants(
    home: Path, capsys: pytest.CaptureFixture[str], choice: str, labelled: list[str]
) -> None:
    (Path("totalseg") / "b" / "heart.nii.gz").unlink()
    said = refused(capsys, *BOTH)
    assert "b: every source must have the case, got no heart in totalseg. Add it" in said
    run(*BOTH, "--missing", choice)
    assert sorted(path.name for path in (FOLDER / "labelsTr").iterdir()) == [f"{i}.nii.gz" for i in labelled]
    assert RawDataset.open(FOLDER).dataset_json["numTraining"] == len(labelled)
    if choice == "background":
        assert set(np.unique(read(FOLDER / "surroundingsTr" / "b.nii.gz"))) == {0, 1}


def test_a_source_that_is_written_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_by_hand("b", RV=1)
    said = refused(capsys, "--masks", str(FOLDER / "labelsTr"), "--missing", "skip", "--overwrite")
    assert "a source must be another folder than those that are written" in said


@pytest.mark.parametrize(("labels", "message"), [
    ({"background": 0, "heart": [1, 2]}, "labels must be plain ids, got regions heart"),
    ({"background": 0, "RV": 1, "ignore": 2}, "ignore must keep the highest id, got new labels left_ventricle"),
])  # fmt: skip
def test_labels_that_cannot_be_added_to_are_refused(
    home: Path, capsys: pytest.CaptureFixture[str], labels: dict[str, Any], message: str
) -> None:
    content = json.loads((FOLDER / "dataset.json").read_text()) | {"labels": labels, "regions_class_order": [1]}
    atomic_write_json(FOLDER / "dataset.json", content)
    assert message in refused(capsys, *BOTH)
    run("-o", "905", *BOTH)
    new = RawDataset.open(Path("raw/Dataset905_HeartMerged"))
    assert new.labels == {"background": 0, "left_ventricle": 1, "RV": 2}
    assert "regions_class_order" not in new.dataset_json


@pytest.mark.parametrize("existing", [False, True])
def test_a_run_that_was_killed_anywhere_goes_on_to_the_same_bytes(
    home: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    """Killed after every case, at every file that is put into its place, and at every description."""
    if existing:
        label_by_hand("b", RV=1, coronary_arteries=2)
    flags = [*BOTH, "--overwrite"] if existing else BOTH
    start = contents()
    run(*flags)
    whole = contents()
    kills = 0
    for module, name in ((jobs, "_write"), (finishing.os, "replace")):
        for path in whole.keys() - start.keys():
            (FOLDER / path).unlink()
        for path, content in start.items():
            (FOLDER / path).write_bytes(content)
        for steps in range(20):  # whoever is killed has done one step more than the one before
            with monkeypatch.context() as patch:
                patch.setattr(module, name, _dying(getattr(module, name), steps))
                try:
                    run(*flags)
                    break
                except SystemExit as error:
                    assert error.code == 130
                    kills += 1
            if name == "_write":
                assert contents() | start == contents()  # nothing is touched before all are ready
        assert contents() == whole
    assert kills > 6  # at least where the files of three cases are put into their places


def _dying(function: Any, steps: int) -> Any:
    """The function, which lets itself be called so often, and then is killed."""
    left = steps

    def wrapped(*args: Any) -> Any:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return function(*args)

    return wrapped


def test_two_processes_write_the_same_bytes(home: Path) -> None:
    run("-o", "905", *BOTH)
    run("-o", "906", "--masks", *BOTH[1:], "-np", "2")
    one, two = (Path(f"raw/Dataset{number}_HeartMerged") for number in (905, 906))
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "dataset.json")
    assert len(names) == 3 * 3 + 2
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_an_empty_volume_of_a_structure_is_in_the_summary(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(Path("predictions") / "b.nii.gz", np.zeros(SHAPE))
    run(*BOTH)
    said = capsys.readouterr().out
    assert "labels without a voxel in some cases:\n  left_ventricle: 1 case(s), b\n  RV: 1 case(s), b\n" in said
