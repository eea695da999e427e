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
from fcas_nnunet_small import LABELS, SURROUNDINGS, small_case
from matplotlib.figure import Figure
from scipy.ndimage import binary_erosion
from tqdm import tqdm

from fcas_nnunet.commands.demo import arms as demo_arms
from fcas_nnunet.commands.demo import stages as demo_stages
from fcas_nnunet.commands.demo.command import Clock, main
from fcas_nnunet.commands.demo.results import Column, _draw_case, write_table
from fcas_nnunet.commands.demo.rivals import Rival, paint_case, warp_case, write_rivals
from fcas_nnunet.commands.demo.scale import PRETRAIN_EPOCHS_VARIABLE, REAL_EPOCHS_VARIABLE, DemoSize, Names
from fcas_nnunet.evaluation.viewing.colours import label_map
from fcas_nnunet.generator.mgm.masks import generate_mask
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.provenance.parents import parents_of
from fcas_nnunet.labels.anatomy import label_roles


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


HU = np.array([0, 100, 200, 400], np.float32)  # of the labels


def in_a_new_shape(number=0):
    """A case whose HU follow from its labels, and its scan warped to a new mask."""
    source = small_case(number)
    source = replace(source, image=HU[source.mask])
    made = generate_mask(source.mask, source.spacing_mm, seed=3, roles=label_roles(LABELS))
    assert (made.mask != source.mask).mean() > 0.02
    return source, warp_case(source, replace(source, image=None, mask=made.mask), made.recipe)


def test_a_warped_scan_lies_under_its_new_mask():
    source, warped = in_a_new_shape()
    assert (warped.confidence == 1).all()
    inside = binary_erosion(warped.mask == 1, iterations=2)
    assert inside.sum() > 100
    assert warped.image[inside] == pytest.approx(100, abs=12)  # splines ring at walls
    expected = HU[warped.mask]
    off, unmoved_off = (np.abs(image - expected).mean() for image in (warped.image, source.image))
    assert off < 0.5 * unmoved_off, "the scan moved with its mask"


def test_painting_gives_each_label_and_tissue_one_level():
    _, warped = in_a_new_shape()
    thorax = np.where(np.arange(32)[:, None, None] < 16, -800, 50) + np.zeros(warped.shape)
    case = replace(warped, image=np.where(warped.mask > 0, warped.image, thorax))
    painted = paint_case(case, seed=1)
    np.testing.assert_array_equal(painted.mask, case.mask)
    assert (painted.confidence == 1).all()
    np.testing.assert_array_equal(painted.image, paint_case(case, seed=1).image)
    other = paint_case(case, seed=2)
    background = case.mask == 0
    lung, tissue = (background & binary_erosion(thorax == hu, iterations=3) for hu in (-800, 50))
    places = [case.mask == 1, case.mask == 2, lung, tissue]
    levels = [[scan.image[where].mean() for where in places] for scan in (painted, other)]
    assert np.diff(sorted(levels[0])).min() > 5, "labels and tissues of the background have levels of their own"
    assert np.abs(np.subtract(*levels)).max() > 30, "another seed, other contrasts"
    assert all(scan.image[case.mask == 1].std() < 120 for scan in (painted, other))


def test_rivals_share_masks_and_parents_with_the_drawn_scans(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    source, warped = in_a_new_shape()
    made = generate_mask(source.mask, source.spacing_mm, seed=3, roles=label_roles(LABELS))
    drawn = replace(warped, case_id="fcas_00000", image=np.zeros_like(warped.image))
    for name, case in (("Dataset901_Real", source), ("Dataset902_Drawn", drawn)):
        write_case(tmp_path / name, replace(case, image=case.image.astype(np.int16)))
        write_dataset_json(tmp_path / name, LABELS, 1, surroundings=SURROUNDINGS)
    record = {"case_id": "fcas_00000", "seed": 5, "reference": "p0", "template": "p0", "masks": "mgm"}
    record |= {"source": "Dataset901_Real", "confidence": {}}
    Manifest(tmp_path / "Dataset902_Drawn").append(record | {"mgm": made.recipe.to_dict()})
    sets = [RawDataset.open(tmp_path / name) for name in ("Dataset902_Drawn", "Dataset901_Real")]
    for rival in Rival:
        write_rivals(*sets, rival, f"Dataset90{3 + list(Rival).index(rival)}_{rival}", seed=0)
    written = [RawDataset.open(tmp_path / f"Dataset90{3 + i}_{rival}") for i, rival in enumerate(Rival)]
    for dataset, rival in zip(written, Rival, strict=True):
        case = dataset.load_case("fcas_00000")
        np.testing.assert_array_equal(case.mask, made.mask)
        assert (case.confidence == 1).all()
        line = Manifest(dataset.folder).read()["fcas_00000"]
        assert (line["reference"], line["template"], line["scan"]) == ("p0", "p0", rival)
        (parent,) = parents_of(dataset)
        assert (parent.dataset, parent.case_id) == ("Dataset901_Real", "p0"), "whoever validates on it is told"
    np.testing.assert_array_equal(written[0].load_case("fcas_00000").image, warped.image)


def test_every_network_sees_the_same_scans_for_as_many_iterations(tmp_path, monkeypatch):
    """What is asked of nnU-Net, arm by arm; the commands themselves are the quick demo's."""
    names = Names(tmp_path, DemoSize.FULL)
    for name, value in names.environment().items():
        monkeypatch.setenv(name, value)
    for number, name in ((901, "Phantoms"), (902, "Drawn"), (903, "Warped"), (904, "Painted")):
        folder = tmp_path / "nnUNet_raw" / f"Dataset{number}_{name}"
        write_case(folder, replace(small_case(0), image=np.zeros((32, 32, 32), np.int16)))
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
    demo_stages.demo_stages(names)[1].run()
    assert asked[0][:3] == ("fcas_train", "-d", names.real), "the generator has seen the same scans"


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
    assert again.stderr.count("done before") == 7


def test_pictures_show_the_head_up_however_a_scan_is_stored():
    stored = replace(small_case(0), surroundings=None)  # D to the left, H to the back, W to the head
    image, mask = stored.image.transpose(2, 1, 0), stored.mask.transpose(2, 1, 0)
    upright = replace(stored, image=image, mask=mask, affine=stored.affine[:, [2, 1, 0, 3]])
    drawn = []
    for case in (stored, upright):
        axes = Figure().subplots(1, 9)
        _draw_case(case, axes, label_map(LABELS))
        drawn.append([np.ma.filled(picture.get_array(), 0) for axis in axes for picture in axis.images])
    assert len(drawn[0]) == len(drawn[1]) == 9  # three planes: plain, and with the mask on it
    for first, second in zip(*drawn, strict=True):
        np.testing.assert_array_equal(first, second)
