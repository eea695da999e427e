"""Measure resampling to the working grid and back: lost contrast, aliased detail, lost pieces of labels, seconds.

python scripts/benchmark_resampling.py contrast             # a thin vessel there and back, stripes, noise
python scripts/benchmark_resampling.py seconds              # 512 × 512 × 256 there and back, beside scipy
python scripts/benchmark_resampling.py pieces -n 3          # coronaries of fine phantoms on coarser grids
python scripts/benchmark_resampling.py pieces --maps a.nii.gz --thin 8
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom

from fcas_nnunet.case import spacing_of
from fcas_nnunet.datasets.phantom import LABELS, patient_seed, phantom_case
from fcas_nnunet.generator.data.spline_projection import project, spline_matrix
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.labels.anatomy import Structure, thin_label_ids
from fcas_nnunet.labels.components import label_components
from fcas_nnunet.labels.resampling import resample_labels

RATIOS = (0.667, 0.8, 0.9, 0.95, 1.02, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3)
PLACES = (-20.0, -9.3, 0.0, 7.7, 19.1)
WORKING_MM = (0.6, 0.8, 1.0, 1.26, 1.6, 2.0)
PHANTOM_SHAPE = (320, 320, 320)  # 0.4 mm

Shape = tuple[int, int, int]
Resample = Callable[[torch.Tensor, Shape], torch.Tensor]


def area(volume: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Averages over areas where the grid becomes coarser, cubic interpolation where it becomes finer."""
    if all(new <= old for new, old in zip(shape, volume.shape, strict=True)):
        return F.interpolate(volume[None, None], size=shape, mode="area")[0, 0]
    return cubic(volume, shape)


def cubic(volume: torch.Tensor, shape: Shape) -> torch.Tensor:
    """scipy's cubic splines, without any care for what folds over."""
    factors = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    return torch.from_numpy(zoom(volume.numpy(), factors, order=3, mode="nearest", grid_mode=True))


METHODS: dict[str, Resample] = {"area averages": area, "cubic": cubic, "projection": project}


def contrast() -> None:
    """Contrast kept by a vessel of σ 0.85 voxels there and back at five places; stripes and noise made 2.5× coarser."""
    d, h = np.mgrid[:64, :64] - 31.5
    print(f"| working / native spacing | {' | '.join(METHODS)} |")
    print("|---" * (1 + len(METHODS)) + "|")
    for ratio in RATIOS:
        size = round(64 / ratio)
        row = []
        for resample in METHODS.values():
            if resample is area and ratio < 1:
                row.append("–")
                continue
            kept = []
            for place in PLACES:
                profile = 300 * np.exp(-((d - place) ** 2 + (h - 0.8 * place) ** 2) / (2 * 0.85**2))
                vessel = torch.tensor(profile, dtype=torch.float32)[..., None].repeat(1, 1, 8)
                back = resample(resample(vessel, (size, size, 8)), (64, 64, 8))
                kept.append(float(back.max() / vessel.max()))
            row.append(f"{min(kept):.2f}–{max(kept):.2f}")
        print(f"| {ratio} | " + " | ".join(row) + " |")
    stripes = torch.tensor(np.tile(100.0 * (np.arange(80) % 2), (8, 80, 1)), dtype=torch.float32)
    noise = torch.randn(8, 80, 80, generator=torch.Generator().manual_seed(0)) * 20
    for name, resample in METHODS.items():
        after = [resample(volume, (20, 32, 32))[:, :, 4:28].std() for volume in (stripes, noise)]
        print(f"{name}: stripes of 0 and 100 HU leave ± {after[0]:.1f} HU, noise of 20 HU ± {after[1]:.1f} HU")


def seconds() -> None:
    """512 × 512 × 256 to a grid 1.1 times as coarse, and back, on one thread; processor time."""
    torch.set_num_threads(1)
    volume = torch.rand(256, 512, 512, generator=torch.Generator().manual_seed(0))
    small: Shape = (233, 465, 465)
    start = time.process_time()
    for size, new_size in {(256, 233), (512, 465)}:
        spline_matrix(size, new_size), spline_matrix(new_size, size)
    print(f"matrices, once a process: {time.process_time() - start:.1f} s")
    for name in ("projection", "cubic"):
        start = time.process_time()
        there = METHODS[name](volume, small)
        middle = time.process_time()
        METHODS[name](there, (256, 512, 512))
        print(f"{name}: there {middle - start:.1f} s, back {time.process_time() - middle:.1f} s", flush=True)


def pieces(num_phantoms: int, maps: list[Path], thin: list[int]) -> None:
    """Pieces of each label on its own grid, on coarser ones by nearest neighbours, and with thin structures whole."""
    for path in maps:
        volume = read_volume(path)
        count_pieces(path.name, volume.array.astype(np.uint8), spacing_of(volume.affine), thin)
    for number in range(0 if maps else num_phantoms):
        case = phantom_case("fine", PHANTOM_SHAPE, patient_seed(0, number))
        thin_ids = thin_label_ids(LABELS)
        assert thin_ids == [LABELS[Structure.CORONARY_ARTERIES]], "what is counted below"
        count_pieces(f"phantom {number}", case.mask, case.spacing_mm, thin_ids)


def count_pieces(name: str, labels: np.ndarray, spacing_mm: tuple[float, ...], thin: list[int]) -> None:
    """Print a line a working spacing."""
    ids = [int(label) for label in np.unique(labels) if label]

    def of(array: np.ndarray) -> str:
        return ", ".join(f"{label}: {label_components(array == label)[1]}" for label in ids)

    print(f"{name}, {labels.shape} of {', '.join(f'{mm:.2f}' for mm in spacing_mm)} mm: {of(labels)}")
    for working in WORKING_MM:
        a, b, c = (round(n * mm / working) for n, mm in zip(labels.shape, spacing_mm, strict=True))
        start = time.perf_counter()
        whole = resample_labels(labels, (a, b, c), thin)
        taken = time.perf_counter() - start
        volume = ", ".join(f"{(whole == i).mean() / (labels == i).mean():.2f}" for i in thin)
        print(f"  {working} mm: nearest {of(resample_labels(labels, (a, b, c)))}; whole {of(whole)}; "
              f"volume of the thin × {volume}; {taken:.1f} s", flush=True)  # fmt: skip


def main() -> None:
    """Run the requested measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["contrast", "seconds", "pieces"])
    parser.add_argument("-n", type=int, default=3, help="number of phantoms")
    parser.add_argument("--maps", type=Path, nargs="+", default=[], help="label maps instead of phantoms")
    parser.add_argument("--thin", type=int, nargs="*", default=[], help="their thin labels")
    args = parser.parse_args()
    if args.what == "pieces":
        pieces(args.n, args.maps, args.thin)
    else:
        {"contrast": contrast, "seconds": seconds}[args.what]()


if __name__ == "__main__":
    main()
