"""run.yaml: what a training was begun with, also as earlier versions wrote it."""

from dataclasses import replace

import pytest
import yaml
from fcas_nnunet_small import short_config

from fcas_nnunet.config.files import save_config
from fcas_nnunet.generator.run_file import RUN_FILE, FileIdentity, Run, read_run, run_faults

RUN = Run(
    short_config(),
    {"background": 0, "aorta": 1},
    {"lung": 1},
    {"p0": "ab", "p1": "cd"},
    {"autoencoder": FileIdentity("a.pt", "00ff"), "denoiser": None, "controlnet": None},
)


def changed(**optimisation):
    tcdm = RUN.config.tcdm
    return replace(
        RUN, config=replace(RUN.config, tcdm=replace(tcdm, optimisation=replace(tcdm.optimisation, **optimisation)))
    )


def test_it_survives_the_disk(tmp_path):
    assert read_run(tmp_path) is None
    save_config(RUN, tmp_path / RUN_FILE)
    assert read_run(tmp_path) == RUN


def test_a_file_of_an_earlier_version_lacks_settings_that_came_later(tmp_path):
    """They had their defaults, so a half-trained run is resumed after an upgrade."""
    save_config(RUN, tmp_path / RUN_FILE)
    content = yaml.safe_load((tmp_path / RUN_FILE).read_text())
    del content["config"]["grid"]["min_voxels"], content["config"]["tcdm"]["pairs"]["one_direction"]
    del content["config"]["masks"]["stenosis"], content["config"]["confidence"]
    (tmp_path / RUN_FILE).write_text(yaml.safe_dump(content))
    assert run_faults(read_run(tmp_path), RUN) == []


def test_what_differs_is_named_with_both_values():
    assert run_faults(RUN, changed(sample_every=7, compile=True, micro_batch_size=1)) == []
    assert run_faults(RUN, replace(RUN, config=replace(RUN.config, calibration=None))) == []
    (fault,) = run_faults(RUN, changed(learning_rate=0.5))
    assert fault == f"tcdm.optimisation.learning_rate 0.5 instead of {RUN.config.tcdm.optimisation.learning_rate}"
    assert run_faults(RUN, replace(RUN, cases={"p0": "ab"}, surroundings={})) == ["surroundings", "cases"]
    files = RUN.pretrained | {"denoiser": FileIdentity("d.pt", "11")}
    assert run_faults(RUN, replace(RUN, pretrained=files)) == ["--denoiser d.pt (11) instead of none"]
    assert (
        run_faults(RUN, replace(RUN, pretrained=RUN.pretrained | {"autoencoder": FileIdentity("b.pt", "00ff")})) == []
    )


def test_a_training_that_began_with_scans_resampled_otherwise_does_not_go_on():
    (fault,) = run_faults(RUN, replace(RUN, geometry=RUN.geometry + 1))
    assert fault == "scans that another version of this package resampled to the working grid in another way"


def test_the_first_of_many_differences_are_named():
    other = replace(RUN, config=replace(RUN.config, masks=replace(
        RUN.config.masks, rotation_deg=1.0, translation_mm=1.0, control_spacing_mm=1.0, min_jacobian=0.5, max_tries=1,
        milder=0.5, volume_tolerance=1.0,
    )))  # fmt: skip
    faults = run_faults(RUN, other)
    assert faults[0] == f"masks.rotation_deg 1.0 instead of {RUN.config.masks.rotation_deg}"
    assert faults[5:] == ["2 more settings"]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / RUN_FILE).write_text("labels: [1]\n")
    with pytest.raises(ValueError, match=r"(?s)run\.yaml: config: must be given.*run\.yaml: labels: must be a mapping"):
        read_run(tmp_path)
