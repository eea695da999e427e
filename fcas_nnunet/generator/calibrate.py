"""Learn a generator's errors: draw training cases in new shapes, and compare them with their real scans."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from accelerate import Accelerator

from fcas_nnunet.case import NUM_CODES, Case
from fcas_nnunet.config.generator import CalibrationConfig, ConfidenceConfig
from fcas_nnunet.config.options import ConfidenceChoice
from fcas_nnunet.earlier_names import RENAMED
from fcas_nnunet.generator.checkpoint import Generator, GeneratorRecord
from fcas_nnunet.generator.confidence.calibration import Calibration, Scale, fit_curve
from fcas_nnunet.generator.confidence.error_model import ErrorModel, measures_at
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import in_new_shape, new_shape_of, read_tensors, save_tensors
from fcas_nnunet.generator.drawing import draw_on_grid, guide
from fcas_nnunet.generator.mgm.deformation import Deformation
from fcas_nnunet.generator.mgm.resampling import deform_labels
from fcas_nnunet.generator.optimisation.batches import in_threads
from fcas_nnunet.generator.optimisation.precision import drawing_precision
from fcas_nnunet.intensities import IntensityScale
from fcas_nnunet.labels.anatomy import label_roles
from fcas_nnunet.labels.contrast import matched_error
from fcas_nnunet.seeds import derive_seed

logger = logging.getLogger(__name__)

HELD_OUT_EVERY = 4
_IGNORED = np.uint16(NUM_CODES)  # in place of a code: a voxel that the data set ignores
MEASURES, CODES, ERROR, SPREAD = "measures", "codes", "error", "spread"


@dataclass(frozen=True)
class PlannedDrawing:
    """A drawing of the reference in a new shape; held out to fit the scale, or used to fit the error model."""

    number: int
    reference: str
    template: str
    held_out: bool

    def path(self, cache: Path) -> Path:
        """File of the drawing's tensors in the folder `cache`."""
        return cache / f"drawing_{self.number:04d}.safetensors"

    def read(self, cache: Path) -> dict[str, torch.Tensor]:
        """The drawing's tensors: `MEASURES`, `CODES`, `ERROR` and `SPREAD`."""
        return {RENAMED.get(name, name): tensor for name, tensor in read_tensors(self.path(cache)).items()}


def plan_drawings(record: GeneratorRecord, config: CalibrationConfig) -> list[PlannedDrawing]:
    """Choose the cases to draw: training cases in turn; every fourth drawing, a validation case if there are any."""
    validation = sorted(record.validation_cases)
    training = sorted(set(record.cases) - set(validation))
    rng = np.random.default_rng(derive_seed(record.config.seed, "calibration"))
    planned, turns = [], {True: 0, False: 0}
    for number in range(config.num_drawings):
        held_out = number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        pool = validation if held_out and validation else training
        reference = pool[turns[held_out] % len(pool)]
        turns[held_out] += 1
        others = [case_id for case_id in training if case_id != reference]
        planned.append(PlannedDrawing(number, reference, others[int(rng.integers(len(others)))], held_out))
    return planned


def calibrate(
    generator: Generator,
    data: TrainingData,
    config: CalibrationConfig,
    cache: Path,
    accelerator: Accelerator,
    threads: int = 1,
) -> tuple[Calibration, ErrorModel]:
    """Learn a trained generator's errors from drawings of the cases it was trained on.

    Every process makes its share of the drawings, and writes them into `cache`; if it is killed, the same call skips
    the finished ones. In several threads, one draws while cases of others are read and deformed.

    Returns:
        The scale and the error model, on the CPU; the same in every process.
    """
    planned = plan_drawings(generator.record, config)
    device_is_free = Lock()

    def draw(drawing: PlannedDrawing) -> None:
        path = drawing.path(cache)
        if not path.is_file():
            _draw(generator, data, drawing, config, path, accelerator, device_is_free)

    in_threads(draw, planned, threads, accelerator, "calibration", "drawing")
    accelerator.wait_for_everyone()
    record = generator.record
    learnt = [drawing.read(cache) for drawing in planned if not drawing.held_out]
    seed = derive_seed(record.config.seed, "error model")
    model = fit_error_model(learnt, config, seed, record.tcdm.image_channels)
    held_out = [drawing for drawing in planned if drawing.held_out]
    inside, outside = _scales(model, [drawing.read(cache) for drawing in held_out], config)
    calibration = Calibration(
        config=config,
        sampling=record.config.sampling.for_model(record.tcdm.prediction_type),
        confidence=_ssv(record),
        inside=inside,
        outside=outside,
        held_out=tuple(drawing.reference for drawing in held_out),
    )
    return calibration, model


def fit_error_model(
    drawings: Sequence[dict[str, torch.Tensor]], config: CalibrationConfig, seed: int, num_channels: int = 1
) -> ErrorModel:
    """Fit the error model to drawings' voxels, by the likelihood of Laplace-distributed errors.

    Its scale parameter is the expected absolute error: minimising log b + |e| / b makes b the mean of |e|. A drawing
    has `measures` [N, M], `codes` [N] and `error` [N].
    """
    measures, codes, error = (torch.cat([drawing[key] for drawing in drawings]) for key in (MEASURES, CODES, ERROR))
    measures, codes = measures.float(), codes.long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        model = ErrorModel(config.width, num_channels)
    order = torch.Generator().manual_seed(seed % 2**63)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    for step in range(config.num_steps):
        chosen = torch.randint(len(error), (min(config.batch_voxels, len(error)),), generator=order)
        log_expected = model(measures[chosen], codes[chosen])
        loss = (log_expected + error[chosen] * torch.exp(-log_expected)).mean()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False).eval()


def _scales(
    model: ErrorModel, drawings: Sequence[dict[str, torch.Tensor]], config: CalibrationConfig
) -> tuple[Scale, Scale]:
    """Fit curves and scales to held-out drawings' voxels, inside structures and outside.

    Where labels fill every volume, the scale inside serves for both; where resampling left nothing inside, the one
    outside does.
    """
    measures, codes, error, spread = (
        torch.cat([drawing[key] for drawing in drawings]) for key in (MEASURES, CODES, ERROR, SPREAD)
    )
    predicted = model(measures.float(), codes.long()).exp().numpy()
    structures = codes.numpy() > 0

    def scale(where: np.ndarray) -> Scale:
        model_curve, ssv = (fit_curve(doubt[where], error.numpy()[where]) for doubt in (predicted, spread.numpy()))
        low, high = np.percentile(model_curve(predicted[where]), config.percentiles)
        return Scale(ssv, model_curve, float(low), float(high))

    inside, outside = (scale(where) if where.any() else None for where in (structures, ~structures))
    known = inside or outside
    assert known is not None, "a drawing has voxels"
    return inside or known, outside or known


def _ssv(record: GeneratorRecord) -> ConfidenceConfig:
    """Settings of the SSV that is calibrated beside the error model."""
    return record.config.confidence.chosen(ConfidenceChoice.SSV).for_generator(calibrated=False)


def _draw(
    generator: Generator,
    data: TrainingData,
    drawing: PlannedDrawing,
    config: CalibrationConfig,
    path: Path,
    accelerator: Accelerator,
    device_is_free: Lock,
) -> None:
    """Draw a case in a new shape, and save some voxels' measures, errors and spread."""
    record = generator.record
    seed = derive_seed(record.config.seed, "calibration", drawing.number)
    source = data.load_case(drawing.reference)
    deformation = new_shape_of(source.mask, source.spacing_mm, record.config.masks, derive_seed(seed, "shape"))
    real = new_shape(source, record, deformation)
    reference = replace(real, image=None)
    template = guide(record, source, data.load_case(drawing.template), deformation)
    low, high = record.config.grid.intensity_range
    precision = drawing_precision(accelerator.device)
    noise_seed = derive_seed(seed, "noise")
    with device_is_free:  # whose memory may hold one drawing alone
        drawn = draw_on_grid(generator, reference, template, noise_seed, accelerator.device, precision, _ssv(record))
    assert drawn.spread is not None, "SSV was requested"
    scan = drawn.grid.image_to_working(real.standard_image, accelerator.device).cpu().numpy().clip(low, high)
    codes = label_codes(real, max(record.labels.values()))[1]
    structures = drawn.grid.labels_to_working(codes, label_roles(record.labels, record.roles).thin).numpy()
    chosen_from = drawn.codes.cpu().numpy()
    if real.ignored is not None:  # what is there has no label, so its errors are nobody's
        ignored = drawn.grid.labels_to_working(real.ignored.astype(np.uint8), ()).numpy() > 0
        structures, chosen_from = (np.where(ignored, _IGNORED, of) for of in (structures, chosen_from))
    error = torch.from_numpy(matched_error(drawn.image.cpu().numpy(), scan, structures))
    voxels = _chosen_voxels(chosen_from, config.num_voxels, derive_seed(seed, "voxels"))
    there = voxels.to(accelerator.device)
    save_tensors(
        {
            MEASURES: measures_at(drawn.image, drawn.codes, there).half().cpu(),
            CODES: drawn.codes.flatten()[there].cpu(),
            ERROR: error.flatten()[voxels],
            SPREAD: drawn.spread.flatten()[there].cpu(),
        },
        path,
    )


def new_shape(case: Case, record: GeneratorRecord, deformation: Deformation) -> Case:
    """Deform a training case, in standard units, to a shape that training has not seen: all of it alike."""
    image, mask, around = in_new_shape(
        case.standard_image, case.mask, case.surroundings, deformation, case.spacing_mm,
        label_roles(record.labels, record.roles),
    )  # fmt: skip
    ignored = case.ignored
    if ignored is not None:
        ignored = deform_labels(ignored, deformation, case.spacing_mm)
        mask = np.where(ignored, np.uint8(0), mask)
    if around is not None:
        around = np.where(mask > 0, 0, around).astype(np.uint8)
    scales = (IntensityScale(),) * len(image)
    return Case(case.case_id, image, mask, case.affine, surroundings=around, scales=scales, ignored=ignored)


def _chosen_voxels(codes: np.ndarray, count: int, seed: int) -> torch.Tensor:
    """Draw flat indices in rising order: half inside structures, or as many as there are, and half outside."""
    rng = np.random.default_rng(seed)
    flat = codes.ravel()
    parts = [np.flatnonzero((flat > 0) & (flat != _IGNORED)), np.flatnonzero(flat == 0)]
    chosen = [rng.choice(part, min(count // 2, len(part)), replace=False) for part in parts]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))
