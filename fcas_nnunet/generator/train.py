"""From labelled cases to a trained generator: variants, autoencoder, latents, TCDM."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator

from fcas_nnunet.config.generator import CalibrationConfig, FCaSConfig, TCDMConfig
from fcas_nnunet.generator import checkpoint
from fcas_nnunet.generator.autoencoder.latents import LatentScale, cache_latents
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.training import train_autoencoder, variant_split
from fcas_nnunet.generator.calibrate import calibrate
from fcas_nnunet.generator.data.grid import GEOMETRY, orientation_known_to, working_spacing
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import all_variants, make_variants
from fcas_nnunet.generator.networks import check_networks
from fcas_nnunet.generator.optimisation.batches import Shares
from fcas_nnunet.generator.run_file import Run, read_run, run_faults, write_run
from fcas_nnunet.generator.survey import SurveyedCase, own_cases, survey, usual_hu
from fcas_nnunet.generator.tcdm import maisi
from fcas_nnunet.generator.tcdm.maisi import PretrainedFiles
from fcas_nnunet.generator.tcdm.training import train_tcdm
from fcas_nnunet.geometry import triple

logger = logging.getLogger(__name__)

CACHE_FOLDER = "cache"


def train_generator(
    data: TrainingData,
    config: FCaSConfig,
    folder: Path,
    accelerator: Accelerator,
    pretrained: PretrainedFiles | None = None,
    keep_cache: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Train a generator in `folder`, or resume its training; of several processes, all call it alike.

    Args:
        data: the labelled cases.
        config: preset, or the user's own.
        folder: `nnUNet_results/DatasetNNN_Name/fcas__<preset>`.
        accelerator: device, precision, processes.
        pretrained: weights to start from; with a denoiser among them, the ControlNet alone is trained, and the networks
            and the process are those of the files.
        keep_cache: keep the variants and latents on disk when done.
        metadata: goes into the autoencoder's file, which may be copied from here on its own.

    Raises:
        ValueError: when the folder holds a run with other settings or other data, the data is too small, weights do not
            fit, or a batch cannot be shared out evenly among the processes.
    """
    pretrained = pretrained or PretrainedFiles()
    weights = maisi.read_weights(pretrained)
    requested = config
    if weights is not None:
        config = replace(config, tcdm=maisi.config_of(weights, config.tcdm))
        maisi.check_fit(weights, config.tcdm)
    _check_settings(config, data, accelerator, loaded=weights is not None)
    cases = survey(data, accelerator, orientation_known_to(config.tcdm))
    spacing = working_spacing([(case.shape, case.spacing_mm) for case in cases.values()], config.grid)
    _claim(folder, data, requested, cases, pretrained, accelerator)
    with _cache(folder, accelerator, keep_cache) as cache:
        autoencoder = _ready_autoencoder(config, folder, pretrained, accelerator, metadata)
        _cache_variants(data, config, cache, spacing, accelerator)
        autoencoder = autoencoder or _trained_autoencoder(data, config, folder, accelerator, metadata)
        autoencoder = autoencoder.requires_grad_(False).eval().to(accelerator.device)
        scale = cache_latents(autoencoder, all_variants(data.case_ids, config.tcdm.pairs), cache, accelerator)
        if weights is not None:
            scale = maisi.checked_scale(weights, scale)
        train_tcdm(
            data, config, cache, folder / checkpoint.TCDM_FOLDER, accelerator, scale, spacing, autoencoder,
            usual_hu(cases.values()), weights,
        )  # fmt: skip
        record = _record(requested, config.tcdm, data, cases, autoencoder, spacing, scale)
        accelerator.wait_for_everyone()  # the weights are written
        if config.calibration is not None:
            _calibrate(data, record, config.calibration, folder, accelerator)
        accelerator.wait_for_everyone()  # the calibration is, too
        if accelerator.is_main_process:
            checkpoint.save_record(folder, record)


def add_calibration(
    data: TrainingData, config: CalibrationConfig, folder: Path, accelerator: Accelerator, keep_cache: bool = False
) -> None:
    """Calibrate a generator that is trained already.

    Args:
        data: the labelled cases it was trained on.
        config: how many drawings, and the error model's training.
        folder: of the generator.
        accelerator: device, processes.
        keep_cache: keep the drawings on disk when done.

    Raises:
        FileNotFoundError: when the generator is not trained.
        ValueError: when the cases are not those it was trained on.
    """
    record = checkpoint.load_record(folder)
    if _hashes(survey(data, accelerator, orientation_known_to(record.tcdm))) != record.cases:
        raise ValueError(
            f"{folder}: the cases must be those the generator was trained on, got others. Restore them, or train anew."
        )
    with _cache(folder, accelerator, keep_cache):
        _calibrate(data, record, config, folder, accelerator)


@contextmanager
def _cache(folder: Path, accelerator: Accelerator, keep: bool) -> Iterator[Path]:
    """The folder of variants, latents and drawings; it is removed when no process reads it any more."""
    yield folder / CACHE_FOLDER
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not keep:
        shutil.rmtree(folder / CACHE_FOLDER)
    accelerator.wait_for_everyone()


def _record(
    requested: FCaSConfig,
    tcdm: TCDMConfig,
    data: TrainingData,
    cases: Mapping[str, SurveyedCase],
    autoencoder: Autoencoder,
    spacing: Sequence[float],
    scale: LatentScale,
) -> checkpoint.GeneratorRecord:
    return checkpoint.GeneratorRecord(
        config=requested, autoencoder=autoencoder.config, tcdm=tcdm, labels=dict(data.labels),
        surroundings=dict(data.surroundings), working_spacing_mm=triple(spacing), latent_scale=scale,
        cases=_hashes(cases), validation_cases=tuple(data.split()[1]),
        images={case_id: case.image_sha256 for case_id, case in cases.items()},
        means_hu={str(label): round(mean, 1) for label, mean in usual_hu(cases.values()).items()},
        geometry=GEOMETRY,
        roles={name: tuple(given) for name, given in data.roles.items()},
    )  # fmt: skip


def _hashes(cases: Mapping[str, SurveyedCase]) -> dict[str, str]:
    return {case_id: case.sha256 for case_id, case in cases.items()}


def _calibrate(
    data: TrainingData,
    record: checkpoint.GeneratorRecord,
    config: CalibrationConfig,
    folder: Path,
    accelerator: Accelerator,
) -> None:
    """Learn a trained generator's errors, unless that is done."""
    finished = checkpoint.calibration_exists(folder)
    accelerator.wait_for_everyone()
    if finished:
        return
    generator = checkpoint.load_networks(folder, record, accelerator.device)
    learnt = calibrate(generator, data, config, folder / CACHE_FOLDER / checkpoint.CALIBRATION, accelerator)
    if accelerator.is_main_process:
        checkpoint.save_calibration(folder, *learnt)


def _check_settings(config: FCaSConfig, data: TrainingData, accelerator: Accelerator, loaded: bool) -> None:
    """What can be wrong with a training before its scans are read, listed at once.

    Args:
        config: with the settings of loaded weights, where there are any.
        data: the labelled cases; none is read.
        accelerator: processes.
        loaded: whether a denoiser is loaded.

    Raises:
        ValueError: naming every fault, a line each.
    """
    faults: list[str] = []
    if config.tcdm.frozen_denoiser and not loaded:
        faults.append(
            "tcdm.frozen_denoiser: must be off where no denoiser is loaded, got true. Name one with --denoiser."
        )
    if config.tcdm.pairs.reference_surroundings and not data.surroundings:
        faults.append(
            "tcdm.pairs.reference_surroundings: must be off for a data set without surroundings, got true. Add "
            "surroundingsTr and surroundings.json, or turn it off."
        )
    checks: list[Callable[[], object]] = [
        lambda: check_networks(config),
        lambda: config.sampling.for_model(config.tcdm.prediction_type),
        lambda: Shares.of(config.autoencoder.optimisation, accelerator, "autoencoder"),
        lambda: Shares.of(config.tcdm.optimisation, accelerator, "tcdm"),
        lambda: variant_split(data, config.tcdm.pairs),
    ]
    for check in checks:
        try:
            check()
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))


def _cache_variants(
    data: TrainingData, config: FCaSConfig, cache: Path, spacing: Sequence[float], accelerator: Accelerator
) -> None:
    """Write all variants that are not there yet; returns when those of every process are."""
    for case_id in own_cases(data, accelerator, "variants"):
        make_variants(data, case_id, cache, spacing, config)
    accelerator.wait_for_everyone()


def _ready_autoencoder(
    config: FCaSConfig,
    folder: Path,
    pretrained: PretrainedFiles,
    accelerator: Accelerator,
    metadata: Mapping[str, str] | None,
) -> Autoencoder | None:
    """The autoencoder of this run, where it need not be trained: finished before, or loaded from a file."""
    file, optimisation = pretrained.autoencoder, config.autoencoder.optimisation
    if file is not None and (pretrained.denoiser is not None or checkpoint.is_maisi_file(file)):
        logger.info(maisi.LICENCE_NOTE)
    kept = checkpoint.load_autoencoder(folder, optimisation)
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    if kept is None and file is not None:
        kept = checkpoint.load_autoencoder_file(file, optimisation)
        if accelerator.is_main_process:
            checkpoint.save_autoencoder(folder, kept, metadata)
    return kept


def _trained_autoencoder(
    data: TrainingData, config: FCaSConfig, folder: Path, accelerator: Accelerator, metadata: Mapping[str, str] | None
) -> Autoencoder:
    trained = train_autoencoder(
        data, config.autoencoder, variant_split(data, config.tcdm.pairs), folder / CACHE_FOLDER,
        folder / checkpoint.AUTOENCODER, accelerator, config.seed,
    )  # fmt: skip
    if accelerator.is_main_process:
        checkpoint.save_autoencoder(folder, trained, metadata)
    return trained


def _claim(
    folder: Path,
    data: TrainingData,
    config: FCaSConfig,
    cases: Mapping[str, SurveyedCase],
    pretrained: PretrainedFiles,
    accelerator: Accelerator,
) -> None:
    """Make the folder this run's own, or see that it is."""
    roles = {name: tuple(given) for name, given in data.roles.items()}
    run = Run(
        config, dict(data.labels), dict(data.surroundings), _hashes(cases), pretrained.identity(), GEOMETRY, roles
    )
    before = read_run(folder)
    accelerator.wait_for_everyone()  # all have looked before the first one writes
    faults = run_faults(before, run) if before is not None else []
    if faults:
        raise ValueError(
            f"{folder}: a run must go on with the settings, files and data it began with, got {'; '.join(faults)}. "
            "Give your configuration another preset name, or delete the folder to train anew."
        )
    if accelerator.is_main_process and before is None:
        write_run(folder, run)
