"""New masks, ours beside the field's deformations at the same strength: seconds, memory, and what breaks.

Every measurement is a process of its own, and the methods take turns, so that a busy machine slows all alike. Ours is
the whole of `generate_mask`: drawing, deforming, closing, repair, quality gate, redraws. The others only deform.

    python scripts/benchmark_masks.py                                # phantom at 512 x 512 x 256
    python scripts/benchmark_masks.py --mask FILE.nii.gz --thin 8    # your own mask
    pip install torchio                                              # to have it in the table, too
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROTATION_DEG, SCALE, SHIFT_MM = 15.0, 0.15, 8.0
CONTROL_MM, DISPLACEMENT_MM = 40.0, 14.0


def ours(mask: np.ndarray, spacing: tuple[float, float, float], thin: list[int], seed: int) -> np.ndarray:
    """Make a mask by MGM, and print the reasons of rejected draws."""
    from fcas_nnunet.generator.mgm.masks import generate_mask
    from fcas_nnunet.labels.anatomy import LabelRoles

    made = generate_mask(mask, spacing, None, seed, LabelRoles(thin=frozenset(thin)))
    for reason in made.rejections:
        print(reason, file=sys.stderr)
    return made.mask


def monai_elastic(mask: np.ndarray, spacing: tuple[float, float, float], thin: list[int], seed: int) -> np.ndarray:
    """Make a mask by MONAI's elastic deformation."""
    from monai.transforms import Rand3DElastic

    step = float(np.mean(spacing))
    sigma = CONTROL_MM / 2 / step
    smoothed = 0.577 * (1 / (2 * np.sqrt(np.pi) * sigma)) ** 1.5  # standard deviation of smoothed uniform noise
    rms = DISPLACEMENT_MM * 0.577 * 0.37 / step  # RMS of a cubic B-spline over uniform coefficients
    transform = Rand3DElastic(
        (sigma, sigma), (rms / smoothed, rms / smoothed), prob=1.0, rotate_range=[np.deg2rad(ROTATION_DEG)] * 3,
        scale_range=[SCALE] * 3, translate_range=[SHIFT_MM / s for s in spacing], mode="nearest", padding_mode="zeros",
    )  # fmt: skip
    transform.set_random_state(seed)
    return np.asarray(transform(mask[None].astype(np.float32)))[0].astype(np.uint8)


def torchio_elastic(mask: np.ndarray, spacing: tuple[float, float, float], thin: list[int], seed: int) -> np.ndarray:
    """Make a mask by TorchIO's affine and elastic deformations."""
    import torch
    import torchio as tio

    torch.manual_seed(seed)
    points = [max(int((n - 1) * s / CONTROL_MM) + 4, 5) for n, s in zip(mask.shape, spacing, strict=True)]
    transform = tio.Compose([
        tio.RandomAffine(scales=SCALE, degrees=ROTATION_DEG, translation=SHIFT_MM),
        tio.RandomElasticDeformation(num_control_points=points, max_displacement=DISPLACEMENT_MM, locked_borders=0),
    ])  # fmt: skip
    image = tio.LabelMap(tensor=torch.from_numpy(mask[None]), affine=np.diag([*spacing, 1.0]))
    return transform(image).numpy()[0].astype(np.uint8)


def batchgenerators_spatial(
    mask: np.ndarray, spacing: tuple[float, float, float], thin: list[int], seed: int
) -> np.ndarray:
    """Make a mask by batchgeneratorsv2's spatial transform."""
    import torch
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    np.random.seed(seed)
    torch.manual_seed(seed)
    angle = np.deg2rad(ROTATION_DEG)
    transform = SpatialTransform(
        mask.shape, 0, False, p_elastic_deform=1, elastic_deform_scale=(0.1, 0.1), elastic_deform_magnitude=(0.1, 0.1),
        p_rotation=1, rotation=(-angle, angle), p_scaling=1, scaling=(1 - SCALE, 1 + SCALE),
        bg_style_seg_sampling=False, mode_seg="nearest",
    )  # fmt: skip
    labels = torch.from_numpy(mask[None].astype(np.int16))
    parameters = transform.get_parameters(image=labels)
    return transform._apply_to_segmentation(labels, **parameters)[0].numpy().astype(np.uint8)


def simpleitk_bspline(mask: np.ndarray, spacing: tuple[float, float, float], thin: list[int], seed: int) -> np.ndarray:
    """Make a mask by SimpleITK's B-spline and Euler transforms."""
    import SimpleITK as sitk

    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing(spacing[::-1])
    mesh = [max(int((n - 1) * s / CONTROL_MM), 1) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    elastic = sitk.BSplineTransformInitializer(image, mesh)
    elastic.SetParameters(rng.uniform(-DISPLACEMENT_MM, DISPLACEMENT_MM, len(elastic.GetParameters())).tolist())
    affine = sitk.Euler3DTransform()
    affine.SetCenter(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    affine.SetRotation(*np.deg2rad(rng.uniform(-ROTATION_DEG, ROTATION_DEG, 3)).tolist())
    affine.SetTranslation(rng.uniform(-SHIFT_MM, SHIFT_MM, 3).tolist())
    both = sitk.CompositeTransform([affine, elastic])
    return sitk.GetArrayFromImage(sitk.Resample(image, image, both, sitk.sitkNearestNeighbor, 0))


METHODS: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "fcas-nnunet": ("fcas_nnunet", ours),
    "MONAI Rand3DElastic": ("monai", monai_elastic),
    "TorchIO": ("torchio", torchio_elastic),
    "batchgeneratorsv2": ("batchgeneratorsv2", batchgenerators_spatial),
    "SimpleITK B-spline": ("SimpleITK", simpleitk_bspline),
}


def measure(method: str, source: Path, seed: int) -> dict[str, Any]:
    """In a process of its own: seconds of one mask, peak memory in GB beyond the imports and the source."""
    import monai.transforms  # noqa: F401  # imports are no part of what is measured
    import torch

    from fcas_nnunet.generator.mgm.topology import describe_mask

    torch.set_num_threads(2)
    with np.load(source) as stored:
        mask, spacing, thin = stored["mask"], tuple(stored["spacing"].tolist()), stored["thin"].tolist()
    METHODS[method][1](mask[::8, ::8, ::8].copy(), tuple(8 * s for s in spacing), [], seed)  # first calls are slow
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    made = METHODS[method][1](mask, spacing, thin, seed)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    was, now = (describe_mask(volume, thin) for volume in (mask, made))
    return {
        "seconds": seconds,
        "gigabytes": peak / 1e6,
        "pieces": [(now[label].components if label in now else 0) for label in thin],
        "source_pieces": [was[label].components for label in thin],
        "broken": sum(label not in now or now[label].components != was[label].components for label in was),
    }


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mask", type=Path, help="label map (default: a phantom)")
    parser.add_argument("--thin", type=int, nargs="*", default=[8], help="labels of vessels (8)")
    parser.add_argument("--shape", type=int, nargs=3, default=[256, 512, 512], help="of the phantom (256 512 512)")
    parser.add_argument("--rounds", type=int, default=3, help="masks of each method (3)")
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "SOURCE", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        method, source, seed = arguments.one
        print(json.dumps(measure(method, Path(source), int(seed))))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.npz"
        mask, spacing = load(arguments)
        thin = [label for label in arguments.thin if (mask == label).any()]
        np.savez(source, mask=mask, spacing=spacing, thin=np.array(thin, dtype=int))
        results: dict[str, list[dict[str, Any]]] = {
            name: [] for name, (module, _) in METHODS.items() if importlib.util.find_spec(module)
        }
        for seed in range(arguments.rounds):
            for name in results:
                command = [sys.executable, __file__, "--one", name, str(source), str(seed)]
                answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[name].append(json.loads(answer.splitlines()[-1]))
                print(name, seed, answer.splitlines()[-1], flush=True)
    print(f"\nmask {mask.shape}, spacing {tuple(round(s, 3) for s in spacing)} mm, medians of {arguments.rounds}")
    for name, runs in results.items():
        seconds, gigabytes = (median(run[key] for run in runs) for key in ("seconds", "gigabytes"))
        pieces = [piece for run in runs for piece in run["pieces"]]
        print(f"{name:<22}{seconds:8.1f} s {gigabytes:6.2f} GB   pieces of thin classes {pieces} "
              f"(source {runs[0]['source_pieces']}), classes broken {[run['broken'] for run in runs]}")  # fmt: skip


def load(arguments: argparse.Namespace) -> tuple[np.ndarray, tuple[float, ...]]:
    """The mask to deform and its spacing."""
    if arguments.mask:
        from fcas_nnunet.integration.dataset.volumes import read_volume

        volume = read_volume(arguments.mask)
        return volume.array.astype(np.uint8), tuple(np.linalg.norm(volume.affine[:3, :3], axis=0).tolist())
    from fcas_nnunet.datasets.phantom import phantom_case

    case = phantom_case("phantom", tuple(arguments.shape), 0)
    return case.mask, case.spacing_mm


if __name__ == "__main__":
    main()
