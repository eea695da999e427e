"""fcas_generate --source: scans made without a generator, and shares of each source."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from consoles import kill_at_first_case
from fcas_nnunet_small import LABELS, SURROUNDINGS, set_roots, small_case
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fcas_nnunet.case import Case
from fcas_nnunet.commands.generate.command import build_parser
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.generate.sources import shares_of
from fcas_nnunet.commands.masks.command import main as make_masks
from fcas_nnunet.commands.prepare import main as prepare
from fcas_nnunet.commands.report.command import main as report
from fcas_nnunet.commands.report.remake import differing_settings, remake_command, replay_command
from fcas_nnunet.commands.runtime.presets import generator_config
from fcas_nnunet.commands.train import main as train
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.config.presets import preset
from fcas_nnunet.config.sources import WarpConfig
from fcas_nnunet.evaluation.report.provenance import common_fields
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.provenance.parents import parents_of
from fcas_nnunet.intensities import IntensityScale

OTHERS = ["warped", "registered", "painted"]


def mri_case(number: int) -> Case:
    """A small case in floats of 0 to 1."""
    case = small_case(number)
    assert case.image is not None
    image = ((case.image + 1000) / 2000).clip(0, 1).astype(np.float32)
    return replace(case, image=image, scales=(IntensityScale.of(image, "MRI"),))


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three MR scans that no generator was trained on."""
    set_roots(monkeypatch, tmp_path)
    source = tmp_path / "nnUNet_raw" / "Dataset931_Heart"
    for number in range(3):
        write_case(source, mri_case(number))
    write_dataset_json(source, LABELS, 3, surroundings=SURROUNDINGS, channel_names={"0": "MRI"})
    return source.parent


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (train, ["--preset", "tiny"]),
        (generate, ["-n", "5", "--source", "warped"]),
        (generate, ["-n", "5", "--source", "painted"]),
        (prepare, []),
    ],
)
def test_a_scan_without_contrast_is_refused_before_anything_is_made(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], None],
    arguments: list[str],
) -> None:  # fmt: skip
    source = raw / "Dataset931_Heart"
    write_case(source, replace(mri_case(0), confidence=np.ones((32, 32, 32), np.float32)))  # for fcas_prepare
    scan = RawDataset.open(source).image_path("p1")
    blank = nib.load(scan)
    nib.save(nib.Nifti1Image(np.full(blank.shape, 0.5, np.float32), blank.affine), scan)
    with pytest.raises(SystemExit, match="^2$"):
        command(["-d", "931", *arguments])
    message = capsys.readouterr().err
    assert f"p1: image must have more than one grey value, got 0.5 in every voxel of {scan}. Export it" in message
    made = [path for path in tmp_path.rglob("*") if path.is_file() and source not in path.parents]
    assert [path for path in made if not any(part.startswith(".") for part in path.relative_to(tmp_path).parts)] == []


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "dataset.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="^2$"):
        generate(list(arguments))
    return capsys.readouterr().err


@pytest.mark.parametrize("source", OTHERS)
def test_a_set_without_a_generator(raw: Path, tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """MR in, MR out, under the masks of fcas_masks; other processes and a replay give the same bytes."""
    flags = ["-d", "931", "-n", "5", "--seed", "4", "--source", source, "--preset", "tiny"]
    generate([*flags, "-o", "Dataset932_Made", "-np", "1"])
    assert f"done: 5 cases (5 {source}) in" in capsys.readouterr().out
    assert not list((tmp_path / "nnUNet_results").iterdir()), "nothing was trained"
    made = RawDataset.open(raw / "Dataset932_Made")
    assert made.channel_names == {"0": "MRI"}
    assert len(made.case_ids) == 5
    make_masks(["-d", "931", "-n", "5", "--seed", "4", "-o", str(tmp_path / "masks"), "-np", "1"])
    records = Manifest(made.folder).read()
    for case_id in made.case_ids:
        image, mask = nib.load(made.image_path(case_id)), nib.load(tmp_path / "masks" / f"{case_id}.nii.gz")
        assert image.get_data_dtype() == np.float32
        assert -3 < np.asanyarray(image.dataobj).min() < np.asanyarray(image.dataobj).max() < 4
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), nib.load(made.mask_path(case_id)).dataobj)
        record = records[case_id]
        assert (record["scan"], record["expected_error"]) == (source, None)
        assert (record["template"] == record["reference"]) == (source != "registered")
        assert not {"weights_sha256", "sampling", "confidence", "shares"} & record.keys()
        assert record["mean_confidence_in_structures"] == pytest.approx(
            made.load_case(case_id).confidence[made.load_case(case_id).mask > 0].mean(), abs=1e-3
        )
    assert {(parent.dataset, parent.case_id) for parent in parents_of(made)} == {
        ("Dataset931_Heart", f"p{number}") for number in range(3)
    }
    generate([*flags, "-o", "Dataset933_Made", "-np", "2"])
    first = hashes(made.folder)
    assert hashes(raw / "Dataset933_Made") == first
    words = shlex.split(str(replay_command("Dataset932_Made", records)))
    generate([*words[1:], "-o", "Dataset934_Again", "-np", "1"])
    assert hashes(raw / "Dataset934_Again") == first
    words = shlex.split(str(remake_command("Dataset932_Made", records)))[1:]
    args = build_parser().parse_args(words)
    assert (args.source, args.seed, args.n, args.preset) == (source, 4, 5, "tiny")
    assert differing_settings(words, generator_config(args), common_fields(records), 0) == []
    assert "belongs" not in refused(capsys, *flags, "-o", "932", "--masks", "given")
    report(["-d", "932", "-o", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "labels of warped and painted scans are exact" in page
    assert "calibrate the generator" not in page
    assert f"5 synthetic cases {source} from Dataset931_Heart, seed 4, fcas-nnunet" in page


def test_killed_and_started_again_it_writes_the_same_bytes(raw: Path) -> None:
    flags = ["-d", "931", "-n", "9", "--source", "mixed", "--shares", *(f"{name}=1" for name in OTHERS), "-np", "1"]
    output = raw / "Dataset932_Made"
    kill_at_first_case(output, [*flags, "-o", output.name])
    generate([*flags, "-o", output.name])
    generate([*flags, "-o", "Dataset933_Made"])
    assert hashes(output) == hashes(raw / "Dataset933_Made")
    scans = Counter(record["scan"] for record in Manifest(output).read().values())
    assert scans == dict.fromkeys(OTHERS, 3)
    assert not (output / ".fcas_unfinished").exists()


@pytest.mark.parametrize("source", ["warped", "painted"])
def test_parts_in_turn_write_the_set_of_one_run(raw: Path, source: str) -> None:
    flags = ["-d", "931", "-n", "6", "--source", source, "-np", "1"]
    generate([*flags, "-o", "Dataset933_Made"])
    for part in ("2/2", "1/2"):
        assert not (raw / "Dataset932_Made" / "dataset.json").exists()
        generate([*flags, "-o", "Dataset932_Made", "--part", part])
    assert hashes(raw / "Dataset932_Made") == hashes(raw / "Dataset933_Made")


@pytest.mark.slow
def test_torchrun_splits_a_set_without_a_generator(raw: Path) -> None:
    flags = ["-d", "931", "-n", "6", "--source", "mixed", "--shares", "warped=1", "painted=1", "-np", "1"]
    generate([*flags, "-o", "Dataset933_Made"])
    torchrun = Path(sys.executable).with_name("torchrun")
    subprocess.run(
        [str(torchrun), "--standalone", "--nproc_per_node", "2", "-m", "fcas_nnunet.commands.generate", *flags,
         "-o", "Dataset932_Made"], check=True,
    )  # fmt: skip
    assert hashes(raw / "Dataset932_Made") == hashes(raw / "Dataset933_Made")


@pytest.mark.parametrize("source", ["warped", "painted"])
def test_a_folds_validation_scans_are_not_warped_or_painted(raw: Path, source: str) -> None:
    real = raw / "Dataset931_Heart"
    for number in (3, 4):
        write_case(real, mri_case(number))
    write_dataset_json(real, LABELS, 5, surroundings=SURROUNDINGS, channel_names={"0": "MRI"})
    fold = generate_crossval_split([f"p{number}" for number in range(5)])[0]
    generate(["-d", "931", "-o", "Dataset932_Made", "-n", "8", "--fold", "0", "--source", source, "-np", "1"])
    records = Manifest(raw / "Dataset932_Made").read()
    assert {record["reference"] for record in records.values()} == {str(case_id) for case_id in fold["train"]}
    assert [record["fold"] for record in records.values()] == [0] * 8


def test_a_folds_validation_scans_are_no_templates(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = raw / "Dataset931_Heart"
    for number in (3, 4):
        write_case(real, mri_case(number))
    write_dataset_json(real, LABELS, 5, surroundings=SURROUNDINGS, channel_names={"0": "MRI"})
    fold = generate_crossval_split([f"p{number}" for number in range(5)])[0]
    generate(["-d", "931", "-n", "40", "--fold", "0", "--source", "registered", "--dry-run"])
    planned = re.findall(r"mask of (\S+) \(mgm\), registered, template (\S+),", capsys.readouterr().out)
    assert {case_id for pair in planned for case_id in pair} == set(map(str, fold["train"]))
    assert all(reference != template for reference, template in planned)


def test_a_record_of_an_unknown_source_is_named(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-d", "931", "-o", "Dataset932_Made", "-n", "1", "--source", "warped", "-np", "1"]
    generate(flags)
    manifest = raw / "Dataset932_Made" / "fcas_manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"warped"', '"wrapped"'))
    message = refused(capsys, *flags)
    assert f"{manifest}: line 1 must be a JSON record" in message
    assert "'wrapped' is not a valid ScanSource" in message


def test_one_scan_is_enough_and_given_masks_stay(raw: Path) -> None:
    only = RawDataset.open(raw / "Dataset931_Heart").folder
    for number in (1, 2):
        for part in ("imagesTr/p{}_0000", "labelsTr/p{}", "surroundingsTr/p{}"):
            (only / f"{part.format(number)}.nii.gz").unlink()
    (only / "dataset.json").write_text(json.dumps(json.loads((only / "dataset.json").read_text()) | {"numTraining": 1}))
    generate(["-d", "931", "-o", "Dataset932_Made", "-n", "2", "--source", "warped", "--masks", "given", "-np", "1"])
    made, real = RawDataset.open(raw / "Dataset932_Made"), RawDataset.open(only)
    images = [made.load_case(case_id) for case_id in made.case_ids]
    for case in images:
        np.testing.assert_array_equal(case.mask, real.load_case("p0").mask)
        assert (case.confidence == 1).all()
    assert np.abs(images[0].image - images[1].image).max() > 0.01, "each in its own contrast"


def test_local_changes_are_left_out_of_warped_masks_and_that_is_said(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["-d", "931", "-n", "4", "--wall_mm", "1.5", "2", "-np", "1", "--source", "mixed"]
    with caplog.at_level("INFO"):
        generate([*flags, "--shares", "warped=1", "painted=1", "-o", "Dataset932_Made"])
    assert caplog.text.count("masks of warped scans have no local changes") == 1
    changes = {"warped": [], "painted": []}  # type: ignore[var-annotated]
    for record in Manifest(raw / "Dataset932_Made").read().values():
        changes[record["scan"]].append(bool(record["mgm"]["local_changes"]))
    assert changes == {"warped": [False, False], "painted": [True, True]}


def test_registered_scans_show_a_named_template(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without jitter, each structure has the template's intensity, on a mask of another case."""
    save_config(replace(preset("tiny"), warp=WarpConfig(0.0, 0.0)), tmp_path / "still.yaml")
    flags = ["-d", "931", "-o", "Dataset932_Made", "-n", "3", "--source", "registered", "-np", "1"]
    flags += ["--templates", "931:p1", "--config", str(tmp_path / "still.yaml")]
    assert "--steps: must go without --source registered" in refused(capsys, *flags, "--steps", "4")
    generate([*flags, "--dry-run"])
    assert capsys.readouterr().out.count("registered, template p1, seed") == 3
    generate(flags)
    made, template = RawDataset.open(raw / "Dataset932_Made"), mri_case(1)
    assert template.image is not None
    records = Manifest(made.folder).read()
    assert sorted(record["reference"] for record in records.values()) == ["p0", "p1", "p2"]
    for case_id, record in records.items():
        assert (record["template"], record["registration"]) == ("p1", 1)
        case = made.load_case(case_id)
        for label in (1, 2):  # those that are no thin vessel
            inside = case.image[0][(case.mask == label) & (case.confidence > 0)]
            assert np.median(inside) == pytest.approx(np.median(template.image[0][template.mask == label]), abs=0.03)


def test_a_dry_run_says_that_no_generator_is_needed(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(["-d", "931", "-n", "3", "--source", "painted", "--dry-run"])
    text = capsys.readouterr().out
    assert "generator: none, since no scan is drawn" in text
    assert text.count("(mgm), painted, seed") == 3
    assert [path.name for path in raw.iterdir()] == ["Dataset931_Heart"]


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        (["warped=1", "warp=2"],
         "must be SOURCE=SHARE with a SOURCE of drawn, warped, registered, painted and a SHARE of 0 or more, got "
         "warp=2. "
         "Write --shares drawn=1 warped=1 registered=1 painted=1."),
        (["warped=-1"], "got warped=-1."),
        (["warped"], "got warped."),
        (["warped=nan"], "got warped=nan."),
        (["mixed=1"], "got mixed=1."),
        (["warped=1", "warped=2"], "must name a source once, got warped twice."),
        (["warped=0"], "must leave some source a share above 0, got none."),
    ],
)  # fmt: skip
def test_wrong_shares_are_refused(
    raw: Path, capsys: pytest.CaptureFixture[str], shares: list[str], sentence: str
) -> None:
    error = refused(capsys, "-d", "931", "--source", "mixed", "--shares", *shares)
    assert error.startswith("error: --shares: must ")
    assert sentence in error


def test_options_that_would_do_nothing_are_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "-d", "931", "--source", "warped", "--steps", "5", "--templates", "931")
    for flag in ("--steps", "--templates"):
        assert f"{flag}: must go without --source warped, beside which it does nothing" in error
    assert "--shares: must go with --source mixed" in refused(capsys, "-d", "931", "--shares", "drawn=1")


def test_shares_without_a_flag_are_even() -> None:
    args = build_parser().parse_args(["-d", "931", "--source", "mixed"])
    single = (ScanSource.DRAWN, ScanSource.WARPED, ScanSource.REGISTERED, ScanSource.PAINTED)
    assert shares_of(args) == dict.fromkeys(single, 1.0)
    assert shares_of(build_parser().parse_args(["-d", "931"])) == {ScanSource.DRAWN: 1.0}


def test_a_mixed_set_holds_the_drawn_cases_of_a_drawn_one(small_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, config = small_home / "nnUNet_raw", ["--config", str(small_home / "short.yaml")]
    flags = ["-d", "901", "-n", "4", "--source", "mixed", *config, "-np", "1", "-device", "cpu"]
    generate([*flags, "-o", "Dataset903_Mixed", "--shares", "drawn=1", "warped=1"])
    mixed, drawn = Manifest(raw / "Dataset903_Mixed").read(), Manifest(raw / "Dataset902_SmallFCaS").read()
    assert Counter(record["scan"] for record in mixed.values()) == {"drawn": 2, "warped": 2}
    of_drawn, of_mixed = hashes(raw / "Dataset902_SmallFCaS"), hashes(raw / "Dataset903_Mixed")
    for case_id, record in mixed.items():
        names = [f"{part}/{case_id}{end}.nii.gz" for part, end in
                 (("labelsTr", ""), ("imagesTr", "_0000"), ("confidenceTr", ""))]  # fmt: skip
        equal = [of_mixed[name] == of_drawn[name] for name in names]
        assert equal == ([True] * 3 if record["scan"] == "drawn" else [True, False, False]), "the masks are the same"
        assert ("weights_sha256" in record) == (record["scan"] == "drawn")
        assert ("warp" in record) == (record["scan"] == "warped")
        assert record["shares"] == {"drawn": 1.0, "warped": 1.0}
    write_case(raw / "Dataset901_Small", small_case(9))
    named = {parent.case_id for parent in parents_of(RawDataset.open(raw / "Dataset903_Mixed"))}
    assert named == {"p0", "p1", "p2", "p3"}, (
        "a scan that the generator has not seen, of another fold say, is no parent"
    )
    for part in ("imagesTr/p9_0000", "labelsTr/p9", "surroundingsTr/p9"):
        (raw / "Dataset901_Small" / f"{part}.nii.gz").unlink()
    assert "instead of" in refused(capsys, *flags, "-o", "903", "--shares", "drawn=1", "painted=1")
    generate(["--replay", "903", "-o", "Dataset904_Again", "-device", "cpu", "-np", "1"])
    assert hashes(raw / "Dataset904_Again") == of_mixed
    words = shlex.split(str(remake_command("Dataset903_Mixed", mixed)))
    assert words[words.index("--source") : words.index("--source") + 5] == [
        "--source", "mixed", "--shares", "drawn=1", "warped=1",
    ]  # fmt: skip
    warped = [case_id for case_id, record in mixed.items() if record["scan"] == "warped"]
    (small_home / "nnUNet_results" / "Dataset901_Small").rename(small_home / "away")
    generate(["--replay", "903", "-o", "Dataset905_Again", *warped, "-np", "1"])  # needs no generator
    for case_id in warped:
        name = f"imagesTr/{case_id}_0000.nii.gz"
        assert hashes(raw / "Dataset905_Again")[name] == of_mixed[name]
    assert set(drawn) == set(mixed)
