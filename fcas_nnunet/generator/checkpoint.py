"""Save and load trained generators: safetensors and config.yaml, loaded strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.config.files import load_config, save_config
from fcas_nnunet.config.generator import (
    AutoencoderConfig,
    ConfidenceConfig,
    FCaSConfig,
    OptimisationConfig,
    TCDMConfig,
)
from fcas_nnunet.config.options import ConfidenceNorm
from fcas_nnunet.config.schema import Positive, settings
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.confidence.calibration import Calibration
from fcas_nnunet.generator.confidence.error_model import ErrorModel
from fcas_nnunet.generator.data.tensors import EMA_FILE, MODEL_FILE, load_state, load_weights, read_state, save_weights
from fcas_nnunet.generator.tcdm import maisi
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.labels.anatomy import Role

CONFIG_FILE = "config.yaml"
AUTOENCODER, TCDM_FOLDER, CALIBRATION = "autoencoder", "tcdm", "calibration"


@settings
class GeneratorRecord:
    """Settings and data of a trained generator; `tcdm/config.yaml`, written last.

    Attributes:
        config: All settings, as requested.
        autoencoder: Settings of the autoencoder in use, trained or loaded.
        tcdm: Settings of the model in use; those of the loaded weights where a denoiser was loaded.
        labels: Label name → id of the data set it was trained on.
        surroundings: Surrounding name → id, empty where there are none.
        working_spacing_mm: Working spacing along (D, H, W).
        latent_scale: Conversion between raw and scaled latents.
        cases: Case id → hash of image, mask, surroundings and affine; all cases used in training or validation.
        validation_cases: Cases held out for validation.
        images: Case id → hash of the scan alone, whatever its labels; empty in generators of earlier versions.
        means: Label id → mean over the cases in standard units, of several channels one each; empty in generators of
            earlier versions.
        geometry: Version of the resampling to the working grid (`grid.GEOMETRY`).
        roles: Label name → roles that a user has given it.
        channel_names: Names of the scans' channels; empty in generators of earlier versions, which have one.
    """

    config: FCaSConfig
    autoencoder: AutoencoderConfig
    tcdm: TCDMConfig
    labels: dict[str, int]
    surroundings: dict[str, int]
    working_spacing_mm: tuple[Positive, Positive, Positive]
    latent_scale: LatentScale
    cases: dict[str, str]
    validation_cases: tuple[str, ...]
    images: dict[str, str] = field(default_factory=dict)
    means: dict[str, float | tuple[float, ...]] = field(default_factory=dict)
    geometry: int = 1
    roles: dict[str, tuple[Role, ...]] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()

    @property
    def label_means(self) -> dict[int, tuple[float, ...]]:
        """`means` with ids as numbers, and a mean for each channel."""
        return {int(label): mean if isinstance(mean, tuple) else (mean,) for label, mean in self.means.items()}

    @property
    def draws_surroundings(self) -> bool:
        """True where the reference mask includes the surroundings."""
        return self.tcdm.pairs.reference_surroundings and bool(self.surroundings)


@dataclass(frozen=True)
class Calibrated:
    """A generator's calibration, with its error model."""

    calibration: Calibration
    error_model: ErrorModel


@dataclass(frozen=True)
class Generator:
    """A trained generator, frozen and in eval mode; with its calibration, if it has one."""

    record: GeneratorRecord
    autoencoder: Autoencoder
    tcdm: TCDM
    calibrated: Calibrated | None = None


def generator_exists(folder: Path) -> bool:
    """Return whether `folder` (fcas__<preset>) holds a finished generator."""
    return (folder / TCDM_FOLDER / CONFIG_FILE).exists()


def save_record(folder: Path, record: GeneratorRecord) -> None:
    """Write the record of a generator, which marks it as finished."""
    save_config(record, folder / TCDM_FOLDER / CONFIG_FILE)


def load_record(folder: Path) -> GeneratorRecord:
    """Load the record of a finished generator.

    Raises:
        MissingFileError: If there is none.
        InputError: If it is damaged.
    """
    return load_config(GeneratorRecord, folder / TCDM_FOLDER / CONFIG_FILE)


def load_generator(folder: Path, device: torch.device) -> Generator:
    """Load a finished generator; raises as `load_record` and `load_networks`."""
    return load_networks(folder, load_record(folder), device)


def load_networks(folder: Path, record: GeneratorRecord, device: torch.device) -> Generator:
    """Load a generator's networks; its record may not be written yet.

    Raises:
        MissingFileError: If a file is missing.
        InputError: If a file is broken or does not fit.
    """
    autoencoder = Autoencoder(record.autoencoder)
    load_weights(autoencoder, folder / AUTOENCODER / MODEL_FILE)
    tcdm = TCDM(record.tcdm, record.working_spacing_mm)
    load_weights(tcdm, folder / TCDM_FOLDER / EMA_FILE)
    networks, calibrated = [autoencoder, tcdm], None
    if (calibration := load_calibration(folder)) is not None:
        calibrated = Calibrated(calibration, ErrorModel(calibration.config.width, record.tcdm.image_channels))
        load_weights(calibrated.error_model, folder / CALIBRATION / MODEL_FILE)
        networks.append(calibrated.error_model)
    for network in networks:
        network.requires_grad_(False).eval().to(device)
    return Generator(record, autoencoder, tcdm, calibrated)


def weights_sha256(folder: Path, confidence: ConfidenceConfig) -> str:
    """Hash all weights that generation uses; those of the calibration only if `confidence`, filled in, needs them."""
    digest = hashlib.sha256()
    files = [folder / AUTOENCODER / MODEL_FILE, folder / TCDM_FOLDER / EMA_FILE]
    if confidence.norm == ConfidenceNorm.CALIBRATED:
        files += [folder / CALIBRATION / name for name in (MODEL_FILE, CONFIG_FILE)]
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load_autoencoder_file(path: Path, optimisation: OptimisationConfig) -> Autoencoder:
    """Load an autoencoder from a file: one of this package (config.yaml beside it), or MAISI's `autoencoder_v1.pt`.

    `optimisation` is recorded in the config of a MAISI autoencoder, without effect.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it cannot be read or does not fit.
    """
    state = read_state(path)
    if not is_maisi_file(path):
        autoencoder = Autoencoder(load_config(AutoencoderConfig, path.parent / CONFIG_FILE))
        load_state(autoencoder, state, path)
        return autoencoder
    autoencoder = Autoencoder(maisi.autoencoder_config(state, optimisation, path))
    load_state(autoencoder.network, maisi.on_our_axes(state), path)
    return autoencoder


def save_autoencoder(folder: Path, autoencoder: Autoencoder, metadata: Mapping[str, str] | None = None) -> None:
    """Write a finished autoencoder into `folder` (fcas__<preset>): weights with `metadata`, config.yaml last."""
    save_weights(autoencoder, folder / AUTOENCODER / MODEL_FILE, metadata)
    save_config(autoencoder.config, folder / AUTOENCODER / CONFIG_FILE)


def load_autoencoder(folder: Path, optimisation: OptimisationConfig) -> Autoencoder | None:
    """Load the finished autoencoder of `folder` (fcas__<preset>); None if there is none yet."""
    target = folder / AUTOENCODER
    if not (target / CONFIG_FILE).is_file():
        return None
    return load_autoencoder_file(target / MODEL_FILE, optimisation)


def calibration_exists(folder: Path) -> bool:
    """Return whether `folder` (fcas__<preset>) holds a finished calibration."""
    return (folder / CALIBRATION / CONFIG_FILE).exists()


def save_calibration(folder: Path, calibration: Calibration, error_model: ErrorModel) -> None:
    """Write a finished calibration into `folder` (fcas__<preset>), its config.yaml last."""
    save_weights(error_model, folder / CALIBRATION / MODEL_FILE)
    save_config(calibration, folder / CALIBRATION / CONFIG_FILE)


def load_calibration(folder: Path) -> Calibration | None:
    """Load the calibration of `folder` (fcas__<preset>) without its error model; None if there is none.

    Raises:
        InputError: If it is damaged.
    """
    return load_config(Calibration, folder / CALIBRATION / CONFIG_FILE) if calibration_exists(folder) else None


def is_maisi_file(path: Path) -> bool:
    """Return whether an autoencoder's file counts as a MAISI file: no config.yaml lies beside it."""
    return not (path.parent / CONFIG_FILE).is_file()


def case_sha256(case: Case) -> str:
    """Hash a case's content: image, mask, surroundings, affine, and ignored voxels where the data set has them."""
    digest = hashlib.sha256()
    for array in (case.image, case.mask, case.surroundings, case.affine):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    if case.ignored is not None:
        digest.update(np.packbits(case.ignored).tobytes())
    return digest.hexdigest()
