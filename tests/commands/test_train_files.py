"""fcas_train: the files to start from, and the folder that it has to itself."""

import json

import pytest
from fcas_nnunet_small import LABELS, SURROUNDINGS, short_config, small_case
from peers import Peer
from torch import nn

from fcas_nnunet.commands import train
from fcas_nnunet.commands.runtime.leaks import weights_parents
from fcas_nnunet.generator import train as fitting
from fcas_nnunet.generator.data.tensors import save_weights
from fcas_nnunet.generator.tcdm.maisi import PretrainedFiles
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, Parent, Role, to_json

NAME = "Dataset901_Heart"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Four labelled cases."""
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    for number in range(4):
        write_case(tmp_path / "raw" / NAME, small_case(number))
    write_dataset_json(tmp_path / "raw" / NAME, LABELS, 4, surroundings=SURROUNDINGS)
    return RawDataset.open(tmp_path / "raw" / NAME)


def started(monkeypatch, dataset, *options):
    """What fcas_train with these options hands to the training: the files, and the metadata of the autoencoder's."""
    handed = []
    monkeypatch.setattr(fitting, "train_generator", lambda *arguments: handed.append(arguments))
    args = train.build_parser().parse_args(["-d", "901", "-device", "cpu", *options])
    train.train(dataset, short_config(), args)
    return handed[0][4], handed[0][6]


def test_files_reach_the_training(tmp_path, monkeypatch, dataset):
    assert started(monkeypatch, dataset)[0] == PretrainedFiles()
    paths = [tmp_path / name for name in ("autoencoder_v1.pt", "diff_unet_3d_ddpm-ct.pt", "controlnet_3d_ddpm-ct.pt")]
    for path in paths:
        path.touch()
    autoencoder, denoiser, controlnet = map(str, paths)
    options = ["--autoencoder", autoencoder, "--denoiser", denoiser]
    assert started(monkeypatch, dataset, *options)[0] == PretrainedFiles(paths[0], paths[1])
    assert started(monkeypatch, dataset, *options, "--controlnet", controlnet)[0] == PretrainedFiles(*paths)


def test_files_that_do_not_fit_together_are_refused(tmp_path, monkeypatch, dataset):
    (tmp_path / "unet.pt").touch()
    with pytest.raises(ValueError, match="--denoiser: must be given with --autoencoder"):
        started(monkeypatch, dataset, "--denoiser", str(tmp_path / "unet.pt"))
    with pytest.raises(FileNotFoundError, match=r"none\.pt: the weights must exist"):
        started(monkeypatch, dataset, "--autoencoder", str(tmp_path / "none.pt"))


def test_of_several_processes_the_main_one_has_the_folder_and_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with train._sole_training(tmp_path / "mine"):
        assert (tmp_path / "mine" / WORK_FOLDER).is_dir()
    peer = Peer(tmp_path / "others", "stack.enter_context(exclusive(folder))")
    try:
        peer.ask("None")
        with pytest.raises(ValueError, match=rf"no other run at work, got .* \(process {peer.process.pid}, since"):
            train._sole_training(tmp_path / "others").__enter__()
        monkeypatch.setenv("RANK", "1")
        with train._sole_training(tmp_path / "others"):  # the main process decides for all
            pass
    finally:
        peer.kill()


def test_what_a_killed_training_left_is_removed(tmp_path):
    stray = tmp_path / "tcdm" / "training_state" / ".state.pt.0a1b2c3d.part"
    stray.parent.mkdir(parents=True)
    stray.touch()
    with train._sole_training(tmp_path):
        assert not stray.exists()


@pytest.mark.parametrize("beside", [False, True])
def test_an_autoencoder_brings_the_cases_it_was_trained_on(tmp_path, monkeypatch, caplog, dataset, beside):
    """In its own file, wherever that is copied; beside it, where an earlier version has written it."""
    contents = training_contents(dataset)
    own = [Parent(NAME, case_id, contents[case_id], (Role.TRAINING,)) for case_id in ("p0", "p1")]
    _, metadata = started(monkeypatch, dataset.only(["p0", "p1"]))
    file = tmp_path / "copied" / "renamed.safetensors"
    save_weights(nn.Linear(1, 1), file, None if beside else metadata)
    if beside:
        (file.parent / "parents.json").write_text(json.dumps({PARENTS_KEY: to_json(own)}))
    assert weights_parents(file) == own
    weights = ["--autoencoder", str(file)]
    assert started(monkeypatch, dataset.only(["p2", "p3"]), *weights)[1] == metadata  # handed on
    splits = tmp_path / "preprocessed" / NAME / "splits_final.json"
    splits.write_text(json.dumps([{"train": ["p2", "p3"], "val": ["p0", "p1"]}]))
    with pytest.raises(ValueError, match=r"cases must stay unseen, got p0 \(trained the generator\), p1 "):
        started(monkeypatch, dataset.only(["p2", "p3"]), "--fold", "0", *weights)
    assert "it is not recorded which scans" not in caplog.text


def test_an_autoencoder_of_unknown_training_is_said_to_be_one(tmp_path, monkeypatch, caplog, dataset):
    file = tmp_path / "model.safetensors"
    save_weights(nn.Linear(1, 1), file)
    assert started(monkeypatch, dataset, "--autoencoder", str(file))[1] == {}, "and is, wherever it is loaded next"
    assert f"{file}: it is not recorded which scans it was trained on" in caplog.text
    file.write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"model\.safetensors: must be a readable checkpoint, got"):
        weights_parents(file)
