"""fcas_report from data sets to one file, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from report_sets import NAME, REAL, heart, image_quality, write_result, write_sets

from fcas_nnunet.commands.report.command import main
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import write_dataset_json


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Both sets in nnUNet_raw, nothing in nnUNet_results."""
    raw = tmp_path / "raw"
    monkeypatch.setenv("nnUNet_raw", str(raw))
    monkeypatch.delenv("nnUNet_results", raising=False)
    monkeypatch.chdir(tmp_path)
    return write_sets(raw)


def report(folder: Path, *more: str) -> str:
    """The page's text."""
    output = folder / "page.html"
    main(["-d", "712", "-o", str(output), "-np", "1", *more])
    return output.read_text(encoding="utf-8")


def viewer_data(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def checks(page: str) -> dict[str, tuple[str, str]]:
    """Title → level and value of every check."""
    pattern = r'<li class="check (\w+)">.*?<h3>(.*?)</h3>\s*<p class="value">(.*?)</p>'
    return {title: (level, value) for level, title, value in re.findall(pattern, page, flags=re.DOTALL)}


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main([*arguments, "-np", "1"])
    assert sentence in capsys.readouterr().err


def test_a_page_with_everything(sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quality = write_result(tmp_path / "quality.json", image_quality())
    page = report(tmp_path, "--against", "711", "--results", str(quality))
    assert f"{tmp_path / 'page.html'}: " in capsys.readouterr().out
    found = checks(page)
    assert found["Number of cases"] == ("bad", "3")
    assert found["Contrast"][0] == "ok"
    assert found["Contrast"][1].startswith("10 HU off at worst")  # 0, 10, 20 against 0, 20, 40
    assert found["Variety"][0] == "ok"
    assert found["Variety"][1].startswith("50 % of the real spread at least")
    assert found["Volumes"] == ("ok", "1.00 of the real mean at worst: left ventricle")
    assert found["Structures"] == ("ok", "all 3 shown")
    assert found["Masks drawn again"] == ("ok", "1 for 3 new masks")
    assert found["Manifest and files"] == ("ok", "agree")
    assert found["Expected error"] == ("ok", "50 HU inside the structures")
    assert found["Confidence scale"] == ("ok", "1 = 20 HU, 0 = 110 HU")
    # 90, 80 and 70 % in the ventricle, 40 % elsewhere
    assert found["Confidence by structure"] == ("ok", "0.40 at least: ascending aorta")
    data = viewer_data(page)
    assert [case["id"] for case in data["cases"]] == ["fcas_00000", "fcas_00001", "fcas_00002"]
    companions = data["cases"][1]["companions"]
    assert companions["reference"]["case_id"] == "real_1"
    assert companions["reference"]["same_grid"]
    assert companions["template"]["case_id"] == "real_0"
    assert page.count('id="scan-') == 6  # each real scan once
    assert "3 synthetic cases drawn from Dataset711_Heart by the tiny generator" in page
    assert "12 steps of dpmsolver++, seed 7, fcas-nnunet 0.1.0" in page
    assert f"<code>fcas_generate --replay {NAME}</code>" in page
    assert (
        f"<code>fcas_generate -d {REAL} -o {NAME} -n 3 --masks mgm --solver dpmsolver++ --steps 12 --window 16 16 16 "
        "--overlap 0.25 --confidence ssv --snapshots 9 --box_margin none" in page
    )
    assert "--seed 7 --preset tiny</code>" in page
    assert "SSIM 0.800" in page
    assert "SSIM 0.600" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_page_of_mr_has_the_windows_of_its_scans(sets: tuple[Path, Path], tmp_path: Path) -> None:
    """The same numbers, called MR: 200 units are a standard deviation of the scan."""
    page = report(tmp_path)
    assert list(viewer_data(page)["windows"]) == ["heart", "soft tissue", "wide"]
    assert "256 grey values, 4 HU apart between −200 and 600 HU and coarser" in page
    for folder in sets:
        path = folder / "dataset.json"
        path.write_text(path.read_text().replace('"CT"', '"MRI"'))
    image, mask = heart()
    lows, highs = [], []
    for brighter in (0, 10, 20, 0, 20, 40):  # of each synthetic and each real scan
        scan = image + brighter * (mask > 0)
        drawn_in = np.clip(scan, *np.percentile(scan, (0.5, 99.5)))
        low, high = np.percentile(scan[0:24, 0:24, 0:30], (0.5, 99.5))
        lows.append((low - drawn_in.mean()) / drawn_in.std() * 200)
        highs.append((high - drawn_in.mean()) / drawn_in.std() * 200)
    page = report(tmp_path)
    data = viewer_data(page)
    assert data["windows"] == {"scan": [round(np.median(lows)), round(np.median(highs))], "wide": [-1000, 1000]}
    assert data["greyKnots"] == [-1024, -600, 800, 2000]
    assert "256 grey values, 6 units apart between −600 and 800 units and coarser" in page


def test_a_set_without_a_scale_in_hu_is_looked_at(tmp_path: Path) -> None:
    synthetic, _ = write_sets(tmp_path, expected_error=None)
    main(["-d", str(synthetic), "-o", str(tmp_path / "page.html"), "-np", "1", "--cases", "1"])
    found = checks((tmp_path / "page.html").read_text())
    assert found["Expected error"] == ("look", "not known in HU")
    assert "Confidence scale" not in found


def test_the_default_file_and_the_same_bytes_from_two_processes(sets: tuple[Path, Path], tmp_path: Path) -> None:
    main(["-d", NAME, "-np", "1"])
    first = (tmp_path / f"{NAME}_report.html").read_bytes()
    main(["-d", str(sets[0]), "-np", "2"])
    second = (tmp_path / f"{NAME}_report.html").read_bytes()
    assert first.replace(f"-d {NAME}".encode(), b"") == second.replace(f"-d {sets[0]}".encode(), b"")


def test_only_so_many_cases_can_be_opened_but_all_are_measured(sets: tuple[Path, Path], tmp_path: Path) -> None:
    page = report(tmp_path, "--cases", "2")
    assert [case["id"] for case in viewer_data(page)["cases"]] == ["fcas_00000", "fcas_00002"]  # both ends
    assert checks(page)["Number of cases"][1] == "3"
    assert "2 of 3 cases can be opened" in page


def test_the_worst_and_the_best_by_ssim_can_always_be_opened(tmp_path: Path) -> None:
    synthetic, _ = write_sets(tmp_path, num_cases=7)
    quality = image_quality(7)
    for number, ssim in enumerate([0.5, 0.6, 0.9, 0.6, 0.1, 0.6, 0.7]):
        quality["cases"][f"fcas_{number:05d}"]["ssim"] = ssim
    output, result = tmp_path / "page.html", write_result(tmp_path / "quality.json", quality)
    main(["-d", str(synthetic), "-o", str(output), "-np", "1", "--cases", "4", "--results", str(result)])
    shown = [case["id"] for case in viewer_data(output.read_text())["cases"]]
    assert shown == ["fcas_00000", "fcas_00002", "fcas_00004", "fcas_00006"]  # 2 and 4 by SSIM, 0 and 6 by confidence


def test_companions_come_from_the_source_even_when_measured_against_another_set(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    _, other = write_sets(tmp_path / "elsewhere")
    page = report(tmp_path, "--against", str(other.rename(tmp_path / "Dataset720_Other")))
    assert set(viewer_data(page)["cases"][0]["companions"]) == {"reference", "template"}
    assert f'"source</dt><dd>{REAL}' in page or f"<dt>source</dt><dd>{REAL}</dd>" in page


def test_labels_of_other_ids_and_names_are_matched(sets: tuple[Path, Path], tmp_path: Path) -> None:
    image, mask = heart()
    renamed = {"background": 0, "aorta": 1, "coronary_arteries": 2, "LV": 3}
    becomes = np.array([0, 3, 1, 2], dtype=np.uint8)  # old id → id in the real set
    for path in (sets[1] / "labelsTr").glob("*.nii.gz"):
        stored = nibabel.load(path)
        turned = nibabel.Nifti1Image(becomes[np.asarray(stored.dataobj).astype(int)], stored.affine, stored.header)
        nibabel.save(turned, path)
    write_dataset_json(sets[1], renamed, 3)
    found = checks(report(tmp_path, "--against", "711"))
    assert found["Volumes"] == ("ok", "1.00 of the real mean at worst: left ventricle")
    assert found["Contrast"][0] == "ok"


def test_a_set_without_manifest_or_maps_is_shown_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    write_sets(tmp_path / "raw", manifest=False, confidence=False)
    page = report(tmp_path)
    found = checks(page)
    assert found["Manifest and files"] == ("look", "no manifest")
    assert found["Confidence"] == ("bad", "no maps")
    assert "Masks drawn again" not in found
    assert viewer_data(page)["cases"][0]["companions"] == {}
    assert "There is no manifest" in page
    assert "no training log was looked for" in page or "No training log" in page


def test_what_does_not_agree_is_listed(sets: tuple[Path, Path], tmp_path: Path) -> None:
    (sets[0] / "imagesTr" / "fcas_00000_0000.nii.gz").unlink()
    (sets[0] / "confidenceTr" / "fcas_00001.nii.gz").unlink()
    Manifest(sets[0]).append({"case_id": "fcas_00009", "source": REAL})
    page = report(tmp_path)
    found = checks(page)
    assert found["Number of cases"] == ("bad", "2")
    assert found["Manifest and files"] == ("bad", "2 disagree")
    assert found["Cases without a map"] == ("bad", "fcas_00001")
    assert "fcas_00000: image must exist, got no file fcas_00000_0000.nii.gz." in page
    assert "fcas_00009: a record is in the manifest, but no file." in page


def test_broken_volumes_are_listed(sets: tuple[Path, Path], tmp_path: Path) -> None:
    (sets[0] / "imagesTr" / "fcas_00000_0000.nii.gz").write_bytes(b"no volume")
    path = sets[0] / "labelsTr" / "fcas_00001.nii.gz"
    stored = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(stored.dataobj)[:-1], stored.affine), path)
    page = report(tmp_path)
    assert "fcas_00000_0000.nii.gz: file must be a readable volume" in page
    assert "fcas_00001: grid of image must be that of the label" in page
    assert checks(page)["Manifest and files"] == ("bad", "2 disagree")


def test_training_logs_are_drawn_where_they_are(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    monkeypatch.setenv("nnUNet_results", str(results))
    generator = results / REAL / "fcas__tiny" / "tcdm" / "training.log"
    fold = results / NAME / "nnUNetTrainerCAL__nnUNetPlansFrom711__3d_fullres" / "fold_all" / "training_log_2026_1.txt"
    for path, text in (
        (generator, "step 10: loss 0.5, validation 0.4, learning rate 1e-3\nstep 20: loss 0.3, validation 0.2, "
                    "learning rate 1e-3\n"),
        (fold, "t: Epoch 0\nt: train_loss 0.1\nt: val_loss 0.2\nt: Pseudo dice [0.5, 0.7]\n"),
    ):  # fmt: skip
        path.parent.mkdir(parents=True)
        path.write_text(text)
    page = report(tmp_path, "--against", "711")
    assert "Generator, tcdm<small>step 20: training 0.3, validation 0.2</small>" in page
    assert f"{NAME}, nnUNetTrainerCAL, 3d_fullres, fold all<small>epoch 0: training 0.1, validation 0.2, pseudo" in page
    assert "No training log" not in page
    generator.unlink()
    assert "No training log of the generator was found under nnUNet_results." in report(tmp_path)


def test_bad_input_is_refused_before_the_work(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, ["-d", "799"], "-d 799: it must be a folder in nnUNet_raw")
    assert_refused(capsys, ["-d", "712", "-o", str(tmp_path)], "page must go into a file, got a folder")
    assert_refused(capsys, ["-d", "712", "--against", "712"], "--against: must be another data set than -d")
    other = write_result(tmp_path / "other.json", {"schema": "other/thing"})
    assert_refused(capsys, ["-d", "712", "--results", str(other)], "other.json: schema must be one of")
    with pytest.raises(SystemExit, match="^2$"):
        main(["-d", "712", "--cases", "0"])
    assert "1 or more, got 0" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


def test_a_set_without_a_whole_case_is_refused(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (sets[0] / "imagesTr").glob("*.nii.gz"):
        path.unlink()
    assert_refused(capsys, ["-d", "712"], "at least one case must be whole, got none of 3")
    for path in (sets[0] / "labelsTr").glob("*.nii.gz"):
        path.unlink()
    assert_refused(capsys, ["-d", "712"], "at least one case must be there, got none")
    assert not list(tmp_path.glob("*.html"))


def test_a_real_set_that_cannot_be_read_is_refused(sets: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (sets[1] / "imagesTr" / "real_1_0000.nii.gz").unlink()
    assert_refused(capsys, ["-d", "712", "--against", "711"], "real_1: image must exist, got no file")
    write_dataset_json(sets[1], {"background": 0, "kidney": 1, "liver": 2, "spleen": 3}, 3)
    assert_refused(capsys, ["-d", "712", "--against", "711"], "labels: at least one must match")
