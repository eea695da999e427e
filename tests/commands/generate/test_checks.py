"""What is checked, and said, before cases are made."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fcas_nnunet_small import LABELS, short_config

from fcas_nnunet.commands.generate.checks import check_model, report_lacking_templates
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.generator.data.grid import GEOMETRY
from fcas_nnunet.generator.plan import CasePlan

PLANS = [CasePlan(f"fcas_{n:05d}", n, reference, template, ReferenceSource.GIVEN)
         for n, (reference, template) in enumerate([("a", "b"), ("b", "a"), ("a", "b")])]  # fmt: skip


def test_templates_that_lack_a_structure_are_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    report_lacking_templates(PLANS, {"a": [1, 2, 3], "b": [1, 2]}, LABELS, None)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 cases have coronary_arteries, which their templates (b) lack: it is drawn after its mean over the "
        "training cases. Label it in more cases, or name --templates that have it."
    ]
    caplog.clear()
    report_lacking_templates([replace(PLANS[1])], {"a": [1, 2, 3], "b": [1, 2]}, LABELS, None)
    assert not caplog.records


def test_a_generator_of_an_earlier_version_is_named(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Its record says nothing of how its scans came to the working grid."""
    config = short_config()
    record = SimpleNamespace(
        labels=LABELS, cases={}, images={}, config=config, geometry=1, tcdm=config.tcdm, channel_names=()
    )  # fmt: skip
    source = SimpleNamespace(labels=LABELS, case_ids=[], channel_names={"0": "CT"})
    check_model(record, source, None, None, None, tmp_path)
    assert caplog.messages[0].startswith(f"{tmp_path}: the generator was trained by another version, which resampled ")
    caplog.clear()
    record.geometry = GEOMETRY
    check_model(record, source, None, None, None, tmp_path)
    assert not caplog.messages
