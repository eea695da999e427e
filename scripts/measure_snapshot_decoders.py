"""What cheaper looks at the intermediate images do to the confidence map: Spearman's ρ with the full decoder's map.

Each case is drawn once; its snapshots are decoded by the full decoder everywhere, inside the structures' box alone, by
the preview decoder, and by that inside the box. ρ over the voxels of the structures, and of the box with its margin.

    fcas_train -d 901 --preset cpu --preview
    python scripts/measure_snapshot_decoders.py -d 901 --preset cpu
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr

from fcas_nnunet.case import Case
from fcas_nnunet.commands.train import model_folder
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.config.presets import PRESETS, preset
from fcas_nnunet.generator.autoencoder.slabs import SLAB_ELEMENTS
from fcas_nnunet.generator.checkpoint import Generator, load_generator
from fcas_nnunet.generator.confidence.snapshots import SnapshotVariance, structure_box, voxel_box
from fcas_nnunet.generator.confidence.ssv import confidence_map
from fcas_nnunet.generator.data.grid import WorkingGrid
from fcas_nnunet.generator.generate import embedded_condition, plan_cases
from fcas_nnunet.generator.tcdm.sampling import Decoder, sample_latents, snapshots
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set the generator was trained on")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("-n", type=int, default=8, help="cases (8)")
    parser.add_argument("--margin", type=int, default=8, help="of the box, in working voxels (8)")
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    source = RawDataset.open(resolve_dataset(args.d))
    device = torch.device(args.device)
    generator = load_generator(model_folder(source, preset(args.preset)), device)
    if generator.preview is None:
        parser.error("the generator has no preview decoder: fcas_train --preview makes one")
    plans = plan_cases(args.n, source.case_ids, source.case_ids, ReferenceSource.GIVEN, seed=0)
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for plan in plans:
        reference, template = source.load_mask(plan.reference), source.load_case(plan.template)
        for name, row in measure(generator, reference, template, plan.seed, args.margin, device).items():
            rows.setdefault(name, []).append(row)
    print(f"{'':28}{'seconds':>9}{'ρ structures':>14}{'ρ box':>8}")
    for name, values in rows.items():
        seconds, inside, box = np.median(values, axis=0)
        print(f"{name:28}{seconds:9.2f}{inside:14.3f}{box:8.3f}   (lowest {np.min(values, axis=0)[1]:.3f})")


def measure(
    generator: Generator, reference: Case, template: Case, seed: int, margin: int, device: torch.device
) -> dict[str, tuple[float, float, float]]:
    """Seconds of decoding and ρ in the structures and in the box, for every way to look."""
    record = generator.record
    config = record.config.confidence
    grid = WorkingGrid.of_case(reference, record.working_spacing_mm, record.tcdm)
    noise = torch.Generator().manual_seed(seed % 2**63)
    seen_latents: list[torch.Tensor] = []
    with torch.inference_mode():
        embedded, structures = embedded_condition(generator, reference, template, grid, device)
        last = sample_latents(
            generator.tcdm, embedded, record.config.sampling, noise, snapshots(config, seen_latents.append)
        )
        seen_latents.append(last)
        box = structure_box(structures, margin)
        assert generator.preview is not None and box is not None, "seen to before"
        ways: dict[str, tuple[Decoder, object]] = {
            "full decoder": (generator.autoencoder, None),
            "full decoder in the box": (generator.autoencoder, box),
            "preview decoder": (generator.preview, None),
            "preview decoder in the box": (generator.preview, box),
        }
        maps, results = {}, {}
        for name, (decoder, where) in ways.items():
            start = time.perf_counter()
            seen = SnapshotVariance(partial(decoded, generator, decoder), where)  # type: ignore[arg-type]
            for snapshot in seen_latents:
                seen.update(snapshot)
            variance = seen.variance(torch.Size(grid.shape), structures)
            seconds = time.perf_counter() - start
            maps[name] = confidence_map(variance.cpu().numpy(), structures, config)
            whole, ours = maps["full decoder"], maps[name]
            inside = spearmanr(whole[structures], ours[structures]).statistic
            voxels = voxel_box(box)
            around = spearmanr(whole[voxels], ours[voxels], axis=None).statistic
            results[name] = (seconds, float(inside), float(around))
    return results


def decoded(generator: Generator, decoder: Decoder, latents: torch.Tensor) -> torch.Tensor:
    """[1, 4, d, h, w] => [4d, 4h, 4w] in [0, 1]."""
    return decoder.decode(generator.record.latent_scale.to_raw(latents), SLAB_ELEMENTS)[0, 0].clamp(0, 1)


if __name__ == "__main__":
    main()
