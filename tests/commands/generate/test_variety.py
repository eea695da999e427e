"""fcas_generate with scans that take on contrast, noise, thickness and field of view of other labelled scans."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from consoles import kill_at_first_case
from fcas_nnunet_small import LABELS, SURROUNDINGS, set_roots, short_config, small_case

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.report.remake import differing_settings, replay_command
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.sources import VarietyConfig
from fcas_nnunet.evaluation.report.provenance import common_fields
from fcas_nnunet.generator.sources.variety import noise_of
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.provenance.parents import parents_of

OTHERS = ("warped", "registered", "painted")
VARIETY = VarietyConfig(contrast=1, noise=1, resolution=1, field_of_view=1)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "dataset.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scans p0 to p2; p0 has much noise, p1 thick slices, p2 a small field of view."""
    set_roots(monkeypatch, tmp_path)
    source = tmp_path / "nnUNet_raw" / "Dataset931_Heart"
    cases = [small_case(number) for number in range(3)]
    noise = np.random.default_rng(0).normal(0, 150, cases[0].shape)
    cases[0] = replace(cases[0], image=cases[0].image + noise[None].astype(np.float32))
    cases[1] = replace(cases[1], affine=np.diag([5.0, 2.0, 2.0, 1.0]))
    view = slice(0, 32), slice(1, 31), slice(1, 31)
    cases[2] = replace(
        cases[2], image=cases[2].image[:, *view], mask=cases[2].mask[view], surroundings=cases[2].surroundings[view]
    )
    for case in cases:
        write_case(source, case)
    write_dataset_json(source, LABELS, 3, surroundings=SURROUNDINGS)
    save_config(replace(short_config(), variety=VARIETY), tmp_path / "varied.yaml")
    save_config(short_config(), tmp_path / "short.yaml")
    return tmp_path


def test_scans_without_a_generator_vary_as_the_labelled_ones_do(home: Path) -> None:
    raw, varied = home / "nnUNet_raw", ["--config", str(home / "varied.yaml")]
    flags = ["-d", "931", "-n", "6", "--source", "mixed", "--shares", *(f"{name}=1" for name in OTHERS), "-np", "1"]
    generate([*flags, "--config", str(home / "short.yaml"), "-o", "Dataset932_Plain"])
    output = raw / "Dataset933_Varied"
    kill_at_first_case(output, [*flags, *varied, "-o", output.name])
    generate([*flags, *varied, "-o", output.name])
    plain, made = RawDataset.open(raw / "Dataset932_Plain"), RawDataset.open(output)
    before, after = Manifest(plain.folder).read(), Manifest(made.folder).read()
    noisier = thicker = smaller = 0
    for case_id, record in after.items():
        first, second = plain.load_case(case_id), made.load_case(case_id)
        assert {key: record[key] for key in ("seed", "reference", "template", "scan")} == {
            key: before[case_id][key] for key in ("seed", "reference", "template", "scan")
        }
        assert "variety" not in before[case_id]
        if record["scan"] == "painted":
            assert "variety" not in record
            np.testing.assert_array_equal(first.image, second.image)
            continue
        taken = record["variety"]
        assert set(taken) == {"means", "noise", "thickness_mm", "extent_mm"}
        for label in (1, 2, 3):
            assert (first.mask == label).sum() == (second.mask == label).sum(), "structures stay whole"
        assert second.image is not None
        ventricle = second.image[0][second.mask == 1]
        if taken["thickness_mm"] == 2:  # thick slices mix a structure with its neighbours
            assert ventricle.mean() == pytest.approx(taken["means"]["1"][0], abs=40)
        noisier += noise_of(second.image[0], second.spacing_mm) > 100
        thicker += taken["thickness_mm"] == 5
        smaller += second.mask.size < first.mask.size
    assert min(noisier, thicker, smaller) >= 1
    records = Manifest(output).read()
    words = shlex.split(str(replay_command("Dataset933_Varied", records)))
    generate([*words[1:], "-o", "Dataset934_Again", "-np", "1"])
    assert hashes(raw / "Dataset934_Again") == hashes(output)
    common = common_fields(records)
    arguments = ["-d", "931", *varied]
    assert "variety_config" in differing_settings(arguments, short_config(), common, 0)
    assert "variety_config" not in differing_settings(arguments, replace(short_config(), variety=VARIETY), common, 0)


def test_sets_without_templates_vary_by_their_references(home: Path) -> None:
    raw, varied = home / "nnUNet_raw", ["--config", str(home / "varied.yaml"), "-np", "1"]
    flags = ["-d", "931", "-n", "2", *varied, "--masks", "given", "--references", "931:p0,p1"]
    generate([*flags, "--source", "warped", "-o", "Dataset932_Warped"])
    made = RawDataset.open(raw / "Dataset932_Warped")
    for record in Manifest(made.folder).read().values():
        assert record["variety"]["thickness_mm"] in (2, 5)
        assert record["variety_config"]["contrast"] == 1
    assert {parent.case_id for parent in parents_of(made)} == {"p0", "p1"}, "p2 is measured by nobody"
    generate([*flags, "--source", "painted", "-o", "Dataset933_Painted"])
    for record in Manifest(raw / "Dataset933_Painted").read().values():
        assert not {"variety", "variety_config"} & record.keys()


def test_drawn_scans_take_on_the_contrast_of_others(small_home: Path) -> None:
    """The generator stays as it is: what scans take on is no setting of its training."""
    raw = small_home / "nnUNet_raw"
    save_config(replace(short_config(), variety=VarietyConfig(contrast=1)), small_home / "varied.yaml")
    flags = ["-d", "901", "-n", "2", "-np", "1", "-device", "cpu", "--config", str(small_home / "varied.yaml")]
    generate([*flags, "-o", "Dataset903_Varied"])
    plain, made = RawDataset.open(raw / "Dataset902_SmallFCaS"), RawDataset.open(raw / "Dataset903_Varied")
    for case_id, record in Manifest(made.folder).read().items():
        first, second = plain.load_case(case_id), made.load_case(case_id)
        np.testing.assert_array_equal(first.mask, second.mask)
        np.testing.assert_array_equal(first.confidence, second.confidence)
        assert first.image is not None
        assert second.image is not None
        lungs = second.image[0][first.image[0] < -600]
        assert set(record["variety"]) == {"means"}
        wanted, got = record["variety"]["means"]["1"][0], second.image[0][second.mask == 1].mean()
        assert got == pytest.approx(wanted, abs=25)
        assert abs(first.image[0][first.mask == 1].mean() - wanted) > 1
        assert lungs.mean() < -500
