"""Train a generator from labelled cases: variants, autoencoder, latents, TCDM, calibration."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.generator import CalibrationConfig, FCaSConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator import checkpoint
from fcas_nnunet.generator.autoencoder.latents import LatentScale, cache_latents
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.training import train_autoencoder, variant_split
from fcas_nnunet.generator.cache_size import check_disk, missing_cache_bytes
from fcas_nnunet.generator.calibrate import calibrate
from fcas_nnunet.generator.data.grid import GEOMETRY, orientation_known_to, working_spacing
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import all_variants, make_variants
from fcas_nnunet.generator.networks import check_networks
from fcas_nnunet.generator.optimisation.batches import Shares, in_threads, local_share
from fcas_nnunet.generator.run_file import RUN_FILE, Run, read_run, run_faults
from fcas_nnunet.generator.survey import SurveyedCase, case_hashes, survey, usual_means
from fcas_nnunet.generator.tcdm import maisi
from fcas_nnunet.generator.tcdm.maisi import PretrainedFiles
from fcas_nnunet.generator.tcdm.templates import make_templates, register_partners
from fcas_nnunet.generator.tcdm.training import train_tcdm
from fcas_nnunet.geometry import triple
from fcas_nnunet.machine import available_bytes, available_cores

logger = logging.getLogger(__name__)

CACHE_FOLDER = "cache"
#: Memory of deforming a case, for each voxel of its scan; and the cases to deform at once at most.
DEFORMING_BYTES, MOST_THREADS = 60.0, 16

_MENTIONED_BYTES = 1e9


def train_generator(
    data: TrainingData,
    config: FCaSConfig,
    folder: Path,
    accelerator: Accelerator,
    pretrained: PretrainedFiles | None = None,
    keep_cache: bool = False,
    metadata: Mapping[str, str] | None = None,
    ignore_disk: bool = False,
) -> None:
    """Train a generator in `folder`, or resume its training; with several processes, all of them make the same call.

    Args:
        data: The labelled cases.
        config: A preset, or the user's configuration.
        folder: Folder `nnUNet_results/DatasetNNN_Name/fcas__<preset>`.
        accelerator: Device, precision, processes.
        pretrained: Weights to start from; with a denoiser among them, only the ControlNet is trained, and the settings
            of networks and process come from the files.
        keep_cache: Leave the variants and latents on disk at the end.
        metadata: Entries to write into the autoencoder's file, which users may copy alone.
        ignore_disk: Start though the disk may not hold the cache.

    Raises:
        InputError: If the folder holds a run with other settings or other data, the data is too small, weights do not
            fit, a batch cannot be shared out evenly among the processes, or the disk is too small for the cache.
    """
    run = _Training(data, config, folder, accelerator, pretrained or PretrainedFiles(), metadata)
    if not ignore_disk:
        run.check_disk()
    run.claim_folder()
    with _cache(folder, accelerator, keep_cache):
        autoencoder = run.ready_autoencoder()
        run.cache_variants()
        autoencoder = (autoencoder or run.trained_autoencoder()).requires_grad_(False).eval().to(accelerator.device)
        scale = run.train_tcdm(autoencoder)
        record = run.record(autoencoder, scale)
        accelerator.wait_for_everyone()  # the weights are written
        if config.calibration is not None:
            _calibrate(data, record, config.calibration, folder, accelerator, _threads(run.cases, accelerator))
        accelerator.wait_for_everyone()  # the calibration is, too
        if accelerator.is_main_process:
            checkpoint.save_record(folder, record)


def add_calibration(
    data: TrainingData, config: CalibrationConfig, folder: Path, accelerator: Accelerator, keep_cache: bool = False
) -> None:
    """Calibrate a trained generator in `folder`, as `train_generator` does.

    Raises:
        MissingFileError: If the generator is not trained.
        InputError: If the cases are not those it was trained on.
    """
    record = checkpoint.load_record(folder)
    cases = survey(data, accelerator, orientation_known_to(record.tcdm))
    if case_hashes(cases) != record.cases:
        raise InputError(
            f"{folder}: the cases must be those the generator was trained on, got others. Restore them, or train anew."
        )
    with _cache(folder, accelerator, keep_cache):
        _calibrate(data, record, config, folder, accelerator, _threads(cases, accelerator))


def _threads(cases: Mapping[str, SurveyedCase], accelerator: Accelerator) -> int:
    """Cases that are deformed at once: a GPU waits for them. A CPU's cores are torch's already."""
    if accelerator.device.type == "cpu":
        return 1
    largest, free = max(math.prod(case.shape) for case in cases.values()), available_bytes()
    carried = MOST_THREADS if free is None else int(free / 2 / (DEFORMING_BYTES * largest))
    return max(1, min(carried, available_cores() // accelerator.num_processes, MOST_THREADS))


@contextmanager
def _cache(folder: Path, accelerator: Accelerator, keep: bool) -> Iterator[None]:
    """Remove the folder of variants, latents and drawings at the end, unless `keep` is set."""
    yield
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not keep:
        shutil.rmtree(folder / CACHE_FOLDER)
    accelerator.wait_for_everyone()


def _calibrate(
    data: TrainingData,
    record: checkpoint.GeneratorRecord,
    config: CalibrationConfig,
    folder: Path,
    accelerator: Accelerator,
    threads: int,
) -> None:
    """Calibrate a trained generator, unless its calibration exists already."""
    finished = checkpoint.calibration_exists(folder)
    accelerator.wait_for_everyone()
    if finished:
        return
    generator = checkpoint.load_networks(folder, record, accelerator.device)
    cache = folder / CACHE_FOLDER / checkpoint.CALIBRATION
    learnt = calibrate(generator, data, config, cache, accelerator, threads)
    if accelerator.is_main_process:
        checkpoint.save_calibration(folder, *learnt)


class _Training:
    """The stages of a training; each is skipped where its result is on disk."""

    def __init__(
        self,
        data: TrainingData,
        config: FCaSConfig,
        folder: Path,
        accelerator: Accelerator,
        pretrained: PretrainedFiles,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self.data, self.requested, self.config = data, config, config
        self.folder, self.cache, self.accelerator = folder, folder / CACHE_FOLDER, accelerator
        self.pretrained, self.metadata = pretrained, metadata
        self.num_channels = len(data.channel_names)
        self.weights = maisi.read_weights(pretrained)
        if self.weights is not None:
            maisi.refuse_channels(self.weights, data.channel_names)
            self.config = replace(config, tcdm=maisi.config_of(self.weights, config.tcdm))
            maisi.check_fit(self.weights, self.config.tcdm)
        self.config = replace(self.config, tcdm=replace(self.config.tcdm, image_channels=self.num_channels))
        _check_settings(self.config, data, accelerator, loaded=self.weights is not None)
        self.cases = survey(data, accelerator, orientation_known_to(self.config.tcdm))
        self.spacing = working_spacing([(case.shape, case.spacing_mm) for case in self.cases.values()], config.grid)
        self.means = usual_means(self.cases.values())
        self.origin: dict[str, Any] = {
            "config": config, "labels": dict(data.labels), "surroundings": dict(data.surroundings),
            "cases": case_hashes(self.cases), "geometry": GEOMETRY,
            "roles": {name: tuple(given) for name, given in data.roles.items()}, "channel_names": data.channel_names,
        }  # fmt: skip

    def check_disk(self) -> None:
        """Check that the disk can hold what the cache still lacks; log how much that is."""
        missing = missing_cache_bytes(self.data, self.cases, self.spacing, self.config, self.cache)
        check_disk(self.cache, missing, len(self.cases))
        if missing > _MENTIONED_BYTES:
            logger.info(f"cache: {missing / 1e9:.3g} GB in {self.cache}, removed after the training")
        self.accelerator.wait_for_everyone()  # all processes have looked before one writes

    def claim_folder(self) -> None:
        """Write the run file, or check that an existing one records the same settings, files and data."""
        run = Run(**self.origin, pretrained=self.pretrained.identity())
        before = read_run(self.folder)
        self.accelerator.wait_for_everyone()  # all processes have read before one writes
        if before is None:
            if self.accelerator.is_main_process:
                save_config(run, self.folder / RUN_FILE)
        elif faults := run_faults(before, run):
            raise InputError(
                f"{self.folder}: a run must resume with the settings, files and data it started with, got "
                f"{'; '.join(faults)}. Give your configuration another preset name, or delete the folder to train anew."
            )

    def ready_autoencoder(self) -> Autoencoder | None:
        """Load the autoencoder if it need not be trained: finished before, or given as a file."""
        file, optimisation = self.pretrained.autoencoder, self.config.autoencoder.optimisation
        if file is not None and (self.weights is not None or checkpoint.is_maisi_file(file)):
            logger.info(maisi.LICENCE_NOTE)
        finished = checkpoint.load_autoencoder(self.folder, optimisation)
        self.accelerator.wait_for_everyone()  # all processes have read before one writes
        if finished is not None or file is None:
            return finished
        return self._saved(checkpoint.load_autoencoder_file(file, optimisation))

    def cache_variants(self) -> None:
        """Write the missing variants; return when all processes have written theirs."""

        def make(case_id: str) -> None:
            make_variants(self.data, case_id, self.cache, self.spacing, self.config)

        threads = _threads(self.cases, self.accelerator)
        in_threads(make, self.data.case_ids, threads, self.accelerator, "variants", "case")
        self.accelerator.wait_for_everyone()
        if self.config.tcdm.registers:
            register_partners(self.data, self.cache, self.config, self.accelerator)
            for case_id in local_share(self.data.case_ids, self.accelerator, "templates", "case"):
                make_templates(self.data, case_id, self.cache, self.spacing, self.config)
            self.accelerator.wait_for_everyone()

    def trained_autoencoder(self) -> Autoencoder:
        """Train the autoencoder on the variants, and save it."""
        variants = variant_split(self.data, self.config.tcdm.pairs)
        return self._saved(train_autoencoder(
            self.data, self.config.autoencoder, variants, self.cache, self.folder / checkpoint.AUTOENCODER,
            self.accelerator, self.config.seed,
        ))  # fmt: skip

    def train_tcdm(self, autoencoder: Autoencoder) -> LatentScale:
        """Encode the variants and train TCDM on their latents; return the latents' scale."""
        variants = all_variants(self.data.case_ids, self.config.tcdm.pairs)
        scale = cache_latents(autoencoder, variants, self.cache, self.accelerator, self.num_channels)
        if self.weights is not None:
            scale = maisi.checked_scale(self.weights, scale)
        train_tcdm(
            self.data, self.config, self.cache, self.folder / checkpoint.TCDM_FOLDER, self.accelerator, scale,
            self.spacing, autoencoder, self.means, self.weights,
        )  # fmt: skip
        return scale

    def record(self, autoencoder: Autoencoder, scale: LatentScale) -> checkpoint.GeneratorRecord:
        """The record of the trained generator."""
        return checkpoint.GeneratorRecord(
            **self.origin, autoencoder=autoencoder.config, tcdm=self.config.tcdm, latent_scale=scale,
            working_spacing_mm=triple(self.spacing), validation_cases=tuple(self.data.split()[1]),
            images={case_id: case.image_sha256 for case_id, case in self.cases.items()},
            means={str(label): _rounded(means) for label, means in self.means.items()},
        )  # fmt: skip

    def _saved(self, autoencoder: Autoencoder) -> Autoencoder:
        if self.accelerator.is_main_process:
            checkpoint.save_autoencoder(self.folder, autoencoder, self.metadata)
        return autoencoder


def _rounded(means: tuple[float, ...]) -> float | tuple[float, ...]:
    """Means of the channels as a record holds them: of one channel, the number itself."""
    rounded = tuple(round(mean, 1) for mean in means)
    return rounded if len(rounded) > 1 else rounded[0]


def _check_settings(config: FCaSConfig, data: TrainingData, accelerator: Accelerator, loaded: bool) -> None:
    """Raise an InputError with all faults of the settings, a line each, before any scan is read.

    Where a denoiser is loaded, the settings include those of its files.
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
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
