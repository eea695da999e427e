"""fcas_demo: its stages, its clock, and the quick demo as a whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fcas_nnunet_small import small_case

from fcas_nnunet.commands.demo import Clock
from fcas_nnunet.commands.demo_results import write_table
from fcas_nnunet.commands.painting import paint_case


def test_a_stage_that_is_done_is_not_run_again(tmp_path):
    calls = []
    clock = Clock(tmp_path / "stages.json")
    clock.run("first", 1, 1, lambda: calls.append("first"))

    def dies():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clock.run("second", 1, 1, dies)
    again = Clock(tmp_path / "stages.json")
    again.run("first", 1, 1, lambda: calls.append("first"))
    again.run("second", 1, 1, lambda: calls.append("second"))
    assert calls == ["first", "second"]
    assert set(again.read()) == {"first", "second"}


def test_painting_gives_each_label_one_level_and_full_confidence():
    case = small_case(0)
    painted = paint_case(case, seed=1)
    np.testing.assert_array_equal(painted.mask, case.mask)
    assert (painted.confidence == 1).all()
    np.testing.assert_array_equal(painted.image, paint_case(case, seed=1).image)
    other = paint_case(case, seed=2)
    levels = [[scan.image[case.mask == label].mean() for label in (0, 1, 2)] for scan in (painted, other)]
    assert np.ptp(levels[0]) > 30
    assert np.abs(np.subtract(*levels)).max() > 30  # another seed, other contrasts
    for scan, means in zip((painted, other), levels, strict=True):  # away from borders a label is level ± noise
        assert scan.image[case.mask == 1].std() < 120
        assert min(means) > -250
        assert max(means) < 750


def test_table_shows_percent_per_class_and_a_dash_for_none(tmp_path):
    def scores(dice):
        labels = {"aorta": {"dice": {"mean": dice}}, "coronary_arteries": {"dice": {"mean": None}}}
        path = tmp_path / f"{dice}.json"
        path.write_text(json.dumps({"summary": {"labels": labels, "foreground_mean": {"dice": dice}}}))
        return path

    write_table({"real only": scores(0.5), "FCaS": scores(0.75)}, tmp_path / "table.txt", "2 scans")
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert lines[0] == "Dice in %, 2 scans"
    assert lines[2].split() == ["aorta", "50.0", "75.0"]
    assert lines[3].split() == ["coronary_arteries", "–", "–"]
    assert lines[4].split() == ["mean", "50.0", "75.0"]


@pytest.mark.slow
def test_quick_demo_runs_through(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet")}
    demo = [str(Path(sys.executable).with_name("fcas_demo")), "-o", str(tmp_path / "demo"), "--size", "quick"]
    finished = subprocess.run(demo, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "FCaS, then real" in finished.stdout
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 50_000
    again = subprocess.run(demo, env=environment, capture_output=True, text=True, check=True)
    assert again.stderr.count("done before") == 11
