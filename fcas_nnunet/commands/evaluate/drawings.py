"""Draw held-out patients' masks, and score every map that says where the drawings are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.commands.runtime.devices import resolve_device
from fcas_nnunet.config.generator import ConfidenceConfig
from fcas_nnunet.evaluation.confidence.controls import BOUNDARY, CLASS_PRIOR, DEPARTURE, GRADIENT, control_maps
from fcas_nnunet.evaluation.confidence.error_maps import mean_matched_error, mean_raw_error
from fcas_nnunet.evaluation.confidence.judging import CaseEvaluation, ErrorKind, evaluate_case
from fcas_nnunet.evaluation.confidence.picture import PicturedCase
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.checkpoint import Generator, GeneratorRecord, load_generator
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.drawing import Drawing, Registered, draw_image, guide
from fcas_nnunet.generator.optimisation.precision import drawing_precision
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.labels.contrast import matched_error
from fcas_nnunet.seeds import derive_seed

#: A dozen float32 maps on the scan's grid, and as many temporary ones; the images of each further channel.
BYTES_PER_VOXEL, CHANNEL_BYTES_PER_VOXEL = 120.0, 40.0
JUDGED, EXPECTED, SPREAD = "confidence", "expected error", "SSV spread"
ENSEMBLE, RANDOM_WEIGHTS = "spread of {} seeds", "random weights, its own scan"
#: Controls whose knowledge is taken out of confidence and error before what is left of their correlation is given.
KNOWN = (BOUNDARY, GRADIENT, DEPARTURE, CLASS_PRIOR)


@dataclass(frozen=True)
class DrawingJob:
    """Settings of one drawing.

    Attributes:
        model: Folder of the generator.
        source: Data set that the template comes from.
        held_out: Data set of the case.
        renderings: Case whose mask is drawn, then the other real scans of this mask.
        template: Case id in `source`.
        seed: Seed of the drawing.
        confidence: Settings of the confidence map.
        device_name: Device to draw on.
        prior: Code → mean error in training cases; None = without this control.
        num_ensemble: Drawings behind the control by their spread; below 2 = without.
        random_weights: Whether to add the control with random weights.
        shown: Channel that is pictured.
    """

    model: Path
    source: Path
    held_out: Path
    renderings: Sequence[str]
    template: str
    seed: int
    confidence: ConfidenceConfig
    device_name: str
    prior: Mapping[int, float] | None = None
    num_ensemble: int = 0
    random_weights: bool = False
    shown: int = 0


def training_error(job: DrawingJob) -> tuple[np.ndarray, np.ndarray]:
    """Draw a training case; returns its error after matching contrast, and the code of every voxel."""
    generator = _generator(job)
    case, codes, reals = _load(job, generator)
    return matched_error(_draw(generator, case, job, job.seed).image, reals[0], codes), codes


def evaluate_drawing(job: DrawingJob) -> tuple[CaseEvaluation, PicturedCase]:
    """Draw a case, and score every map of it; returns what a picture of it shows, too."""
    generator = _generator(job)
    case, codes, reals = _load(job, generator)
    drawing = _draw(generator, case, job, job.seed)
    errors = _errors(drawing, reals, codes)
    maps = {JUDGED: drawing.confidence, SPREAD: -_spread(drawing)}
    if drawing.expected_error is not None:
        maps[EXPECTED] = -drawing.expected_error
    maps |= control_maps(drawing.confidence, drawing.image, case.mask, codes, case.spacing_mm, job.prior, job.seed)
    if job.num_ensemble > 1:
        seeds = [derive_seed(job.seed, "ensemble", number) for number in range(1, job.num_ensemble)]
        images = [drawing.image, *(_draw(generator, case, job, seed).image for seed in seeds)]
        maps[ENSEMBLE.format(job.num_ensemble)] = -np.std(images, axis=0, ddof=1).mean(axis=0)
    known = [name for name in KNOWN if name in maps]
    result = evaluate_case(maps, errors, case.mask, JUDGED, known, job.seed, case.ignored)
    if job.random_weights:  # the control that nothing was learnt: against the error of its own scan
        other = _draw(_untrained(generator, job.seed), case, job, job.seed)
        spread, others = {SPREAD: -_spread(other)}, _errors(other, reals, codes)
        own = evaluate_case(spread, others, case.mask, SPREAD, [], job.seed, case.ignored)
        for kind, by_region in own.scores.items():
            for region, scores in by_region.items():
                result.scores[kind][region][RANDOM_WEIGHTS] = scores[SPREAD]
    return result, PicturedCase.of(
        case.case_id, drawing.image[job.shown], reals[0][job.shown], errors[ErrorKind.MATCHED], drawing.confidence,
        case.mask, case.spacing_mm,
    )  # fmt: skip


def _errors(drawing: Drawing, reals: Sequence[np.ndarray], codes: np.ndarray) -> dict[ErrorKind, np.ndarray]:
    return {
        ErrorKind.RAW: mean_raw_error(drawing.image, reals),
        ErrorKind.MATCHED: mean_matched_error(drawing.image, reals, codes),
    }


def _untrained(generator: Generator, seed: int) -> Generator:
    from fcas_nnunet.generator.tcdm.network import TCDM

    torch.manual_seed(seed % 2**63)
    tcdm = TCDM(generator.record.tcdm, generator.record.working_spacing_mm)
    for parameter in tcdm.parameters():  # layers that begin at zero, too
        torch.nn.init.normal_(parameter, std=0.05)
    device = next(generator.tcdm.parameters()).device
    return replace(generator, tcdm=tcdm.requires_grad_(False).eval().to(device))


def _draw(generator: Generator, case: Case, job: DrawingJob, seed: int) -> Drawing:
    device = resolve_device(job.device_name)
    template, reference = _guide(job, generator.record, case), replace(case, image=None)
    return draw_image(generator, reference, template, seed, device, drawing_precision(device), with_spread=True)


_guides: dict[tuple[Path, Path, str, str], Case | Registered] = {}


def _guide(job: DrawingJob, record: GeneratorRecord, case: Case) -> Case | Registered:
    """The template, kept for a case's other drawings: its ensemble, and the one with random weights."""
    key = job.model, job.source, job.template, case.case_id
    if key not in _guides:
        _guides.clear()
        _guides[key] = guide(record, case, RawDataset.open(job.source).load_case(job.template))
    return _guides[key]


def _spread(drawing: Drawing) -> np.ndarray:
    assert drawing.spread is not None, "it was requested"
    return drawing.spread


@lru_cache(1)
def _loaded(model: Path, device_name: str) -> Generator:
    if resolve_device(device_name).type == "cpu":
        torch.set_num_threads(1)  # the same arithmetic whatever the number of processes
    return load_generator(model, resolve_device(device_name))


def _generator(job: DrawingJob) -> Generator:
    generator = _loaded(job.model, job.device_name)
    config = replace(generator.record.config, confidence=job.confidence)
    return replace(generator, record=replace(generator.record, config=config))


def _load(job: DrawingJob, generator: Generator) -> tuple[Case, np.ndarray, list[np.ndarray]]:
    """The case, its structures (surroundings included), and all real scans of it within the generator's range."""
    dataset = RawDataset.open(job.held_out)
    case = dataset.load_case(job.renderings[0])
    reals = []
    for other in chain([case], map(dataset.load_case, job.renderings[1:])):
        if not np.array_equal(other.mask, case.mask):
            raise InputError(
                f"{other.case_id}: mask must be that of {case.case_id}, the same patient's by the manifest, got "
                "another. Take one of them out with --cases."
            )
        reals.append(np.clip(other.standard_image, *generator.record.config.grid.intensity_range).astype(np.float32))
    return case, label_codes(case, max(dataset.labels.values()))[1], reals
