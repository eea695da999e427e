"""A CUDA card that is not there, for what is decided before anything is computed on it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

CARD = "NVIDIA Pretend 4090"


def pretend_card(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    """Let torch report one CUDA card of this memory."""
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda *_: CARD,
        "get_device_properties": lambda *_: SimpleNamespace(name=CARD, total_memory=int(gigabytes * 1e9)),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
