"""The bench: stages run when what they are made from has changed, and only then; experiments name what they use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "experiments"


def write(source: Path, target: Path, count: Path):
    """A stage that copies what `source` holds, and adds a line to `count` each time that it runs."""
    from stages import Stage

    code = (
        f"import pathlib as p; open({str(count)!r}, 'a').write('x'); "
        f"p.Path({str(target)!r}).write_text(p.Path({str(source)!r}).read_text().strip())"
    )
    return Stage(target.stem, "copy", 1.0, ("python", "-c", code), (target,))


def test_a_stage_runs_again_when_its_inputs_change_and_those_below_when_its_products_do(tmp_path: Path) -> None:
    from stages import Store

    store = Store(tmp_path / "run", {})
    given = tmp_path / "given.dat"
    given.write_text("one")
    above = replace(write(given, tmp_path / "run" / "above.dat", tmp_path / "above.count"), reads=(given,))
    below = replace(
        write(above.makes[0], tmp_path / "run" / "below.dat", tmp_path / "below.count"), needs=("above",)
    )  # fmt: skip

    def runs() -> tuple[int, int]:
        for stage in (above, below):
            if not store.is_done(stage):
                store.run(stage, None)
        return tuple(len((tmp_path / f"{name}.count").read_text()) for name in ("above", "below"))

    assert runs() == (1, 1)
    assert runs() == (1, 1)
    given.write_text("one\n")  # the product of the first stage stays the same
    assert runs() == (2, 1)
    given.write_text("two")
    assert runs() == (3, 2)
    assert (tmp_path / "run" / "below.dat").read_text() == "two"
    below.makes[0].unlink()
    assert runs() == (3, 3)
    assert store.stamp("below")["seconds"] > 0


def test_what_a_killed_run_has_left_is_continued_but_nothing_older(tmp_path: Path) -> None:
    from stages import Stage, StageFailedError, Store

    store, folder = Store(tmp_path, {}), tmp_path / "made"
    code = "import pathlib as p, sys; f = p.Path(sys.argv[1]) / 'part'; f.parent.mkdir(exist_ok=True); "
    code += "f.write_text((f.read_text() if f.exists() else '') + 'x'); sys.exit(len(f.read_text()) < 2)"
    stage = Stage("one", "any", 1.0, ("python", "-c", code, str(folder)), (folder,))
    with pytest.raises(StageFailedError, match="one: must succeed, got exit code 1"):
        store.run(stage, None)
    assert not store.is_done(stage)
    store.run(stage, None)
    assert (folder / "part").read_text() == "xx"
    other = replace(stage, environment={"ANY": "1"})
    assert not store.is_done(other)
    with pytest.raises(StageFailedError, match="exit code 1"):
        store.run(other, None)
    assert (folder / "part").read_text() == "x", "what was made otherwise is removed first"
    assert not store.is_done(stage)


def test_every_experiment_names_what_there_is_and_gives_all_arms_the_same_steps() -> None:
    from design import HERE, Experiment, experiment_names
    from plan import Layout

    assert "left_atrium" in experiment_names()
    for name in experiment_names():
        for scale in ("smoke", "cpu"):
            experiment = Experiment.read(name, scale)
            layout = Layout(experiment, Path("/run"), Path("/scans"))
            stages = {stage.name: stage for stage in layout.stages()}
            for stage in stages.values():
                assert set(stage.needs) <= stages.keys()
            made = [path for stage in stages.values() for path in stage.makes]
            assert len(made) == len(set(made)), "no two stages write the same"
            for run in layout.runs():
                phases = [
                    stages[f"{run.key}/{phase}"] for phase in ("phase1", "phase2") if f"{run.key}/{phase}" in stages
                ]
                epochs = sum(int(phase.environment["FCAS_DEMO_REAL_EPOCHS"]) for phase in phases)
                steps = experiment.scale.iterations * sum(experiment.scale.epochs)
                assert epochs * experiment.scale.iterations == steps * experiment.arms[run.arm].length
            assert not experiment.scale.config or (HERE / "generators" / experiment.scale.config).is_file()
    with pytest.raises(ValueError, match="--experiment: must be one of .*left_atrium.*, got lungs"):
        Experiment.read("lungs", "cpu")


def test_on_a_gpu_every_computation_goes_there(tmp_path: Path) -> None:
    import run
    from design import Experiment
    from plan import Layout

    stages = Layout(Experiment.read("left_atrium", "gpu"), tmp_path, tmp_path).stages()
    networks = [stage for stage in stages if stage.command[0] == "python" and stage.command[1].endswith("network.py")]
    others = [stage for stage in stages if "-device" in stage.command]
    assert len(networks) == 8
    assert {stage.command[6] for stage in networks} == {"cuda"}
    assert {stage.command[stage.command.index("-device") + 1] for stage in others} == {"cuda"}
    assert {stage.kind.split()[0] for stage in others} == {"generator", "generate", "predict"}
    on_gpu = run._environment(tmp_path, "cuda")
    assert "OMP_NUM_THREADS" not in on_gpu
    assert (on_gpu["nnUNet_n_proc_DA"], on_gpu["nnUNet_compile"]) == ("2", "f"), "several networks share its cores"
    smoke = Layout(Experiment.read("left_atrium", "smoke", "cuda"), tmp_path, tmp_path).stages()
    devices = {stage.command[stage.command.index("-device") + 1] for stage in smoke if "-device" in stage.command}
    assert devices == {"cuda"}
    on_cpu = run._environment(tmp_path, "cpu")
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["nnUNet_n_proc_DA"]) == ("1", "0")


def test_comparisons_are_paired_by_seed_and_scan() -> None:
    from results import compared, patient_means

    rng = np.random.default_rng(0)
    records = []
    for seed in range(3):
        for case in range(20):
            hard = rng.normal(0.8, 0.1)
            for arm, gain in (("real", 0.0), ("warped", 0.02)):
                labels = {label: {"dice": hard + gain + rng.normal(0, 0.001)} for label in ("a", "b")}
                records.append({"labelled": 8, "arm": arm, "seed": seed, "case": f"c{case}", "labels": labels})
    means = patient_means(records, "dice")
    result = compared(means[8, "warped"], means[8, "real"])
    assert result.mean == pytest.approx(2.0, abs=0.1)
    assert result.interval[1] - result.interval[0] < 0.2, "the scans' own difficulty cancels"
    only_two = {key: value for key, value in means[8, "real"].items() if key[0] < 2}
    assert compared(means[8, "warped"], only_two) is None, "two seeds may agree by chance"


def test_both_phases_are_augmented_as_the_arm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import trainers
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

    monkeypatch.setattr(nnUNetTrainerDA5, "get_training_transforms", staticmethod(lambda *args, **kwargs: "DA5"))
    for name in trainers.__all__:
        trainer = object.__new__(getattr(trainers, name))
        trainer.uses_confidence = False
        assert trainer.get_training_transforms() == "DA5"


def test_networks_are_made_in_the_order_of_the_patterns(tmp_path: Path) -> None:
    import run
    from design import Experiment
    from plan import Layout

    layout = Layout(Experiment.read("left_atrium", "cpu"), tmp_path, tmp_path)
    stages = run._wanted(layout, ["n8/seed2/painted", "n8/*/warped", "n8/picture"], {"n8/seed1/warped"})
    names = [stage.name for stage in stages]
    scores = ["n8/seed2/painted/score", "n8/seed0/warped/score", "n8/seed2/warped/score"]
    assert [name for name in names if name.endswith("/score")] == scores
    assert names[-1] == "n8/picture"
    assert "n8/generator_cpu" in names, "pictures have drawn scans"
    assert names.index("n8/generator_cpu") > names.index("n8/seed2/warped/score")
    for stage in stages:
        assert all(names.index(needed) < names.index(stage.name) for needed in stage.needs)
    every = run._wanted(layout, ["*"], set())
    assert {stage.name for stage in every} == {stage.name for stage in layout.stages()}


def test_a_mixed_arm_without_drawn_scans_waits_for_no_generator(tmp_path: Path) -> None:
    from design import Experiment
    from plan import Layout

    stages = {stage.name: stage for stage in Layout(Experiment.read("left_atrium", "cpu"), tmp_path, tmp_path).stages()}
    needs = {name: stages[f"n8/seed0/generate_{name}"].needs for name in (
        "drawn", "mixed_drawn_warped_painted", "mixed_registered_warped_painted", "drawn_registered"
    )}  # fmt: skip
    assert needs["drawn"] == needs["mixed_drawn_warped_painted"] == ("n8/labelled", "n8/generator_cpu")
    assert needs["mixed_registered_warped_painted"] == ("n8/labelled",)
    assert needs["drawn_registered"] == ("n8/labelled", "n8/generator_registered")


def test_scores_that_other_settings_gave_are_not_collected(tmp_path: Path) -> None:
    from stages import Stage, Store

    store = Store(tmp_path, {})
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x')"
    first, second = (
        Stage(name, "any", 1.0, ("python", "-c", code, str(tmp_path / name)), (tmp_path / name,), needs)
        for name, needs in (("train", ()), ("score", ("train",)))
    )
    for stage in (first, second):
        store.run(stage, None)
    assert store.done([first, second]) == {"train", "score"}
    longer = replace(first, environment={"EPOCHS": "2"})
    assert store.done([longer, second]) == set(), "the score's own key is the same, but not what it was made from"


def test_the_phases_of_a_patient_count_as_one() -> None:
    from results import patient_means

    records = [
        {"labelled": 7, "arm": "real", "seed": 0, "case": case, "labels": {"a": {"dice": dice}}}
        for case, dice in (("p1_frame01", 0.5), ("p1_frame12", 0.7), ("p2_frame01", 0.9))
    ]
    means = patient_means(records, "dice", ".+?(?=_frame|$)")[7, "real"]
    assert means == pytest.approx({(0, "p1"): 60.0, (0, "p2"): 90.0})


def scores(arm: str, seed: int, gain: float, steps: int = 900, cases: int = 12) -> list[dict[str, object]]:
    """Records of a network whose Dice lies so much above that of real only, at n = 8."""
    rng = np.random.default_rng(3)
    hard = rng.normal(0.8, 0.05, cases)
    noise = np.random.default_rng([seed, len(arm)]).normal(0, 0.002, cases)
    noise -= noise.mean()
    return [
        {
            "experiment": "left_atrium", "scale": "cpu", "arm": arm, "seed": seed, "labelled": 8, "scans": 8,
            "seen": "la00 la01",
            "version": "v", "synthetic": 48, "steps": steps, "cpu_seconds": 400, "case": f"c{number}",
            "labels": {"a": {"dice": float(hard[number] + gain + noise[number]), "rdice": 0.9}},
        }
        for number in range(cases)
    ]  # fmt: skip


def test_earlier_results_stay_until_their_network_is_scored_again() -> None:
    from results import joined

    earlier = [*scores("real", 0, 0.0), *scores("warped", 0, 0.02)]
    again = scores("warped", 0, 0.05, cases=5)
    both = joined(earlier, [*again, *scores("warped", 1, 0.03)])
    assert [record for record in both if record["arm"] == "real"] == sorted(
        earlier[:12], key=lambda record: record["case"]
    )
    assert [record["labels"] for record in both if (record["arm"], record["seed"]) == ("warped", 0)] == [
        record["labels"] for record in again
    ]
    assert len(both) == 12 + 5 + 12


def test_tables_hold_what_was_measured_and_correct_for_all_that_was_planned(tmp_path: Path) -> None:
    from design import Experiment
    from tables import draw, report, short_report

    experiment = Experiment.read("left_atrium", "cpu")
    one = [*scores("real", 0, 0.0), *scores("warped", 0, 0.02), *scores("real_half", 0, -0.05, steps=450)]
    assert "| +2.0 (1 seed) |" in report(experiment, one)
    assert "Comparisons follow with the third seed." in report(experiment, one)
    assert "Scans that the networks and their synthetic scans come from: la00 la01." in report(experiment, one)
    records = [*one, *(record for seed in (1, 2) for arm, gain in (("real", 0.0), ("warped", 0.02))
                       for record in scores(arm, seed, gain))]  # fmt: skip
    lines = report(experiment, records).splitlines()
    row = next(line for line in lines if line.startswith("| warped |"))
    assert row.startswith("| warped | 8 | 48 | 900 | 400 | 3 × 12 | ")
    assert "+2.0 [" in row
    planned = next(line for line in lines if line.startswith("| warped − real |")).split(" | ")
    from results import compared, patient_means

    means = patient_means(records, "dice")
    p_value = compared(means[8, "warped"], means[8, "real"]).p_value
    assert float(planned[3]) == pytest.approx(min(1.0, len(experiment.planned) * p_value), abs=6e-4)
    assert "real_half" not in short_report(experiment, records)
    with pytest.raises(ValueError, match="records must be of one number of steps, got 900, 1800"):
        report(experiment, [*records, *scores("painted", 0, 0.0, steps=1800)])
    assert "| warped | 3 | " in short_report(experiment, records)
    draw(experiment, records, tmp_path / "images" / "results.png")
    assert (tmp_path / "images" / "results.png").stat().st_size > 5000


def test_records_of_two_precisions_are_not_compared() -> None:
    from design import Experiment
    from tables import check_sizes

    experiment = Experiment.read("left_atrium", "cpu")
    earlier = {"arm": "real", "steps": 1600}  # from before precisions were recorded: bf16
    check_sizes(experiment, [earlier, earlier | {"precision": "bf16"}])
    with pytest.raises(ValueError, match="must be of networks of one precision, got bf16, float32"):
        check_sizes(experiment, [earlier, earlier | {"precision": "float32"}])


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    line = [sys.executable, str(SCRIPTS / "run.py"), "--experiment", "cta", "--scale", "smoke", "-o", str(tmp_path)]
    stamps = tmp_path / "cta" / "smoke" / "stamps"
    with subprocess.Popen(line, start_new_session=True) as process:
        while not (stamps / "n2" / "labelled.json").is_file():
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in stamps.rglob("*.json")}
    assert subprocess.run(line, check=False).returncode == 0
    after = {path: path.stat().st_mtime_ns for path in stamps.rglob("*.json")}
    assert len(before) < len(after) == 5
    assert before.items() <= after.items(), "what was done is not done again"
    assert (tmp_path / "cta" / "smoke" / "pictures" / "n2.png").is_file()
