"""Other labels than a heart's through whole commands: many, one, absent ones, full volumes, lesions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fcas_nnunet_small import ROOTS, set_roots, short_config
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from fcas_nnunet.case import Case
from fcas_nnunet.commands.doctor import dataset_findings
from fcas_nnunet.commands.evaluate.command import main as evaluate
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.masks.command import main as make_masks
from fcas_nnunet.commands.report.command import main as report
from fcas_nnunet.commands.runtime.label_table import settled_roles
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.evaluation.segmentation.overlap import label_map_faults
from fcas_nnunet.evaluation.statistics.comparison import compare as compare_results
from fcas_nnunet.generator.mgm.masks import NoMaskError, generate_mask
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.description import description_faults
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.labels.anatomy import describe_roles
from fcas_nnunet.labels.components import label_components
from fcas_nnunet.labels.matching import Unmatched, compare_labels, labels_to_write

SIZE = 32
GRID = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1)


def parcels(count: int, seed: int) -> np.ndarray:
    """So many classes side by side that fill the volume; the same neighbours in every case."""
    centres = np.random.default_rng(0).uniform(2, SIZE - 2, (count, 3))
    moved = centres + np.random.default_rng(seed).normal(0, 0.5, centres.shape)
    return np.asarray(cKDTree(moved).query(GRID)[1] + 1).astype(np.uint8)


def lesions(seed: int) -> np.ndarray:
    """A hundred lesions of 1 to 19 voxels; a second class, in the first case alone, of one voxel."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIZE,) * 3, np.uint8)
    for centre in rng.integers(3, SIZE - 3, (100, 3)):
        mask[((GRID - centre) ** 2).sum(axis=-1) <= rng.choice([0, 1, 2])] = 1
    if seed == 0:
        mask[16, 16, 16] = 2
    return mask


def ball(seed: int) -> np.ndarray:
    return (np.linalg.norm(GRID - SIZE / 2, axis=-1) < 9 + seed).astype(np.uint8)


#: Three hundred names, each so long that all of them fill pages.
NAMES = {"background": 0} | {f"a_structure_of_number_{number}": number for number in range(1, 301)}


def said_of_many_labels() -> Iterator[str]:
    """Messages about label maps and descriptions of `NAMES`, from all over the package."""
    described = {"channel_names": {"0": "CT"}, "labels": NAMES | {"whole": [1, 2]}, "numTraining": 1}
    yield from description_faults(described | {"file_ending": ".nii"}, any_kind=True)
    yield from describe_roles(NAMES)
    yield from label_map_faults(np.array([[[500]]]), np.array([[[0]]]), NAMES.values())
    yield from compare_labels(NAMES, {"background": 0, "a_structure_of_number_7": 2}).describe()
    dataset = RawDataset(Path("Dataset001_Many"), NAMES, {}, [], {"labels": NAMES})
    more = NAMES | {f"another_{number}": 300 + number for number in range(1, 301)}
    for refuse in (
        lambda: settled_roles(dataset, {"nobody": ()}),
        lambda: compare_labels(NAMES, {"background": 0, "liver": 1}),
        lambda: labels_to_write(NAMES, more, Unmatched.REFUSE),
        lambda: labels_to_write(NAMES, more, Unmatched.IGNORE),
        lambda: compare_results({name: [1.0] for name in NAMES}, {name: [1.0] for name in more}),
    ):
        with pytest.raises(ValueError, match="must") as caught:
            refuse()
        yield str(caught.value)


def test_messages_do_not_grow_with_the_number_of_labels() -> None:
    said = list(said_of_many_labels())
    assert len(said) >= 9
    for message in said:
        assert len(message) < 1100, message
        assert " more" in message


def test_rejections_do_not_grow_with_the_number_of_labels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    strict = replace(TINY.masks, volume_ratio_range=(0.9999, 1.0), max_tries=1)
    with pytest.raises(NoMaskError, match="draws must be made as its source is") as caught:
        generate_mask(parcels(220, 0), (1.0, 1.0, 1.0), seed=0, config=strict)
    (rejected,) = [record.getMessage() for record in caplog.records if "mask rejected" in record.getMessage()]
    assert " more" in rejected
    assert max(len(rejected), len(str(caught.value))) < 800


KINDS: dict[str, tuple[Any, int]] = {
    "many": (lambda seed: parcels(220, seed), 220), "full": (lambda seed: parcels(3, seed), 3),
    "solid": (lambda seed: np.ones((SIZE,) * 3, np.uint8), 1), "one": (ball, 1), "lesions": (lesions, 3),
}  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ROOTS:
        (tmp_path / name).mkdir()
    set_roots(monkeypatch, tmp_path)
    return tmp_path / "nnUNet_raw"


def write_kind(folder: Path, kind: str) -> None:
    """Two MR scans whose labels have names that nobody knows."""
    make, count = KINDS[kind]
    levels = np.random.default_rng(1).uniform(50, 400, count + 1)
    for number in range(2):
        mask = make(number)
        noise = np.random.default_rng(number).normal(0, 10, mask.shape)
        image = (levels[mask] + gaussian_filter(noise, 1)).astype(np.float32)
        write_case(folder, Case(f"c{number}", image[None], mask, np.diag([1.0, 1.0, 1.0, 1.0])))
    labels = {"background": 0, **{f"thing {label}": label for label in range(1, count + 1)}}
    write_dataset_json(folder, labels, 2, channel_names={"0": "T1"})


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind(raw: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_kind(raw / "Dataset961_Kind", kind)
    source = RawDataset.open(raw / "Dataset961_Kind")
    assert [finding.status.name for finding in dataset_findings("961")] == ["OK", "OK"]
    make_masks(["-d", "961", "-n", "2", "-o", str(tmp_path / "masks"), "-np", "1"])
    flags = ["--source", "mixed", "--shares", "warped=1", "painted=1", "--masks", "both", "-np", "1"]
    generate(["-d", "961", "-o", "962", "-n", "6", "--preset", "tiny", *flags])
    made = RawDataset.open(next(raw.glob("Dataset962_*")))
    check_dataset(made)
    assert made.labels == source.labels
    for case_id in made.case_ids:
        case = made.load_case(case_id)
        assert case.image is not None
        assert np.isfinite(case.image).all()
        assert case.image.std() > 0.1
        if kind == "lesions":
            assert label_components((case.mask == 1).view(np.uint8))[1] > 50
        else:
            assert set(np.unique(case.mask)) >= set(range(1, KINDS[kind][1] + 1))
    report(["-d", "962", "--against", "961", "-o", str(tmp_path / "page.html"), "-np", "1"])
    assert "thing 1" in (tmp_path / "page.html").read_text(encoding="utf-8")
    evaluate(["images", "-r", "961", "-s", "962", "-np", "1"])
    labels = str(made.folder / "labelsTr")
    evaluate(["segmentations", "-r", labels, "-p", labels, "-np", "1"])
    printed = capsys.readouterr().out
    assert "thing 1" in printed
    assert "100.00 ± 0.00" in printed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_of_labels_of_any_kind(raw: Path, tmp_path: Path, kind: str) -> None:
    """Trained for a few steps and calibrated; what it draws is finite, and confidence is in [0, 1]."""
    write_kind(raw / "Dataset961_Kind", kind)
    calibration = replace(TINY.calibration, num_drawings=4, num_steps=4)
    save_config(replace(short_config(), calibration=calibration), tmp_path / "short.yaml")
    flags = ["--masks", "both", "--config", str(tmp_path / "short.yaml"), "-np", "1", "-device", "cpu"]
    generate(["-d", "961", "-o", "962", "-n", "3", *flags])
    generate(["-d", "961", "-o", "963", "-n", "1", "--confidence", "ssv", *flags])
    for name in ("962", "963"):
        made = RawDataset.open(next(raw.glob(f"Dataset{name}_*")))
        check_dataset(made)
        for case_id in made.case_ids:
            case = made.load_case(case_id)
            assert case.image is not None
            assert np.isfinite(case.image).all()
