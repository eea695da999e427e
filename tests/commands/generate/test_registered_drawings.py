"""fcas_generate with a generator of registered templates: its sets, their lines, and the same cases again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fcas_nnunet_small import set_roots, short_config, write_small_set

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.options import TemplateRegistration
from fcas_nnunet.generator.sources import registration
from fcas_nnunet.integration.dataset.manifest import Manifest

PARTS = ("imagesTr/{}_0000", "labelsTr/{}", "confidenceTr/{}")


def test_a_set_of_registered_templates_is_made_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Registrations are kept while the set is made, and are gone when it is finished."""
    write_small_set(tmp_path, 4)
    set_roots(monkeypatch, tmp_path)
    monkeypatch.setattr(registration, "_AFFINE_STEPS", 4)
    monkeypatch.setattr(registration, "_FLOW_STEPS", 2)
    short = short_config(2)
    pairs = replace(short.tcdm.pairs, num_shapes=2, num_contrasts=1, num_partners=1)
    tcdm = replace(short.tcdm, pairs=pairs, registration=TemplateRegistration.DEFORMABLE)
    save_config(replace(short, preset="registered", tcdm=tcdm), tmp_path / "registered.yaml")
    flags = ["-d", "901", "--config", str(tmp_path / "registered.yaml"), "-device", "cpu", "-np", "1"]
    generate([*flags, "-n", "3", "--strength", "0.5", "-o", "Dataset902_Made"])
    raw = tmp_path / "nnUNet_raw"
    records = Manifest(raw / "Dataset902_Made").read()
    assert {record["registration"] for record in records.values()} == {registration.REGISTRATION}
    assert {record["sampling"]["strength"] for record in records.values()} == {0.5}
    assert not list((raw / "Dataset902_Made").rglob("*.npz"))
    again = ["--replay", "Dataset902_Made", "-o", "Dataset903_Again", "-device", "cpu", "-np", "1"]
    generate(again)
    for case_id in records:
        for part in PARTS:
            name = f"{part.format(case_id)}.nii.gz"
            assert (raw / "Dataset903_Again" / name).read_bytes() == (raw / "Dataset902_Made" / name).read_bytes(), name
    assert Manifest(raw / "Dataset903_Again").read() == records
    monkeypatch.setattr("fcas_nnunet.commands.generate.replay.REGISTRATION", registration.REGISTRATION + 1)
    with pytest.raises(SystemExit, match="^2$"):
        generate([*again[:3], "Dataset904_Later", *again[4:]])
    assert "must be of version 2 of the registration, got version 1" in capsys.readouterr().err
