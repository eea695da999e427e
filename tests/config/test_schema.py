"""Settings are checked in full: types, ranges, rules between them; every fault is named at once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fcas_nnunet.config.files import load_config, save_config, to_dict
from fcas_nnunet.config.generator import AutoencoderConfig, FCaSConfig, GridConfig, PairConfig, SamplingConfig
from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.config.schema import from_dict
from fcas_nnunet.generator.run_file import Run

TINY = PRESETS["tiny"]


def changed(path, value):
    """The preset as plain values, one of them changed."""
    values = to_dict(TINY)
    *blocks, name = path.split(".")
    block = values
    for part in blocks:
        block = block[part]
    block[name] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("tcdm.optimisation.num_steps", 300.0, "must be a whole number, got 300.0"),
        ("tcdm.optimisation.num_steps", True, "must be a whole number, got True"),
        ("tcdm.optimisation.compile", "no", "must be true or false, got 'no'"),
        ("tcdm.optimisation.learning_rate", math.nan, "must be a finite number, got nan"),
        ("masks.translation_mm", math.inf, "must be a finite number, got inf"),
        ("tcdm.architecture", "unet", "must be 'plain', 'maisi_ddpm' or 'maisi_rflow', got 'unet'"),
        ("tcdm.chanels", [32], "must be left out, since there is no such setting, got [32]"),
        ("tcdm.channels", [], "must be of at least 1 item, got []"),
        ("tcdm.channels", [32, 32, 64.5], "[2]: must be a whole number, got 64.5"),
        ("tcdm.channels", [30, 60, 120], "must be multiples of norm_num_groups (16), got (30, 60, 120)"),
        ("tcdm.num_head_channels", [0, 0, 0], "must be divisors of channels (32, 32, 64) where a level attends"),
        ("tcdm.num_head_channels", [0, 0, 24], "must be divisors of channels (32, 32, 64) where a level attends"),
        ("tcdm.num_head_channels", [0, 32], "must be one per level, got (0, 32)"),
        ("tcdm.attention_levels", [True], "must be one per level, got (True,)"),
        ("tcdm.beta_end", 0.001, "must be above beta_start (0.0015), got 0.001"),
        ("tcdm.pairs.contrast_jitter", -5, "must be at least 0, got -5"),
        ("tcdm.pairs.num_shapes", 1, "must be at least 2 where self-pairs are drawn, got 1"),
        ("tcdm.condition_embedding_channels", [1, 2], "must be one number or three, got (1, 2)"),
        ("autoencoder.crop_size", [30, 32, 32], "must be multiples of 4, got (30, 32, 32)"),
        ("autoencoder.norm_num_groups", 5, "channels: must be multiples of norm_num_groups (5), got (8, 16, 32)"),
        ("sampling.window", [32, 32], "[2]: must be given, got nothing"),
        ("sampling.window", [16, 16, 6], "must be positive multiples of 4 latents, got (16, 16, 6)"),
        ("sampling.strength", 0.0, "must be greater than 0, got 0"),
        ("sampling.strength", 1.5, "must be at most 1, got 1.5"),
        ("sampling.num_inference_steps", 100_000, "must be at most tcdm.num_train_timesteps (1000), got 100000"),
        ("grid.spacing_mm", [1, 1], "[2]: must be given, got nothing"),
        ("grid.spacing_mm", [-1, 1, 1], "[0]: must be greater than 0, got -1"),
        ("grid.crop_size", [64, 64, 64, 64], "must be of at most 3 items, got [64, 64, 64, 64]"),
        ("grid.crop_size", [40, 32, 32], "must be multiples of 16 for 3 levels of the denoiser, got (40, 32, 32)"),
        ("grid.crop_size", [4096, 4096, 4096], "must be of at most 1,073,741,824 voxels, got (4096, 4096, 4096)"),
        ("tcdm.pairs.num_contrasts", 10**12, "must be at most 1000, got 1000000000000"),
        ("grid.crop_size", 64, "must be a list, got 64"),
        ("confidence.num_snapshots", 1, "must be at least 2, got 1"),
        ("confidence.percentiles", [95, 5], "must be increasing within [0, 100], got (95.0, 5.0)"),
        ("calibration.num_drawings", 10**12, "must be at most 100000, got 1000000000000"),
        ("masks.scale_range", [2, 1], "must be (low, high), got (2.0, 1.0)"),
        ("masks", None, "must be a block of settings, got None"),
        ("preset", "../../evil", "must be a plain name of letters, digits, dots, dashes and underscores"),
        ("preset", "..", "must be a plain name of letters, digits, dots, dashes and underscores"),
        ("seed", "0", "must be a whole number, got '0'"),
    ],
)
def test_a_wrong_value_is_named(path, value, fault):
    with pytest.raises(ValueError, match="must be") as error:
        from_dict(FCaSConfig, changed(path, value))
    lines = str(error.value).splitlines()
    assert all(line.startswith(path.rsplit(".", 1)[0]) for line in lines)
    assert any(fault in line for line in lines)


def test_every_fault_is_named_at_once():
    values = changed("tcdm.optimisation.batch_size", 0)
    values["grid"]["max_voxels"] = "many"
    values["masks"]["scale_range"], values["masks"]["stenosis"] = [3, 1], [0.5, 1.0]
    del values["autoencoder"]["channels"]
    with pytest.raises(ValueError, match="must be") as error:
        from_dict(FCaSConfig, values)
    assert str(error.value).splitlines() == [
        "grid.max_voxels: must be a whole number, got 'many'.",
        "autoencoder.channels: must be given, got nothing.",
        "tcdm.optimisation.batch_size: must be at least 1, got 0.",
        "masks.scale_range: must be (low, high), got (3.0, 1.0).",
        "masks.stenosis: must be in [0, 1), got (0.5, 1.0).",
    ]


def test_settings_built_in_code_are_checked_alike():
    with pytest.raises(ValueError, match=r"^max_tries: must be at least 1, got 0\.$"):
        MaskConfig(max_tries=0)
    with pytest.raises(ValueError, match=r"^overlap: must be less than 1, got 1\.0\.$"):
        replace(SamplingConfig(), overlap=1.0)
    with pytest.raises(ValueError, match=r"^crop_size: must be a list, got \[64, 64, 64\]\.$"):
        GridConfig(crop_size=[64, 64, 64])
    with pytest.raises(ValueError, match=r"^spacing_mm\[1\]: must be greater than 0, got 0\.$"):
        GridConfig((1.0, 0, 1.0))
    with pytest.raises(ValueError, match=r"^patch_size · 2\^\(levels − 1\): must be 4, got 8\.$"):
        AutoencoderConfig(channels=(8, 16, 32, 64), optimisation=TINY.autoencoder.optimisation)


def test_a_strength_needs_a_guess():
    with pytest.raises(ValueError, match=r"^sampling\.strength: must be 1 where tcdm\.prior is off, .*, got 0\.5\.$"):
        replace(TINY, tcdm=replace(TINY.tcdm, prior=False), sampling=replace(TINY.sampling, strength=0.5))


def test_what_a_file_leaves_out_takes_its_default(tmp_path):
    """Files of earlier versions lack the settings that came later."""
    values = to_dict(TINY)
    del values["masks"]["stenosis"], values["seed"], values["tcdm"]["pairs"]
    read = from_dict(FCaSConfig, values)
    assert read == replace(TINY, tcdm=replace(TINY.tcdm, pairs=PairConfig()))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "content must be a mapping of settings, got an empty file"),
        ("- a\n- b\n", "content must be a mapping of settings, got a list"),
        ("a: [1,\nb: }", "content must be YAML, got an error: while parsing"),
        ('!!python/object/apply:os.system ["touch evil"]', "content must be YAML, got an error: could not determine"),
        ("seed: !!python/name:os.system", "content must be YAML, got an error: could not determine"),
        ("tcdm:\n  a: 1\n  b: 2\n  a: 3", "content must be YAML, got an error: a is there twice"),
        ("1: x\n01: y", "content must be YAML, got an error: 1 is there twice"),
        ("a: &a [*a]", "content must be YAML, got an error: aliases are not read: write it out"),
        ("2026-01-01: x", "must be plain names and values, got an error"),
        ("tcdm: 3", "tcdm: must be a block of settings, got 3"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(tmp_path, monkeypatch, text, fault):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="must be") as error:
        load_config(FCaSConfig, path)
    assert fault in str(error.value)
    assert all(line.startswith(f"{path}: ") for line in str(error.value).splitlines())
    assert [entry.name for entry in tmp_path.iterdir()] == ["my.yaml"]


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"my\.yaml: content must be YAML, got an error: 'utf-8'"):
        load_config(FCaSConfig, tmp_path / "my.yaml")
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: the file must exist, got none"):
        load_config(FCaSConfig, tmp_path / "none.yaml")


def test_numbers_with_exponents_are_numbers(tmp_path):
    """PyYAML alone would read 1e-3 as a text."""
    path = tmp_path / "my.yaml"
    save_config(TINY, path)
    path.write_text(path.read_text().replace("learning_rate: 0.001", "learning_rate: 1e-3"))
    assert "1e-3" in path.read_text()
    assert load_config(FCaSConfig, path) == TINY


@pytest.mark.parametrize(
    "preview", [None, {"channels": [16, 32, 64], "optimisation": {"num_steps": 4000, "batch_size": 2}}]
)
def test_settings_of_the_preview_decoder_that_was_removed_are_dropped_at_any_depth(preview):
    config = to_dict(TINY) | {"preview": preview}
    config["confidence"]["decoder"] = "full"
    assert from_dict(FCaSConfig, config) == TINY
    run = {"config": config, "labels": {"preview": 1}, "surroundings": {}, "cases": {"decoder": "0"}, "pretrained": {}}
    assert from_dict(Run, run) == Run(TINY, {"preview": 1}, {}, {"decoder": "0"}, {})


def test_a_confidence_by_the_preview_decoder_is_refused():
    config = to_dict(TINY)
    config["confidence"]["decoder"] = "preview"
    with pytest.raises(ValueError, match=r"^confidence\.decoder: must be left out, since there is no such setting, "):
        from_dict(FCaSConfig, config)
