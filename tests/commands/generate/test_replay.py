"""fcas_generate --replay: cases made again from their lines, and what is refused; the commands that a report prints."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from fcas_nnunet_small import LABELS, short_config, small_case

from fcas_nnunet.commands.generate import command
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.report.remake import differing_settings, remake_command, replay_command
from fcas_nnunet.commands.runtime.presets import generator_config
from fcas_nnunet.evaluation.report.provenance import common_fields
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.labels.anatomy import Role

SOURCE, MADE = "Dataset901_Small", "Dataset902_SmallFCaS"
PARTS = ("imagesTr/{}_0000", "labelsTr/{}", "confidenceTr/{}")


@pytest.fixture
def raw(small_home: Path) -> Path:
    return small_home / "nnUNet_raw"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="^2$"):
        generate(["--replay", *arguments])
    return capsys.readouterr().err


def test_help_needs_no_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        generate(["--replay", "--help"])
    assert "--replay MANIFEST" in capsys.readouterr().out


def rewrite(path: Path, **changes: Any) -> None:
    """Change every line of a manifest."""
    lines = [json.dumps(json.loads(line) | changes, sort_keys=True) for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def test_one_case_again_is_the_same_to_the_byte(raw: Path) -> None:
    again, first = raw / "Dataset920_Again", raw / MADE
    described = json.loads((first / "dataset.json").read_text()) | {"fcas_roles": {"left_ventricle": ["wall"]}}
    (first / "dataset.json").write_text(json.dumps(described))
    generate(["--replay", MADE, "-o", "Dataset920_Again", "fcas_00001", "-device", "cpu", "-np", "1"])
    assert RawDataset.open(again).roles == {"left_ventricle": (Role.WALL,)}
    assert RawDataset.open(again).case_ids == ["fcas_00001"]
    for part in PARTS:
        name = f"{part.format('fcas_00001')}.nii.gz"
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    assert Manifest(again).read()["fcas_00001"] == Manifest(first).read()["fcas_00001"]
    assert RawDataset.open(again).labels == LABELS
    made, remade = (RawDataset.open(folder).dataset_json["fcas_parents"] for folder in (first, again))
    # what the generator learnt from stays known, so that leaking folds are refused
    assert {name: set(cases) for name, cases in remade.items()} == {name: set(cases) for name, cases in made.items()}
    assert Manifest(first).read()["fcas_00001"]["masks"] == "mgm"


def test_a_set_with_other_settings_and_names_is_made_again_from_its_file_alone(raw: Path, tmp_path: Path) -> None:
    real = raw / "Dataset950_Real"
    write_case(real, small_case(0))
    write_dataset_json(real, {"background": 0, "LV": 2, "coronaries": 1}, 1)
    flags = ["--steps", "4", "--window", "4", "8", "8", "--snapshots", "3", "--stenosis", "0.3", "0.5", "--for", "950"]
    said = {"left_ventricle": ["wall"], "coronary_arteries": []}
    source = raw / SOURCE / "dataset.json"
    source.write_text(json.dumps(json.loads(source.read_text()) | {"fcas_roles": said}))
    settings = ["--config", str(raw.parent / "short.yaml")]
    generate(["-d", "901", "-o", "Dataset921_Other", "-n", "2", "--masks", "both", "--seed", "5", *flags, *settings])
    manifest = tmp_path / "kept.jsonl"
    shutil.copy(raw / "Dataset921_Other" / "fcas_manifest.jsonl", manifest)
    assert all(entry["roles"] == said for entry in Manifest(raw / "Dataset921_Other").read().values())
    hidden = (raw / "Dataset921_Other").rename(tmp_path / "Dataset921_Other")
    generate(["--replay", str(manifest), "-o", "Dataset922_Again", "-device", "cpu"])
    again = RawDataset.open(raw / "Dataset922_Again")
    assert again.case_ids == ["fcas_00000", "fcas_00001"]
    for part in PARTS:
        for case_id in again.case_ids:
            name = f"{part.format(case_id)}.nii.gz"
            assert (again.folder / name).read_bytes() == (hidden / name).read_bytes(), name
    assert again.labels == {"background": 0, "left_ventricle": 2, "coronary_arteries": 1}  # written ids, own names
    assert again.roles == {"left_ventricle": (Role.WALL,), "coronary_arteries": ()}


def test_another_generator_is_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(raw / MADE, raw / "Dataset923_Elsewhere")
    manifest = raw / "Dataset923_Elsewhere" / "fcas_manifest.jsonl"
    rewrite(manifest, weights_sha256="0" * 64)
    assert f"weights must be those that made the cases, SHA-256 {'0' * 12}…, got" in refused(capsys, str(manifest))
    rewrite(manifest, geometry=0)
    assert "scans must be resampled to the working grid as for the cases, way 0, got" in refused(capsys, str(manifest))
    rewrite(manifest, preset="other")
    assert "the generator that made the cases must be there, got none" in refused(capsys, str(manifest))
    assert not list(raw.glob("*Replay"))


def test_changed_scans_are_refused_and_other_versions_named(
    raw: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(raw / MADE, raw / "Dataset924_Elsewhere")
    manifest = raw / "Dataset924_Elsewhere" / "fcas_manifest.jsonl"
    rewrite(manifest, parents_sha256={"reference": "0" * 64, "template": "1" * 64}, versions={"torch": "0.1"})
    error = refused(capsys, str(manifest), "fcas_00000")
    record = Manifest(raw / MADE).read()["fcas_00000"]
    names = ", ".join(sorted({record["reference"], record["template"]}))
    assert f"scans and masks must be those that the cases were made from, got other content for {names}" in error
    rewrite(manifest, parents_sha256={})
    generate(["--replay", str(manifest), "-o", "Dataset925_Again", "fcas_00000", "-device", "cpu"])
    assert "torch 0.1 then," in caplog.text
    assert "hold no hashes: whether scans changed is not known" in caplog.text


def test_what_cannot_be_made_again_is_refused(raw: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = refused(capsys, MADE, "fcas_00099")
    assert "cases must be in it, got fcas_00099. Name some of its 4: fcas_00000, fcas_00001" in error
    error = refused(capsys, MADE, "-o", "902")
    assert (
        f"-o: must be another data set than the one that is made again, got {MADE} for both. Give another id" in error
    )
    assert "must be new, empty or begun by fcas_generate" in refused(capsys, MADE, "-o", "901")
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert "cases must be in it, got none. Name a set that fcas_generate made" in refused(capsys, str(empty))
    assert "the manifest must be there, got no file" in refused(capsys, SOURCE)
    painted = tmp_path / "painted.jsonl"
    painted.write_text('{"case_id": "a", "source": "x"}\n{"case_id": "b", "source": "x"}\n')
    error = refused(capsys, str(painted))
    for case_id in "ab":
        assert (
            f"{painted}: {case_id}: the line must hold preset, mask_config, label_map, weights_sha256, sampling"
            in error
        )
    lines = (raw / MADE / "fcas_manifest.jsonl").read_text().splitlines()
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join([lines[0], json.dumps(json.loads(lines[1]) | {"run_seed": 9})]) + "\n")
    assert "must be of one run, got others: fcas_00001. Name them apart" in refused(capsys, str(mixed))
    preview = tmp_path / "preview.jsonl"
    record = json.loads(lines[0])
    preview.write_text(json.dumps(record | {"confidence": record["confidence"] | {"decoder": "preview"}}) + "\n")
    assert f"{preview}: confidence.decoder: must be left out, since there is no such" in refused(capsys, str(preview))


# ---- What the report prints


def line(**changes: Any) -> dict[str, dict[str, Any]]:
    """A manifest of two lines, with changed settings."""
    from report_sets import record

    records = {f"fcas_{n:05d}": record(f"fcas_{n:05d}", n) for n in range(2)}
    for entry in records.values():
        for name, change in changes.items():
            entry[name] = {**entry[name], **change} if isinstance(change, dict) else change
    return records


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampling": {"window": [8, 16, 16], "overlap": 0.5, "num_inference_steps": 7}},
        {"sampling": {"solver": "ddpm", "num_inference_steps": 1000}},
        {"sampling": {"strength": 0.5}},
        {"confidence": {"num_snapshots": 5, "box_margin": 6}},
        {"confidence": {"estimator": "ssv", "norm": "calibrated"}},
        {"confidence": {"estimator": "error_model", "norm": "calibrated"}},
        {"confidence": {"source": "x_t", "norm": "minmax_variance"}},
        {"mask_config": {"stenosis": [0.3, 0.5], "chamber_size_mm": [-3.0, 3.0]}},
        {"fold": 2, "for": "Dataset700_Real", "references": ["Dataset701_A"], "templates": ["Dataset702_B:x,y z"]},
        {"run_seed": 11, "masks": "given"},
    ],
)
def test_the_printed_command_resolves_to_the_manifests_settings(changes: dict[str, Any]) -> None:
    records = line(**changes)
    text = remake_command("Dataset712_HeartFCaS", records)
    assert text is not None
    words = shlex.split(text)
    args = command.build_parser().parse_args(words[1:])
    common = common_fields(records)
    assert differing_settings(words[1:], generator_config(args), common, 0) == []
    assert (args.d, args.o, args.n, args.seed) == (common["source"], "Dataset712_HeartFCaS", 2, common["run_seed"])
    assert (args.preset, args.fold, args.real, args.references, args.templates, str(args.masks)) == tuple(
        common.get(key) for key in ("preset", "fold", "for", "references", "templates", "masks")
    )


@pytest.mark.parametrize("preset", ["tiny", "mine"])
def test_a_configuration_of_ones_own_stands_as_a_file(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that no flag gives come from the file; a preset's name alone is no proof of its settings."""
    from dataclasses import replace

    from fcas_nnunet.config.files import save_config

    own = replace(short_config(), preset=preset)
    own = replace(own, masks=replace(own.masks, max_tries=own.masks.max_tries + 1))
    records = line(preset=preset, mask_config={"max_tries": own.masks.max_tries})
    text = remake_command("Dataset712_HeartFCaS", records)
    assert text is not None
    assert text.endswith(f"--config {preset}.yaml")
    monkeypatch.chdir(tmp_path)
    save_config(own, tmp_path / f"{preset}.yaml")
    words = shlex.split(text)[1:]
    config = generator_config(command.build_parser().parse_args(words))
    assert differing_settings(words, config, common_fields(records), 0) == []


def test_sets_that_fcas_generate_did_not_draw_have_no_command() -> None:
    painted = {"a": {"case_id": "a", "source": "Dataset901_Heart"}}
    assert remake_command("x", painted) is replay_command("x", painted) is remake_command("x", {}) is None
    unknown = {name: {**entry, "run_seed": None, "seed": 5} for name, entry in line().items()}
    assert "--seed SEED" in str(remake_command("x", unknown))
