"""Check that all networks of a configuration can be built, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.confidence.error_model import ErrorModel
from fcas_nnunet.generator.tcdm.network import TCDM


def check_networks(config: FCaSConfig) -> None:
    """Build every network on the meta device, which takes neither memory nor time.

    Raises:
        InputError: If a network cannot be built; the message names every one and the reason.
    """
    parts: dict[str, Callable[[], nn.Module]] = {
        "autoencoder": lambda: Autoencoder(config.autoencoder),
        "tcdm": lambda: TCDM(config.tcdm),
    }
    if (calibration := config.calibration) is not None:
        parts["calibration"] = lambda: ErrorModel(calibration.width, config.tcdm.image_channels)
    faults = []
    for name, build in parts.items():
        try:
            with torch.device("meta"):
                build()
        except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, AssertionError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            faults.append(f"{name}: networks must be ones that can be built, got {reason}. Change its sizes.")
    if faults:
        raise InputError("\n".join(faults))
