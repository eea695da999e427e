"""Where a run takes place, on machines that this one is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fcas_nnunet.commands.runtime.devices import make_accelerator
from fcas_nnunet.generator.optimisation.precision import supports_bf16


def test_a_torch_without_mkldnn_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple silicon's: the operator that says whether bf16 is fast is missing there."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert not supports_bf16(torch.device("cpu"))
    assert make_accelerator("cpu").mixed_precision == "no"
