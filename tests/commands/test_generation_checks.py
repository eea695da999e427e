"""What is checked, and said, before cases are made."""

import logging
from dataclasses import replace

import pytest
from fcas_nnunet_small import LABELS

from fcas_nnunet.choices import ReferenceSource
from fcas_nnunet.commands.generation_checks import report_lacking_templates
from fcas_nnunet.generator.production import CasePlan

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
