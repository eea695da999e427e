"""Scans of two channels: one of them to look at, all of them for a trained nnU-Net."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from channel_cases import CHANNELS, SOURCE, two_channels, write_channel_set
from fcas_nnunet_small import LABELS, set_roots
from nnunet_cases import CPU, quick_nnunet, save_untrained
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from fcas_nnunet.case import Case
from fcas_nnunet.commands.evaluate.command import main as evaluate
from fcas_nnunet.commands.export import main as export
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.prepare import main as prepare
from fcas_nnunet.commands.reading.prepare import open_methods
from fcas_nnunet.commands.report.command import main as report
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE, ext_trainer_value
from fcas_nnunet.integration.models.features import open_extractor

#: Both channels, then the CT and the MR alone: data sets of real scans, and of synthetic ones 10 further on.
BOTH, CT, MR = (0, 1), (0,), (1,)


def only(case: Case, channels: tuple[int, ...]) -> Case:
    assert case.image is not None
    return replace(case, image=case.image[list(channels)], scales=tuple(case.scales[c] for c in channels))


def brighter(case: Case) -> Case:
    """A synthetic scan under the same mask."""
    assert case.image is not None
    more = np.array([40, 60])[:, None, None, None] * (case.mask > 0) + np.random.default_rng(0).normal(0, 5, case.shape)
    return replace(case, image=case.image + more.astype(np.float32))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """971 to 973, real scans of both channels and of each alone; 981 to 983, synthetic ones of their masks."""
    folder = tmp_path_factory.mktemp("one")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir()
    for number, channels in enumerate((BOTH, CT, MR)):
        names = {str(place): CHANNELS[str(channel)] for place, channel in enumerate(channels)}
        for dataset_id, change in ((971, lambda case: case), (981, brighter)):
            target = folder / "nnUNet_raw" / f"Dataset{dataset_id + number}_Set"
            for patient in range(3):
                write_case(target, only(change(two_channels(patient)), channels))
            write_dataset_json(target, LABELS, 3, channel_names=names)
    with pytest.MonkeyPatch.context() as patch:
        set_roots(patch, folder)
        yield folder / "nnUNet_raw"


def result(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "result.json"
    evaluate([*arguments, "-o", str(out), "-np", "1"])
    content: dict[str, Any] = json.loads(out.read_text())
    return content


def told(content: dict[str, Any]) -> str:
    """A result without the names of its data sets and without its channel."""
    content = json.loads(json.dumps(content))
    content["settings"].pop("channel", None)
    return re.sub(r"Dataset9\d\d_Set", "Dataset", json.dumps(content, sort_keys=True))


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("folders", [False, True])
def test_images_of_a_channel_are_compared_as_if_it_were_alone(
    raw: Path, tmp_path: Path, channel: int, folders: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    more = ["--range", "-500", "500"] if folders else []

    def named(dataset_id: int) -> str:
        return str(raw / f"Dataset{dataset_id}_Set" / "imagesTr") if folders else str(dataset_id)

    both = result(tmp_path, "images", "-r", named(971), "-s", named(981), "--channel", str(channel), *more)
    assert f"Dataset971_Set: looking at channel {channel} ({CHANNELS[str(channel)]}) of 2" in caplog.text
    alone = result(tmp_path, "images", "-r", named(972 + channel), "-s", named(982 + channel), *more)
    assert both["settings"]["channel"] == CHANNELS[str(channel)]
    assert len(both["cases"]) == 3
    assert told(both) == told(alone)


def test_memorisation_of_a_channel_is_found_as_if_it_were_alone(raw: Path, tmp_path: Path) -> None:
    flags = ["--range", "-500", "500"]
    both = result(tmp_path, "memorisation", "-d", "981", "--train", "971", "--channel", "1", *flags)
    alone = result(tmp_path, "memorisation", "-d", "983", "--train", "973", *flags)
    assert told(both) == told(alone)
    assert told(both) != told(result(tmp_path, "memorisation", "-d", "981", "--train", "971", *flags))


def test_reports_and_slices_are_of_the_channel_that_was_named(raw: Path, tmp_path: Path) -> None:
    pages = []
    for dataset_id, against, more in ((981, "971", ["--channel", "1"]), (983, "973", [])):
        report(
            ["-d", str(dataset_id), "--against", against, "-o", str(tmp_path / f"{dataset_id}.html"), "-np", "1", *more]
        )
        pages.append((tmp_path / f"{dataset_id}.html").read_text())
    assert "Channel 1 (T2) of 2 is measured and shown." in pages[0]
    tables = [re.findall(r"<td[^>]*>[^<]*</td>", page) for page in pages]
    assert len(tables[0]) > 20
    assert tables[0] == tables[1]
    for dataset_id, more in ((981, ["--channel", "1"]), (983, [])):
        export(["medsam", "-d", str(dataset_id), "-o", str(tmp_path / f"npy_{dataset_id}"), "--size", "32", *more])
    both, alone = (sorted((tmp_path / f"npy_{i}" / "imgs").glob("*.npy")) for i in (981, 983))
    assert [path.name for path in both] == [path.name for path in alone]
    assert len(both) > 20
    for one, other in zip(both, alone, strict=True):
        np.testing.assert_array_equal(np.load(one), np.load(other))


def test_readings_show_the_channel_that_was_named(raw: Path) -> None:
    methods = open_methods(["FCaS=981"], "971", channel=1)
    assert {path.name for scans in methods.values() for path in scans.files.values()} == {
        f"p{number}_0001.nii.gz" for number in range(3)
    }
    assert {scans.channel_name for scans in methods.values()} == {"T2"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["images", "-r", "971", "-s", "981", "--channel", "2"], "must be one of {'0': 'CT', '1': 'T2'}, got 2"),
        (
            ["images", "-r", "971", "-s", "982"],
            "Dataset982_Set: channel_names must be CT, T2 as in Dataset971_Set, got CT",
        ),
        (
            ["memorisation", "-d", "982", "--train", "971"],
            "Dataset982_Set: channel_names must be those of Dataset971_Set",
        ),
    ],
)
def test_channels_that_do_not_fit_are_refused(
    raw: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        evaluate(arguments)
    assert sentence in capsys.readouterr().err


def test_a_trained_nnunet_gets_all_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From generating and preparing to a prediction and to features, which are nnU-Net's own."""
    source = write_channel_set(tmp_path)
    set_roots(monkeypatch, tmp_path)
    generate(["-d", "941", "-o", "Dataset942_Made", "-n", "2", "--source", "warped", "-np", "1"])
    with quick_nnunet():
        prepare(["-d", "942", "--for", "941", "-c", "3d_fullres", "-np", "1"])
        model = save_untrained(RawDataset.open(source), patch_size=32)
    made = RawDataset.open(source.parent / "Dataset942_Made")
    found = result(tmp_path, "fidelity", "-d", "942", "-m", str(model), "-device", "cpu")
    assert len(found["segmentations"]["cases"]) == 2

    monkeypatch.setenv(EXT_TRAINER_VARIABLE, ext_trainer_value())
    predictor = nnUNetPredictor(device=CPU, perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0",))
    paths = made.image_paths(made.case_ids[0])
    wanted = predictor.predict_single_npy_array(*SimpleITKIO().read_images(list(map(str, paths))))
    predicted = next(tmp_path.rglob(f"fcas_predictions/*/{made.case_ids[0]}.nii.gz"))
    np.testing.assert_array_equal(read_volume(predicted).array, wanted)
    extractor = open_extractor(model, channel_names=["CT", "T2"])
    assert not np.array_equal(extractor.features(paths), extractor.features(paths[::-1]))

    single = source.parent / "Dataset943_One"
    write_case(single, only(two_channels(0), CT))
    write_dataset_json(single, LABELS, 1)
    with pytest.raises(SystemExit, match="^2$"):
        evaluate(["fidelity", "-d", "943", "-m", str(model), "-device", "cpu"])
    assert "scans must have the model's channels, CT, T2, got CT. Name another." in capsys.readouterr().err
    assert SOURCE in str(model)
