"""fcas_demo: its stages, its clock, and the quick demo as a whole."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fcas_nnunet_small import LABELS, small_case
from matplotlib.figure import Figure
from tqdm import tqdm

from fcas_nnunet.commands.demo import arms as demo_arms
from fcas_nnunet.commands.demo import stages as demo_stages
from fcas_nnunet.commands.demo.command import Clock, main
from fcas_nnunet.commands.demo.results import Column, _draw_case, write_table
from fcas_nnunet.commands.demo.scale import PRETRAIN_EPOCHS_VARIABLE, REAL_EPOCHS_VARIABLE, DemoSize, Names
from fcas_nnunet.evaluation.viewing.colours import label_map
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("thesis.tex", "begun by fcas_demo, got other files: thesis.tex"), ("size.txt", "a demo of size quick, got full")],
)
def test_a_folder_of_something_else_is_not_taken(tmp_path, capsys, name, sentence):
    (tmp_path / name).write_text("full")
    with pytest.raises(SystemExit, match="^2$"):
        main(["-o", str(tmp_path), "--size", "quick"])
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


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


def test_every_network_sees_the_same_scans_for_as_many_iterations(tmp_path, monkeypatch):
    """What is asked of nnU-Net, arm by arm; the commands themselves are the quick demo's."""
    names = Names(tmp_path, DemoSize.FULL)
    for name, value in names.environment().items():
        monkeypatch.setenv(name, value)
    for number, name in ((901, "Phantoms"), (902, "Drawn"), (903, "Warped"), (904, "Painted")):
        folder = tmp_path / "nnUNet_raw" / f"Dataset{number}_{name}"
        write_case(folder, replace(small_case(0), image=np.zeros((1, 32, 32, 32), np.int16)))
        write_dataset_json(folder, LABELS, 1)
    epochs, real_scans, threads = Counter(), set(), set()

    def record(line, variables, log, progress):
        arm = log.parent.name
        threads.add(variables["OMP_NUM_THREADS"])
        if line[0] == "nnUNetv2_train":
            pretraining = line[1] != names.real
            variable = PRETRAIN_EPOCHS_VARIABLE if pretraining else REAL_EPOCHS_VARIABLE
            epochs[arm] += int(variables[variable])
            if not pretraining:
                real_scans.add((arm, line[1], line[3]))

    monkeypatch.setattr(demo_arms, "_run_logged", record)
    monkeypatch.setattr(demo_arms, "available_cores", lambda: 2)
    demo_arms.train_arms(names)
    assert set(epochs) == {"real", "902", "903", "904"}
    assert set(epochs.values()) == {names.scale.total_epochs}
    assert real_scans == {(arm, names.real, "all") for arm in epochs}
    assert threads == {"1"}
    facts = [arm.facts for arm in demo_arms.demo_arms(names)]
    assert {(f["labelled scans seen"], f["iterations, all"]) for f in facts} == {(8, 25 * names.scale.total_epochs)}
    asked = []
    monkeypatch.setattr(demo_stages, "run", lambda *line: asked.append(line))
    for stage in demo_stages.demo_stages(names)[1:5]:
        stage.run()
    assert asked[0][:3] == ("fcas_train", "-d", names.real), "the generator has seen the same scans"
    drawn, *others = (line[: line.index("-o")] for line in asked[1:])
    assert drawn[0] == "fcas_generate"
    assert others == [drawn, drawn], "the same references, number and seed, so the same masks"
    assert [line[line.index("-o") + 2 :] for line in asked[2:]] == [("--source", "warped"), ("--source", "painted")]


def test_a_failing_network_is_named_with_the_end_of_its_log(tmp_path):
    command = Path(sys.executable).with_name("fcas_env")
    assert command.is_file()
    with pytest.raises(ValueError, match=r"(?s)fcas_env: must succeed, got exit code 2.*unrecognized arguments: --no"):
        demo_arms._run_logged(("fcas_env", "--no"), {}, tmp_path / "log.txt", tqdm(disable=True))


def test_the_table_says_what_was_seen_and_corrects_for_all_its_tests(tmp_path):
    def column(title, dice):
        cases = {f"c{i}": {"aorta": {"dice": value}, "vein": {"dice": None}} for i, value in enumerate(dice)}
        labels = {"aorta": {"dice": {"mean": sum(dice) / len(dice)}}, "vein": {"dice": {"mean": None}}}
        path = tmp_path / f"{title}.json"
        summary = {"labels": labels, "foreground_mean": {"dice": sum(dice) / len(dice)}}
        path.write_text(json.dumps({"summary": summary, "cases": cases}))
        return Column(title, {"labelled scans seen": 8}, path)

    base = [0.50, 0.40, 0.60, 0.45, 0.55, 0.35]
    better, same = [value + 0.1 + 0.01 * i for i, value in enumerate(base)], base[::-1]
    write_table([column("real only", base), column("a", better), column("b", same)], tmp_path / "table.txt", 6)
    rows = {line[:24].strip(): line[24:].split() for line in (tmp_path / "table.txt").read_text().splitlines()}
    assert rows["labelled scans seen"] == ["8", "8", "8"]
    assert rows["Dice %, aorta"] == ["47.5", "60.0", "47.5"]
    assert rows["Dice %, vein"] == ["–", "–", "–"]
    assert rows["mean less real only"] == ["+12.5", "+0.0"]
    assert rows["p, Holm over 2 tests"] == ["0.062", "1.000"]  # six pairs, all positive: 2/64, twice
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["differences"]["a"]["p_value"] == pytest.approx(2 / 64)
    assert content["dice"]["mean"] == pytest.approx({"real only": 0.475, "a": 0.6, "b": 0.475})
    assert "one seed" in (tmp_path / "table.txt").read_text().lower()


@pytest.mark.slow
def test_quick_demo_runs_through(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet")}
    demo = [str(Path(sys.executable).with_name("fcas_demo")), "-o", str(tmp_path / "demo"), "--size", "quick"]
    finished = subprocess.run(demo, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "FCaS, real" in finished.stdout
    table = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert {column["iterations, all"] for column in table["columns"].values()} == {50}
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 50_000
    again = subprocess.run(demo, env=environment, capture_output=True, text=True, check=True)
    assert again.stderr.count("done before") == 8


def test_pictures_show_the_head_up_however_a_scan_is_stored():
    stored = replace(small_case(0), surroundings=None)  # D to the left, H to the back, W to the head
    image, mask = stored.image.transpose(0, 3, 2, 1), stored.mask.transpose(2, 1, 0)
    upright = replace(stored, image=image, mask=mask, affine=stored.affine[:, [2, 1, 0, 3]])
    drawn = []
    for case in (stored, upright):
        axes = Figure().subplots(1, 9)
        _draw_case(case, axes, label_map(LABELS))
        drawn.append([np.ma.filled(picture.get_array(), 0) for axis in axes for picture in axis.images])
    assert len(drawn[0]) == len(drawn[1]) == 9  # three planes: plain, and with the mask on it
    for first, second in zip(*drawn, strict=True):
        np.testing.assert_array_equal(first, second)
