"""Compare estimators of SSV: how well does each spread predict the error against held-out real scans?

Rows: what is compared (x_t or x_0, decoded or as latents) × which steps (all, the last half, the last quarter, nine
spread over all). AUSE (0 = the error's own order, 0.5 = random) and Spearman's ρ inside the structures against the
error after matching contrast; within cases, which no monotone normalisation changes, and over the cases' pooled voxels
under each normalisation: min-max of the variance in each case, robust percentiles in each case, one scale for all.

    fcas_phantom -d 904 -n 4 --start 1000 --acquisitions 4 --shape 64 64 64
    python scripts/measure_confidence.py -d 901 --held_out 904 --preset cpu
    python scripts/measure_confidence.py -d 901 --held_out 904 --preset cpu --solver ddpm --cases 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from fcas_nnunet.case import Case
from fcas_nnunet.commands.evaluate.confidence import held_out_patients
from fcas_nnunet.commands.runtime.leaks import generator_parents
from fcas_nnunet.commands.train import model_folder
from fcas_nnunet.config.generator import ConfidenceConfig, SamplingConfig
from fcas_nnunet.config.options import ConfidenceNorm, Solver
from fcas_nnunet.config.presets import PRESETS, preset
from fcas_nnunet.evaluation.confidence.error_maps import mean_matched_error
from fcas_nnunet.evaluation.confidence.sparsification import ause, sampled_voxels, spearman
from fcas_nnunet.generator.autoencoder.slabs import SLAB_ELEMENTS
from fcas_nnunet.generator.checkpoint import Generator, load_generator
from fcas_nnunet.generator.confidence.ssv import Welford, confidence_map, snapshot_steps
from fcas_nnunet.generator.data.grid import WorkingGrid, label_codes, to_standard_range
from fcas_nnunet.generator.drawing import condition_on_grid, guide
from fcas_nnunet.generator.tcdm.conditions import guess_of
from fcas_nnunet.generator.tcdm.sampling import Step, guessed_latents, sample_latents
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.seeds import derive_seed

POOLED_VOXELS = 20_000
#: Steps that are looked at of a chain of a thousand.
MOST_STEPS = 40


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set of the generator")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--held_out", required=True, help="data set of other patients")
    parser.add_argument("--cases", type=int, default=4, help="of them (4)")
    parser.add_argument("--solver", type=Solver, choices=list(Solver), help="default: the generator's own")
    parser.add_argument("--steps", type=int, help="of the solver; default: the generator's own")
    args = parser.parse_args()
    source, held_out = (RawDataset.open(resolve_dataset(name)) for name in (args.d, args.held_out))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model_folder(source, preset(args.preset))
    generator = load_generator(model, device)
    own = generator.record.config.sampling
    sampling = replace(own, solver=args.solver or own.solver, num_inference_steps=args.steps or own.num_inference_steps)
    known = generator_parents(model, source, generator.record)
    patients = held_out_patients(held_out, held_out.case_ids, generator.record, known)[: args.cases]
    rows: dict[str, list[tuple[float, float]]] = {}
    pooled: dict[str, list[np.ndarray]] = {}
    errors = []
    start = time.monotonic()
    for number, renderings in enumerate(patients):
        template = source.load_case(source.case_ids[number])
        error, mask, spreads = measure(generator, sampling, held_out, renderings, template, device)
        voxels = sampled_voxels(mask > 0, 0)
        some = sampled_voxels(mask > 0, 0, POOLED_VOXELS)
        errors.append(error.ravel()[some])
        for name, variance in spreads:
            doubt = variance.ravel()[voxels]
            rows.setdefault(name, []).append(
                (ause(-doubt, error.ravel()[voxels]), spearman(-doubt, error.ravel()[voxels]))
            )
            for norm, values in normalised(variance, mask):
                pooled.setdefault(f"{name}, {norm}", []).append(values.ravel()[some])
        print(
            f"{renderings[0]}: {time.monotonic() - start:.0f} s, mean error {error[mask > 0].mean():.0f} HU",
            flush=True,
        )
    wrong = np.concatenate(errors)
    print(f"\n{'within cases':<44}{'AUSE':>8}{'ρ':>8}    pooled AUSE: min-max, robust, one scale")
    for name, scores in rows.items():
        together = [ause(np.concatenate(pooled[f"{name}, {norm}"]), wrong) for norm in NORMS]
        mean = np.mean(scores, axis=0)
        print(f"{name:<44}{mean[0]:>8.3f}{mean[1]:>8.3f}    " + " ".join(f"{value:.3f}" for value in together))


NORMS = ("min-max", "robust", "one scale")


def normalised(variance: np.ndarray, mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A spread under each normalisation."""
    for norm, kind in zip(NORMS, (ConfidenceNorm.MINMAX_VARIANCE, ConfidenceNorm.ROBUST_STD), strict=False):
        yield norm, confidence_map(variance, mask > 0, ConfidenceConfig(norm=kind))
    yield NORMS[2], -variance


@torch.inference_mode()
def measure(
    generator: Generator,
    sampling: SamplingConfig,
    dataset: RawDataset,
    renderings: Sequence[str],
    template: Case,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, np.ndarray]]]:
    """Draw a case once; its error, its mask, and the variance of every estimator, on its own grid."""
    record = generator.record
    low, high = record.config.grid.intensity_range
    case = dataset.load_case(renderings[0])
    reference = Case(case.case_id, None, case.mask, case.affine)
    grid = WorkingGrid.of_case(reference, record.working_spacing_mm, record.tcdm)
    condition, _ = condition_on_grid(record, reference, guide(record, case, template), grid, device)
    guess = guess_of(condition, record.tcdm)
    start = guessed_latents(generator.autoencoder, record.latent_scale, sampling, guess)
    embedded = generator.tcdm.embed_condition(condition)
    seen: dict[str, Welford] = {}

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return generator.autoencoder.decode(record.latent_scale.to_raw(latents), SLAB_ELEMENTS)[0].clamp(0, 1)

    def watch(step: Step) -> None:
        looked_at = snapshot_steps(step.count, MOST_STEPS)
        if step.index not in looked_at:
            return
        place = looked_at.index(step.index) / max(1, len(looked_at) - 1)
        groups = ["all steps"]
        groups += ["last half"] if place >= 0.5 else []
        groups += ["last quarter"] if place >= 0.75 else []
        groups += ["nine over all"] if step.index in snapshot_steps(step.count, 9) else []
        for source, latents in (("x_0", step.clean), ("x_t", step.noisy)):
            image = decode(latents)
            for group in groups:
                seen.setdefault(f"{source} decoded, {group}", Welford()).update(image)
                seen.setdefault(f"{source} as latents, {group}", Welford()).update(latents[0])

    noise = torch.Generator().manual_seed(derive_seed(0, "measure confidence", renderings[0]))
    image = decode(sample_latents(generator.tcdm, embedded, sampling, noise, watch, start))
    native = np.clip(grid.image_to_native(to_standard_range(image, (low, high))), low, high)
    codes = label_codes(case, max(dataset.labels.values()))[1]
    reals = [np.clip(scan, low, high) for scan in (dataset.load_case(c).image for c in renderings) if scan is not None]
    error = mean_matched_error(native, reals, codes)
    variances = []
    for name, welford in sorted(seen.items()):
        if welford.count < 2:
            continue
        variance = welford.variance
        variance = variance.mean(dim=0)  # over the channels of the image or of the latents
        if "latents" in name:  # every latent over its 4³ voxels
            size = tuple(image.shape[1:])
            variance = F.interpolate(variance[None, None], size=size, mode="trilinear")[0, 0]
        variances.append((name, grid.confidence_to_native(variance)))
    return error, case.mask, variances


if __name__ == "__main__":
    main()
