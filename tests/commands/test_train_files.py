"""fcas_train: the files to start from, and the folder that it has to itself."""

from types import SimpleNamespace

import pytest
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config
from peers import Peer

from fcas_nnunet.commands import train
from fcas_nnunet.generator import fitting
from fcas_nnunet.generator.maisi import PretrainedFiles
from fcas_nnunet.integration.folders import WORK_FOLDER

DATASET = SimpleNamespace(
    name="Dataset901_Heart", case_ids=["p0", "p1"], load_case=load_small_case, labels=LABELS, surroundings=SURROUNDINGS
)


def started(monkeypatch, folder, *options):
    """What fcas_train with these options hands to the training."""
    handed = []
    monkeypatch.setenv("nnUNet_results", str(folder))
    monkeypatch.setattr(fitting, "train_generator", lambda *args: handed.append(args))
    args = train.build_parser().parse_args(["-d", "901", "-device", "cpu", *options])
    train.train(DATASET, short_config(), args)
    return handed[0][4]


def test_files_reach_the_training(tmp_path, monkeypatch):
    assert started(monkeypatch, tmp_path) == PretrainedFiles()
    paths = [tmp_path / name for name in ("autoencoder_v1.pt", "diff_unet_3d_ddpm-ct.pt", "controlnet_3d_ddpm-ct.pt")]
    for path in paths:
        path.touch()
    autoencoder, denoiser, controlnet = map(str, paths)
    options = ["--autoencoder", autoencoder, "--denoiser", denoiser]
    assert started(monkeypatch, tmp_path, *options) == PretrainedFiles(paths[0], paths[1])
    assert started(monkeypatch, tmp_path, *options, "--controlnet", controlnet) == PretrainedFiles(*paths)


def test_files_that_do_not_fit_together_are_refused(tmp_path, monkeypatch):
    (tmp_path / "unet.pt").touch()
    with pytest.raises(ValueError, match="--denoiser: must be given with --autoencoder"):
        started(monkeypatch, tmp_path, "--denoiser", str(tmp_path / "unet.pt"))
    with pytest.raises(FileNotFoundError, match=r"none\.pt: the weights must exist"):
        started(monkeypatch, tmp_path, "--autoencoder", str(tmp_path / "none.pt"))


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
