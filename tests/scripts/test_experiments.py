"""The bench: stages run when what they are made from has changed, and only then; experiments name what they use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "experiments"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in ("stages", "plan", "results", "sets", "network"):
        sys.modules.pop(name, None)


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
    from plan import HERE, Experiment, Layout, experiment_names

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


def test_comparisons_are_paired_by_seed_and_scan() -> None:
    from results import case_means, compared

    rng = np.random.default_rng(0)
    records = []
    for seed in range(3):
        for case in range(20):
            hard = rng.normal(0.8, 0.1)
            for arm, gain in (("real", 0.0), ("warped", 0.02)):
                for label in ("a", "b"):
                    dice = hard + gain + rng.normal(0, 0.001)
                    records.append(
                        {"labelled": 8, "arm": arm, "seed": seed, "case": f"c{case}", "label": label, "dice": dice}
                    )
    means = case_means(records, "dice")
    result = compared(means[8, "warped"], means[8, "real"])
    assert result.mean == pytest.approx(2.0, abs=0.1)
    assert result.interval[1] - result.interval[0] < 0.2, "the scans' own difficulty cancels"
    only_one = {key: value for key, value in means[8, "real"].items() if key[0] == 0}
    assert compared(means[8, "warped"], only_one) is None


def test_weights_keep_their_sum_inside_and_outside() -> None:
    from sets import WEIGHINGS

    rng = np.random.default_rng(1)
    confidence, mask = rng.random((6, 7, 8)).astype(np.float32), (rng.random((6, 7, 8)) < 0.3).astype(np.uint8)
    for name in ("mean", "shuffled"):
        made = WEIGHINGS[name](confidence, mask, np.random.default_rng(2))
        for where in (mask > 0, mask == 0):
            assert made[where].sum() == pytest.approx(confidence[where].sum(), rel=1e-5)
        assert np.abs(made - confidence).mean() > 0.1
    assert (WEIGHINGS["uniform"](confidence, mask, rng) == 1).all()
