"""fcas_train and fcas_generate as users type them, at four training steps on 32³ cases."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from consoles import kill_at_first_case
from fcas_nnunet_small import LABELS, SURROUNDINGS, short_config, small_case

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.generate.dry_run import MAX_LISTED
from fcas_nnunet.commands.generate.measurements import read_measurements
from fcas_nnunet.commands.runtime import resolution
from fcas_nnunet.commands.runtime.leaks import weights_parents
from fcas_nnunet.commands.train import main as train
from fcas_nnunet.config.files import save_config
from fcas_nnunet.evaluation.report.provenance import common_fields
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.synthetic_cases import case_bytes, case_contents
from fcas_nnunet.integration.preprocessing.plans import pair_faults
from fcas_nnunet.integration.provenance.parents import unknown_origins
from fcas_nnunet.labels.anatomy import Role

SOURCE = "Dataset901_Small"
NUM_CASES = 4

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def home(small_home):
    """Four labelled cases, a generator of four training steps, and what it drew, for this module to change."""
    return small_home


def command(home, output, *more):
    return ["-d", "901", "-o", output, "-n", str(NUM_CASES), "--config", str(home / "short.yaml"), *more]


def hashes(folder: Path):
    """Content of a data set but for its name and the versions of packages."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "dataset.json")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def refused(capsys, main, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_the_synthetic_data_set_is_whole(home):
    dataset = RawDataset.open(home / "nnUNet_raw" / "Dataset902_SmallFCaS")
    check_dataset(dataset, min_cases=NUM_CASES)
    assert dataset.case_ids == [f"fcas_{n:05d}" for n in range(NUM_CASES)]
    assert dataset.labels == LABELS
    case = dataset.load_case("fcas_00000")
    np.testing.assert_allclose(case.affine, small_case(0).affine)
    assert case.confidence.min() >= 0
    assert 0.2 < case.confidence[case.mask > 0].mean() < 0.95
    record = Manifest(dataset.folder).read()["fcas_00000"]
    assert record["source"] == SOURCE
    assert set(record["versions"]) >= {"torch", "monai", "fcas-nnunet"}
    assert record["contents"] == case_contents(case), "hashes of what is read are those of what was made"


def test_the_autoencoders_file_tells_what_it_learnt_from(home):
    file = home / "nnUNet_results" / SOURCE / "fcas__tiny" / "autoencoder" / "model.safetensors"
    assert [(p.dataset, p.case_id) for p in weights_parents(file)] == [(SOURCE, f"p{n}") for n in range(NUM_CASES)]
    assert not file.with_name("parents.json").exists()


def test_two_processes_write_the_same_bytes_as_one(home):
    generate(command(home, "Dataset903_SmallFCaS", "-np", "2"))
    raw = home / "nnUNet_raw"
    assert hashes(raw / "Dataset903_SmallFCaS") == hashes(raw / "Dataset902_SmallFCaS")


@pytest.mark.slow  # the same with twenty kills, faster: test_generate_at_scale.py
def test_killed_and_started_again_it_writes_the_same_bytes(home):
    raw = home / "nnUNet_raw"
    output = raw / "Dataset904_SmallFCaS"
    arguments = command(home, output.name, "-np", "1")
    kill_at_first_case(output, arguments)
    generate(arguments)
    assert hashes(output) == hashes(raw / "Dataset902_SmallFCaS")


def test_more_cases_are_added_to_those_that_are_there(home):
    before = hashes(home / "nnUNet_raw" / "Dataset902_SmallFCaS")
    described = home / "nnUNet_raw/Dataset902_SmallFCaS/dataset.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"licence": "CC0"}))
    own = replace(small_case(9), case_id="own", surroundings=None, confidence=np.ones((32, 32, 32), np.float32))
    write_case(described.parent, own)  # a scan of the user's own, with its line
    Manifest(described.parent).append({"case_id": "own"})
    generate(["-d", "901", "-o", "902", "-n", str(NUM_CASES + 1), "--config", str(home / "short.yaml")])
    after = hashes(home / "nnUNet_raw" / "Dataset902_SmallFCaS")
    del before["fcas_manifest.jsonl"]
    assert before.items() <= after.items()
    content = json.loads(described.read_text())
    assert (content["numTraining"], content["licence"]) == (6, "CC0")
    records = Manifest(described.parent).read()
    assert records["own"] == {"case_id": "own"}
    assert common_fields(records)["source"] == SOURCE
    assert unknown_origins(RawDataset.open(described.parent)) == []
    for part in ("imagesTr/own_0000", "labelsTr/own", "confidenceTr/own"):
        (described.parent / f"{part}.nii.gz").unlink()  # the tests that follow have the drawn cases alone
    Manifest(described.parent).finalise(records.keys() - {"own"})
    described.write_text(json.dumps(content | {"numTraining": 5}))
    assert not (described.parent / ".fcas_unfinished").exists()


def test_labels_under_another_data_sets_ids(home, capsys, caplog):
    real = home / "nnUNet_raw" / "Dataset950_Real"
    write_case(real, replace(small_case(0), mask=(small_case(0).mask == 1).astype(np.uint8), surroundings=None))
    wanted = {"background": 0, "LV": 1, "LCA": 2, "RCA": 3, "ignore": 4}
    write_dataset_json(real, wanted, 1, roles={"LV": [Role.WALL]})
    message = refused(capsys, generate, command(home, "Dataset905_ForReal", "--for", "950"))
    assert "got none for LCA (part of coronary_arteries), RCA (part of coronary_arteries); -d has left_ven" in message
    assert not (home / "nnUNet_raw" / "Dataset905_ForReal").exists()
    with caplog.at_level("INFO"):
        generate(command(home, "Dataset905_ForReal", "--for", "950", "--unmatched", "ignore"))
    for line in (
        "  LV <- left_ventricle",
        "  ignore <- left_myocardium, coronary_arteries",
        "  thin    coronary_arteries",
    ):
        assert line in caplog.text
    raw = home / "nnUNet_raw"
    ours = RawDataset.open(raw / "Dataset905_ForReal")
    all_labels = RawDataset.open(raw / "Dataset902_SmallFCaS")
    check_dataset(ours)
    assert ours.dataset_json["labels"] == wanted
    assert pair_faults(ours, RawDataset.open(real, any_kind=True)) == []
    assert ours.roles == {"LV": (Role.WALL,)}
    case, original = ours.load_case("fcas_00001"), all_labels.load_case("fcas_00001")
    np.testing.assert_array_equal(case.mask, original.mask == 1)
    np.testing.assert_array_equal(case.ignored, original.mask > 1)
    np.testing.assert_array_equal(case.image, original.image)


def test_scans_of_another_modality_do_not_mix_with_the_generators(home, capsys):
    for number in range(2):
        write_case(home / "nnUNet_raw" / "Dataset962_MR", small_case(number))
    write_dataset_json(home / "nnUNet_raw" / "Dataset962_MR", LABELS, 2, surroundings=SURROUNDINGS)
    path = home / "nnUNet_raw" / "Dataset962_MR" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channel_names": {"0": "MRI"}}))
    message = refused(capsys, generate, command(home, "Dataset963_ForMR", "--for", "962"))
    assert "--for: channel_names of Dataset962_MR must be those of Dataset901_Small, {'0': 'CT'}" in message
    message = refused(capsys, generate, command(home, "Dataset963_FromMR", "--templates", "962"))
    assert "Dataset962_MR: channel_names must be those of Dataset901_Small, {'0': 'CT'}, got {'0': 'MRI'}" in message
    assert not list((home / "nnUNet_raw").glob("Dataset963*"))


def test_a_configuration_gives_labels_of_the_data_set_their_roles(home, capsys):
    save_config(replace(short_config(), preset="other", roles={"left_ventricel": (Role.CHAMBER,)}), home / "roles.yaml")
    message = refused(capsys, train, ["-d", "901", "--config", str(home / "roles.yaml")])
    assert "roles: must name labels of Dataset901_Small, background, left_ventricle, left_m" in message
    assert "got left_ventricel." in message


@pytest.mark.parametrize(
    "other", [("--seed", "7"), ("--steps", "7"), ("--masks", "given"), ("--stenosis", "0.3", "0.5")]
)
def test_other_settings_are_not_mixed_into_a_data_set(home, capsys, other):
    for looking in ((), ("--dry-run",)):
        message = refused(capsys, generate, command(home, "902", *other, *looking))
        assert "its cases must have been made with the same generator, seed, masks and labels" in message
        assert "got others: fcas_00000" in message
        assert " instead of " in message
        assert "fcas-nnunet 0.1.0" not in message, "the version is not the reason"


def test_confidence_inside_the_box(home):
    generate(command(home, "Dataset908_Box", "--box_margin", "4", "--snapshots", "3", "-np", "1"))
    raw = home / "nnUNet_raw"
    ours, plain = (RawDataset.open(raw / name) for name in ("Dataset908_Box", "Dataset902_SmallFCaS"))
    case, other = ours.load_case("fcas_00001"), plain.load_case("fcas_00001")
    np.testing.assert_array_equal(case.image, other.image)
    assert not np.array_equal(case.confidence, other.confidence)
    assert Manifest(ours.folder).read()["fcas_00001"]["confidence"]["box_margin"] == 4


def test_drawing_that_the_model_cannot_do_is_refused_before_it_begins(home, capsys):
    for flags, message in (
        (["--window", "10", "16", "16"], "error: --window: must be positive multiples of 4 latents, got (10, 16, 16)"),
        (["--solver", "euler"], "error: --solver: must be ddpm or dpmsolver++ for a model that predicts sample"),
        (["--steps", "100000"], "error: --steps: must be at most tcdm.num_train_timesteps (1000), got 1"),
        (["--steps", "1"], "error: --steps: must be at least 2, got 1. Give another value, or leave it out."),
        (["--strength", "0"], "error: --strength: must be greater than 0, got 0"),
        (["--snapshots", "1"], "error: --snapshots: must be at least 2, got 1"),
        (["--stenosis", "0.5", "1"], "error: --stenosis: must be in [0, 1), got (0.5, 1.0)"),
        (["--calibre", "5", "9"], "error: --calibre: must leave every structure 0.4 to 2 of its volume"),
        (["--overlap", "1.5"], "error: --overlap: must be less than 1, got 1.5"),
    ):
        assert message in refused(capsys, generate, command(home, "Dataset909_Refused", *flags))
    assert not list((home / "nnUNet_raw" / "Dataset909_Refused").glob("*/*"))


def test_options_that_change_nothing_more_are_named(home, caplog):
    idle = (
        "--precision: does nothing, since the generator is",
        "--steps: does nothing, since ddpm takes every timestep",
    )
    for flags, named in (
        (["--solver", "ddpm", "--steps", "7", "--precision", "fp32"], idle),
        (["--solver", "dpmsolver++", "--steps", "7"], ()),
    ):
        caplog.clear()
        with caplog.at_level("INFO"):
            generate(command(home, "Dataset913_Idle", "--dry-run", *flags))
        assert tuple(sentence for sentence in idle if sentence in caplog.text) == named


def test_model_of_another_configuration_is_refused(home, capsys):
    message = refused(capsys, generate, ["-d", "901", "-o", "906", "-n", "1", "--preset", "tiny"])
    assert "fcas__tiny: the generator must be the requested one, got another: " in message
    assert "tcdm.optimisation.num_steps 60 instead of " in message
    assert not list((home / "nnUNet_raw").glob("Dataset906*"))


def test_dry_run_prints_plan_disk_and_time_and_writes_nothing(home, capsys):
    generate(command(home, "907", "--dry-run", "-np", "1", "--part", "2/3"))
    printed = capsys.readouterr().out
    record = Manifest(home / "nnUNet_raw" / "Dataset902_SmallFCaS").read()["fcas_00001"]
    assert "4 cases into" in printed
    assert "Dataset907_SmallFCaS; 0 are there" in printed
    assert (
        f"fcas_00001: mask of {record['reference']} (mgm), template {record['template']}, seed {record['seed']}, part 2"
    ) in printed
    assert "part 2 of 3 (--part): 1 cases, 1 of them to be made" in printed
    assert re.search(r"disk: about 0\.00 GB \(measured on this generator's cases\), [\d.]+ GB free\n", printed)
    assert re.search(r"time: about \d+ s on one \S.* \(from \d cases? measured\)", printed)
    assert not list((home / "nnUNet_raw").glob("Dataset907*"))


def test_a_dry_run_of_a_share_without_cases_estimates_no_time(home, capsys):
    generate(command(home, "907", "--dry-run", "-np", "1", "--part", "9/9"))
    assert "time: none, since no case is left to be made\n" in capsys.readouterr().out


def test_structures_too_thin_for_the_working_grid_are_named_before_anything_is_done(home, caplog, monkeypatch):
    """By a dry run, and by a training before it begins."""
    monkeypatch.setattr(resolution, "FEW_VOXELS", 30.0)
    generate(command(home, "907", "--dry-run", "-np", "1"))
    warning = "voxels across on the working grid of 2 × 2 × 2 mm"
    assert [warning in message for message in caplog.messages].count(True) == 1
    caplog.clear()

    def begins(*_, **__):
        raise InputError("begun")

    monkeypatch.setattr("fcas_nnunet.generator.train.train_generator", begins)
    with pytest.raises(SystemExit, match="^2$"):
        train(["-d", "901", "--preset", "cpu"])
    assert "voxels across on the working grid of 0.727 × 0.727 × 0.727 mm" in caplog.text


def test_dry_run_makes_no_time_up(home, capsys):
    generate(command(home, "907", "--dry-run", "-np", "1", "--steps", "7", "-n", "60"))
    printed = capsys.readouterr().out
    assert "with these settings; run a few cases first" in printed
    assert len(re.findall("^  fcas_", printed, re.MULTILINE)) == MAX_LISTED
    assert "  ... 10 more ...\n  fcas_00059: mask of" in printed


def test_more_than_the_disk_holds_is_refused_before_anything_is_made(home, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1e4))
    message = refused(capsys, generate, command(home, "907"))
    assert "free disk space must be at least 0.0 GB for 4 cases" in message
    assert not list((home / "nnUNet_raw").glob("Dataset907*"))


def test_work_is_not_split_before_the_generator_is_trained(home, capsys):
    for number in range(2):
        write_case(home / "nnUNet_raw" / "Dataset961_New", small_case(number))
    write_dataset_json(home / "nnUNet_raw" / "Dataset961_New", LABELS, 2, surroundings=SURROUNDINGS)
    message = refused(capsys, generate, ["-d", "961", "--preset", "tiny", "--part", "1/2"])
    assert "got none for part 1 of 2 (--part). Train it first: fcas_train -d Dataset961_New" in message
    assert not (home / "nnUNet_results" / "Dataset961_New").exists()


def test_settings_are_checked_before_a_generator_is_trained(home, capsys):
    """Training may take days; a wrong flag must not wait for it."""
    for number in range(2):
        write_case(home / "nnUNet_raw" / "Dataset969_New", small_case(number))
    write_dataset_json(home / "nnUNet_raw" / "Dataset969_New", LABELS, 2, surroundings=SURROUNDINGS)
    for flags, message in (
        (["--window", "10", "16", "16"], "--window: must be positive multiples of 4 latents"),
        (["--stenosis", "0.5", "1"], "--stenosis: must be in [0, 1), got (0.5, 1.0)"),
        (["--calibre", "5", "9"], "--calibre: must leave every structure 0.4 to 2 of its volume"),
    ):
        assert message in refused(capsys, generate, ["-d", "969", "--config", str(home / "short.yaml"), *flags])
    assert not (home / "nnUNet_results" / "Dataset969_New").exists()


def test_what_is_measured_stays_out_of_the_data_set(home):
    measured = read_measurements(home / "nnUNet_results" / SOURCE / "fcas__tiny")
    steps = short_config().sampling.num_inference_steps
    assert {(m.masks, m.voxels, m.settings["num_inference_steps"]) for m in measured} == {("mgm", 32**3, steps)}
    folder = home / "nnUNet_raw" / "Dataset902_SmallFCaS"
    sizes = {case_bytes(folder, case_id, 1) for case_id in RawDataset.open(folder).case_ids}
    assert sizes <= {m.num_bytes for m in measured}
    assert all("seconds" not in record for record in Manifest(folder).read().values())


def test_every_fault_of_the_data_is_listed_before_anything_is_made(home, capsys):
    broken = home / "nnUNet_raw" / "Dataset960_Broken"
    for number in range(3):
        write_case(broken, small_case(number))
    (broken / "imagesTr" / "p0_0000.nii.gz").unlink()
    write_case(broken, replace(small_case(1), mask=small_case(1).mask * 9, surroundings=None))
    write_dataset_json(broken, LABELS, 3, surroundings=SURROUNDINGS)
    for main in (train, generate):
        message = refused(capsys, main, ["-d", "960", "--preset", "tiny"])
        assert "p0" in message
        assert "p1" in message
    assert not (home / "nnUNet_results" / broken.name).exists()
    assert not list((home / "nnUNet_raw").glob("*BrokenFCaS"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "899"], "-d 899: it must be a folder in nnUNet_raw"),
        (["-d", "901", "-n", "0"], "-n: must be 1 to 1,000,000, got 0"),
        (["-d", "901", "-n", "1000000000000", "--dry-run"], "-n: must be at most 1,000,000, got 1000000000000"),
        (["-d", "901", "-o", "901"], "-o: must be another data set"),
    ],
)
def test_wrong_arguments_are_refused(capsys, arguments, message):
    assert message in refused(capsys, generate, arguments)


def test_unknown_preset_is_refused(capsys):
    assert "invalid choice: 'huge'" in refused(capsys, train, ["-d", "901", "--preset", "huge"])


def test_trained_generator_is_left_alone(home, capsys):
    train(["-d", "901", "--config", str(home / "short.yaml")])
    assert "holds this generator already" in capsys.readouterr().out
