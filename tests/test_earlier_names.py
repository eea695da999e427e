"""Files of earlier versions, which said HU whatever the modality, are read; nothing else in the package says so."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fcas_nnunet_small import short_config

import fcas_nnunet
from fcas_nnunet.commands.evaluate import images, memorisation
from fcas_nnunet.commands.runtime.outputs import holds_table
from fcas_nnunet.config.files import load_config, save_config, to_dict
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.schema import from_dict
from fcas_nnunet.earlier_names import RENAMED, present_names
from fcas_nnunet.evaluation.results import IMAGE_QUALITY, SEGMENTATIONS, VERSIONS, read_result, write_result
from fcas_nnunet.generator.calibrate import ERROR, SPREAD, PlannedDrawing
from fcas_nnunet.generator.checkpoint import GeneratorRecord
from fcas_nnunet.generator.confidence.calibration import Curve, Scale
from fcas_nnunet.generator.data.variants import save_tensors
from fcas_nnunet.generator.run_file import RUN_FILE, Run, generator_faults, read_run, run_faults
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.labels.anatomy import Role

PACKAGE = Path(fcas_nnunet.__file__).parent
#: Where CT has a branch of its own, or what CT is called is said.
OF_CT = {
    "intensities.py", "earlier_names.py", "commands/export.py", "evaluation/images/fid_2p5d.py",
    "integration/dataset/checks.py", "integration/dataset/odd_files.py",
}  # fmt: skip
FOLDERS_OF_CT = ("commands/convert/", "datasets/")


def earlier_config(config: FCaSConfig) -> dict[str, Any]:
    """A configuration as earlier versions wrote it."""
    values = to_dict(config)
    values["grid"]["intensity_range_hu"] = values["grid"].pop("intensity_range")
    pairs = values["tcdm"]["pairs"]
    pairs["contrast_jitter_hu"], pairs["surroundings_jitter_hu"] = (
        pairs.pop(name) for name in ("contrast_jitter", "surroundings_jitter")
    )
    return values


def changed_config() -> FCaSConfig:
    """Settings whose renamed ones are not the defaults, so that leaving them out shows."""
    values = to_dict(short_config())
    values["grid"]["intensity_range"] = [-900.0, 1100.0]
    values["tcdm"]["pairs"] |= {"contrast_jitter": 71.0, "surroundings_jitter": 17.0}
    return from_dict(FCaSConfig, values)


def test_a_generator_of_an_earlier_version_is_the_one_requested_now(tmp_path: Path) -> None:
    """Trained or half-trained: no difference is named, and it is gone on with."""
    config = changed_config()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(earlier_config(config)))
    read = load_config(FCaSConfig, tmp_path / "config.yaml")
    assert (read, generator_faults(tmp_path, read, config, None)) == (config, [])
    run = Run(config, {"background": 0, "aorta": 1}, {}, {"p0": "ab"}, {})
    save_config(run, tmp_path / RUN_FILE)
    content = yaml.safe_load((tmp_path / RUN_FILE).read_text())
    (tmp_path / RUN_FILE).write_text(yaml.safe_dump(content | {"config": earlier_config(config)}))
    before = read_run(tmp_path)
    assert before is not None
    assert run_faults(before, run) == []
    record = {
        "config": earlier_config(config), "autoencoder": to_dict(config.autoencoder),
        "tcdm": earlier_config(config)["tcdm"], "labels": {"aorta": 1}, "surroundings": {},
        "working_spacing_mm": [1.0, 1.0, 1.0], "latent_scale": {},
        "cases": {}, "validation_cases": [], "means_hu": {"1": 312.5},
    }  # fmt: skip
    loaded = from_dict(GeneratorRecord, record)
    assert (loaded.label_means, loaded.tcdm) == ({1: (312.5,)}, config.tcdm)


def test_a_setting_under_both_names_is_refused() -> None:
    values = to_dict(changed_config())
    values["grid"]["intensity_range_hu"] = [-1.0, 1.0]
    with pytest.raises(ValueError, match=r"^grid\.intensity_range_hu: must be left out, since there is no such"):
        from_dict(FCaSConfig, values)


def test_a_fault_under_an_earlier_name_is_named() -> None:
    values = earlier_config(changed_config())
    values["grid"]["intensity_range_hu"] = [1.0, -1.0]
    with pytest.raises(ValueError, match=r"^grid\.intensity_range: must be increasing"):
        from_dict(FCaSConfig, values)


def test_calibrations_of_earlier_versions() -> None:
    curve = {"doubt": [1.0, 2.0], "error_hu": [3.0, 4.0]}
    earlier = {"ssv": curve, "error_model": curve, "certain_hu": 20.0, "uncertain_hu": 120.0}
    knots = Curve((1.0, 2.0), (3.0, 4.0))
    assert from_dict(Scale, earlier) == Scale(knots, knots, 20.0, 120.0)


def test_drawings_of_a_calibration_that_was_killed_before_an_upgrade(tmp_path: Path) -> None:
    drawing = PlannedDrawing(0, "a", "b", held_out=False)
    save_tensors({"error_hu": torch.ones(2), "spread_hu": torch.zeros(2)}, drawing.path(tmp_path))
    read = drawing.read(tmp_path)
    assert (read[ERROR].tolist(), read[SPREAD].tolist(), len(read)) == ([1, 1], [0, 0], 2)


def test_manifests_of_earlier_versions(tmp_path: Path) -> None:
    error = {"mean": 50.0, "at_confidence_1": 20.0, "at_confidence_0": 110.0}
    Manifest(tmp_path).append({"case_id": "a", "expected_error_hu": error})
    assert Manifest(tmp_path).read() == {"a": {"case_id": "a", "expected_error": error}}


def test_results_of_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "quality.json"
    real = {"mean_hu": 300.0, "std_hu": 20.0, "between_cases_hu": 5.0, "count": 2}
    write_result(path, {
        "schema": IMAGE_QUALITY, "schema_version": VERSIONS[IMAGE_QUALITY],
        "cases": {"a": {"rmse": 0.1, "rmse_hu": 40.0}},
        "settings": {"intensity_range": {"low_hu": -100, "high_hu": 500}},
        "structures": {"aorta": {"real": real, "wasserstein_hu": 7.0}},
    })  # fmt: skip
    read = read_result(path)
    assert read["cases"] == {"a": {"rmse": 0.1, "rmse_units": 40.0}}
    assert read["settings"] == {"intensity_range": {"low": -100, "high": 500}}
    of_aorta = {"mean": 300.0, "std": 20.0, "between_cases": 5.0, "count": 2}
    assert read["structures"] == {"aorta": {"real": of_aorta, "wasserstein": 7.0}}


def test_cases_and_labels_keep_their_names_whatever_they_are(tmp_path: Path) -> None:
    """A user may have called a patient or a structure as a field was called."""
    path = tmp_path / "result.json"
    score = {"reference": "rmse_hu", "rmse": 0.1, "rmse_units": 40.0}
    quality = {
        "schema": IMAGE_QUALITY, "schema_version": VERSIONS[IMAGE_QUALITY],
        "cases": {name: score for name in (*RENAMED, "cases")}, "left_out": {"low_hu": "no partner"},
        "perceptual": {"cases": {"rmse_hu": {"lpips": 0.2}}}, "structures": {"mean_hu": {"wasserstein": 7.0}},
    }  # fmt: skip
    write_result(path, quality)
    assert read_result(path) == quality
    scores = {name: {"dice": 0.5} for name in RENAMED}
    segmentations = {
        "schema": SEGMENTATIONS, "schema_version": VERSIONS[SEGMENTATIONS], "cases": {"std_hu": scores},
        "settings": {"labels": {name: 1 for name in RENAMED}}, "references_sha256": {"std_hu": "ab"},
        "summary": {"labels": scores},
    }  # fmt: skip
    write_result(path, segmentations)
    assert read_result(path) == segmentations
    run = Run(changed_config(), {"mean_hu": 1}, {"low_hu": 1}, {"rmse_hu": "ab"}, {}, roles={"mean_hu": (Role.WALL,)})
    save_config(run, tmp_path / RUN_FILE)
    assert read_run(tmp_path) == run


@pytest.mark.parametrize("ending", ["hu", "units"])
def test_tables_of_earlier_versions_may_be_overwritten(ending: str, tmp_path: Path) -> None:
    tables = {
        images.CSV_COLUMNS: f"case_id,reference,ssim,rmse,rmse_{ending}",
        memorisation.CSV_COLUMNS: f"case_id,template,reference,flagged_by,image_nearest,image_distance,rmse_{ending}",
    }
    for columns, header in tables.items():
        (tmp_path / "t.csv").write_text(header + "\n")
        assert holds_table(columns)(tmp_path / "t.csv")


def test_present_names_are_left_alone() -> None:
    content = {"a": [{"mean": 1, "cases": {"x": None}}], "rmse": 2.0}
    assert present_names(copy.deepcopy(content)) == content
    assert not RENAMED.keys() & set(RENAMED.values())


def test_nothing_but_the_branches_of_ct_says_hu() -> None:
    """Scans of other modalities are counted in standard units, so a name that ends in _hu would be wrong for them."""
    said = {
        f"{name}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in (".py", ".js", ".html")
        and (name := path.relative_to(PACKAGE).as_posix()) not in OF_CT
        and not name.startswith(FOLDERS_OF_CT)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"(?:\b|_)(?:HU|hu)(?:\b|_)|[a-z]Hu(?:\b|[A-Z])|\bhu[A-Z]", line) and "(units|hu)" not in line
    }
    assert said == set()
