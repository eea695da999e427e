"""fcas_generate --network: a set is judged when it is finished, and refused before it is begun."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from held_out_folds import HELD_OUT
from nnunet_cases import REAL, Prepared

from fcas_nnunet.commands.confidence.command import main as confidence
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.generate.redraw import next_changes
from fcas_nnunet.config.options import SEGMENTER, ReferenceSource
from fcas_nnunet.generator.plan import Changes, plan_cases
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


def test_cases_that_the_judge_does_not_find_are_made_again(
    raw: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run over a judged set, killed or not, ends as one that begins with an empty folder."""
    references = ["--references", f"901:{HELD_OUT['0']},{HELD_OUT['1']}"]
    flags = [*WARP, *references, "-n", "4", "--network", str(model)]
    first, other = raw / "Dataset905_First", raw / "Dataset906_Other"
    generate([*flags, "-o", first.name])
    before = {case_id: record[SEGMENTER]["score"] for case_id, record in Manifest(first).read().items()}
    threshold = float(np.median([*before.values()]))
    again = ["--redraw-below", f"{threshold:.4f}"]
    with caplog.at_level("INFO"):
        generate([*flags, *again, "-o", first.name])
    assert "2 cases are made again, since their labels were hard to find: " in caplog.text
    generate([*flags, *again, "-o", other.name])
    records = Manifest(first).read()
    assert Manifest(other).read() == records
    ours, theirs = files(first), files(other)
    assert {name for name in ours if ours[name] != theirs[name]} <= {"dataset.json"}
    assert ours.keys() == theirs.keys()
    for case_id, record in records.items():
        attempts = record.get("attempt", 0)
        assert (attempts > 0) == (before[case_id] < round(threshold, 4))
        assert record[SEGMENTER]["score"] >= round(threshold, 4) or attempts == 2
        assert (record[SEGMENTER]["score"] == before[case_id]) == (attempts == 0)
    assert dataset_faults(RawDataset.open(first)) == []
    generate([*flags, *again, "-o", first.name])
    assert files(first) == ours, "nothing is left to do"
    changes = json.loads((first / "fcas_redrawn.json").read_text())
    changes["attempts"]["fcas_00003"] = changes["attempts"].get("fcas_00003", 0) + 1
    (first / "fcas_redrawn.json").write_text(json.dumps(changes))  # where a run was killed as soon as it had decided
    generate([*flags, "--dry-run", "-o", first.name])
    assert files(first) == ours | {"fcas_redrawn.json": (first / "fcas_redrawn.json").read_bytes()}
    generate([*flags, "-o", first.name])
    case = Manifest(first).read()["fcas_00003"]
    assert case["attempt"] == changes["attempts"]["fcas_00003"]
    assert case["seed"] != records["fcas_00003"]["seed"]


def test_references_whose_labels_are_hard_to_find_get_the_last_cases(
    raw: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references = ["--references", f"901:{HELD_OUT['0']},{HELD_OUT['1']}"]
    flags = [*WARP, *references, "-n", "5", "-o", "Dataset905_Hard", "--network", str(model), "--hard", "0.4"]
    generate([*flags, "--dry-run"])
    assert capsys.readouterr().out.count("warped, seed") == 3, "the others follow when these were judged"
    generate(flags)
    made = raw / "Dataset905_Hard"
    records = Manifest(made).read()
    assert [record.get("hard", False) for record in records.values()] == [False] * 3 + [True] * 2
    assert all(SEGMENTER in record for record in records.values())
    assert {record["reference"] for record in records.values()} == {HELD_OUT["0"], HELD_OUT["1"]}
    before = files(made)
    generate(flags)
    assert files(made) == before
    generate(["-d", "901", "--replay", made.name, "-o", "Dataset906_Again", "-np", "1"][2:])
    again = files(raw / "Dataset906_Again")
    assert all(again[name] == before[name] for name in again if name.startswith(("imagesTr", "labelsTr")))


def test_a_damaged_file_of_changes_is_named(raw: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = raw / "Dataset905_Hard"
    flags = [*WARP, "--references", f"901:{HELD_OUT['0']}", "-n", "1", "-o", made.name]
    generate(flags)
    (made / "fcas_redrawn.json").write_text('{"attempts": {"fcas_00000": "often"}}')
    with pytest.raises(SystemExit, match="^2$"):
        generate(flags)
    error = capsys.readouterr().err
    for field in ("attempts.fcas_00000", "first_hard", "hard"):
        assert f"{made / 'fcas_redrawn.json'}: {field}" in error
    (made / "fcas_redrawn.json").write_text('{"attempts": {}, "first_hard": 1, "hard": ["nobody"]}')
    with pytest.raises(SystemExit, match="^2$"):
        generate(flags)
    assert "the references that it names must be there, got none of nobody" in capsys.readouterr().err


def test_what_cannot_follow_from_a_judgement_is_refused_at_once(
    raw: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = raw / "Dataset905_Hard"
    flags = [*WARP, "--references", f"901:{HELD_OUT['0']},{HELD_OUT['1']}", "-n", "5", "-o", made.name]
    judged = [*flags, "--network", str(model)]

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="^2$"):
            generate([*arguments])
        return capsys.readouterr().err

    assert "--redraw-below: must go with --network" in refused(*flags, "--redraw-below", "0.5")
    assert "--hard: it must leave some of -n cases, and take at least one, got 0.1 of 5" in refused(
        *judged, "--hard", "0.1"
    )
    assert "got 1 of 5" in refused(*judged, "--hard", "1")
    assert "--redraw-below: must go without --both" in refused(*judged, "--both", "--redraw-below", "0.5")
    assert "--redraw-below: the set must be made by one run, got part 1 of 2" in refused(
        *judged, "--redraw-below", "0.5", "--part", "1/2"
    )
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "2")
        assert "--hard: the set must be made by one run" in refused(*judged, "--hard", "0.4")
    assert not made.exists()
    generate(flags)
    before = files(made)
    later = refused(*judged, "--hard", "0.4")
    assert "--hard: the last 2 of 5 cases must not be made yet, got fcas_00003, fcas_00004" in later
    assert files(made) == before
    (made / "fcas_redrawn.json").write_text('{"attempts": {"fcas_00001": 1}, "first_hard": 0, "hard": []}')
    before = files(made)
    assert "run_seed" in refused(*flags, "--seed", "7"), "before anything is discarded"
    assert files(made) == before
    generate([*flags[:-4], "-n", "2", "-o", made.name])
    assert "1 cases are not judged" not in capsys.readouterr().out


def test_chances_follow_doubt() -> None:
    """References are drawn in proportion to the mean improbability of their cases' labels."""
    plans = plan_cases(20, ["easy", "hard"], ["easy"], ReferenceSource.MGM, 0)
    records = {
        plan.case_id: {SEGMENTER: {"score": 0.9 if plan.reference == "easy" else 0.6}, "reference": plan.reference}
        for plan in plans
    }
    args = Namespace(n=2020, seed=0, hard=0.99, redraw_below=None)
    changes = next_changes(args, plans, Changes(), records)
    assert (changes.first_hard, len(changes.hard), changes.attempts) == (20, 2000, {})
    assert changes.hard.count("hard") == pytest.approx(2000 * 0.4 / 0.5, abs=60)
    more = plan_cases(30, ["easy", "hard"], ["easy"], ReferenceSource.MGM, 0, changes=changes)
    assert more[:20] == plans
    assert [plan.reference for plan in more[20:]] == list(changes.hard[:10])
    once = next_changes(Namespace(n=20, seed=0, hard=None, redraw_below=0.7), plans, Changes(), records)
    hard = {plan.case_id for plan in plans if plan.reference == "hard"}
    assert once.attempts == dict.fromkeys(hard, 1)
    redrawn = plan_cases(20, ["easy", "hard"], ["easy"], ReferenceSource.MGM, 0, changes=once)
    for plan, new in zip(plans, redrawn, strict=True):
        assert new.reference == plan.reference
        assert (new.seed != plan.seed) == (plan.case_id in hard)
    twice = next_changes(Namespace(n=20, seed=0, hard=None, redraw_below=0.7), redrawn, once, records)
    thrice = plan_cases(20, ["easy", "hard"], ["easy"], ReferenceSource.MGM, 0, changes=twice)
    assert set(twice.attempts.values()) == {2}
    assert next_changes(Namespace(n=20, seed=0, hard=None, redraw_below=0.7), thrice, twice, records) == twice
