"""Compare a generator's images with real scans: masks of held-out phantoms, drawn from several templates.

Four numbers a column, in HU unless another unit is named:
  heart      RMSE inside the labels; most of it is the patient's contrast, which no mask tells
  matched    the same after each label's mean error is taken out
  coronary   mean over the arteries minus mean over what lies 2-3 voxels beside them
  slope      label means against the template's, over all pairs: 1 = contrast follows the template, 0 = it does not
Rows: the autoencoder's round trip (the ceiling), the class means of the training set painted into the mask (the trivial
rival), the generator with a training case as template, and with the held-out patient's own scan as template.

    fcas_phantom -d 901 -n 16 && fcas_train -d 901 --preset cpu
    python scripts/measure_generator.py -d 901 --preset cpu
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from fcas_nnunet.case import Case
from fcas_nnunet.commands.train import model_folder
from fcas_nnunet.config.presets import PRESETS, preset
from fcas_nnunet.datasets.phantom import LABELS, patient_seed, phantom_case
from fcas_nnunet.generator.checkpoint import Generator, load_generator
from fcas_nnunet.generator.data.grid import WorkingGrid, to_standard_range, to_unit_range
from fcas_nnunet.generator.drawing import draw_image, guide
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

CORONARY = LABELS["coronary_arteries"]
CHAMBERS = [label for label in LABELS.values() if label != CORONARY]


@dataclass
class Row:
    """Measurements of one way to make images."""

    heart: list[float]
    matched: list[float]
    coronary: list[float]
    drawn: list[np.ndarray]
    wanted: list[np.ndarray]

    @classmethod
    def empty(cls) -> Row:
        return cls([], [], [], [], [])

    def add(self, image: np.ndarray, real: np.ndarray, mask: np.ndarray, wanted: np.ndarray) -> None:
        inside = mask > 0
        corrected = image.copy()
        for label in LABELS.values():
            corrected[mask == label] += real[mask == label].mean() - image[mask == label].mean()
        self.heart.append(_rmse(image, real, inside))
        self.matched.append(_rmse(corrected, real, inside))
        self.coronary.append(coronary_contrast(image, mask))
        self.drawn.append(label_means(image, mask))
        self.wanted.append(wanted)

    @property
    def slope(self) -> float:
        drawn, wanted = (np.array(v) - np.mean(v, axis=0) for v in (self.drawn, self.wanted))
        return float((drawn * wanted).sum() / (wanted**2).sum())

    def line(self, title: str) -> str:
        return (
            f"{title:<42}{np.mean(self.heart):>8.0f}{np.mean(self.matched):>9.0f}"
            f"{np.mean(self.coronary):>10.0f}{self.slope:>8.2f}"
        )


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set the generator was trained on")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--patients", type=int, default=4, help="held-out patients (4)")
    parser.add_argument("--start", type=int, default=1000, help="number of the first (1000)")
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 64, 64])
    parser.add_argument("--templates", type=int, default=3, help="training cases used as templates (3)")
    arguments = parser.parse_args()
    source = RawDataset.open(resolve_dataset(arguments.d))
    generator = load_generator(model_folder(source, preset(arguments.preset)), torch.device("cpu"))
    templates = [source.load_case(case_id) for case_id in source.case_ids[: arguments.templates]]
    d, h, w = arguments.shape
    patients = [
        phantom_case(f"held_out_{i}", (d, h, w), patient_seed(0, i))
        for i in range(arguments.start, arguments.start + arguments.patients)
    ]
    rows = measure(generator, patients, templates, class_means(source))
    real = np.mean([coronary_contrast(clipped(p, generator), p.mask) for p in patients])
    print(f"{'':<42}{'heart':>8}{'matched':>9}{'coronary':>10}{'slope':>8}   (real coronary contrast {real:.0f})")
    for title, row in rows.items():
        print(row.line(title))


def measure(generator: Generator, patients: list[Case], templates: list[Case], paint: np.ndarray) -> dict[str, Row]:
    """All rows of the table."""
    names = (
        "autoencoder round trip",
        "class-mean paint",
        "template: a training case",
        "template: the patient's own scan",
    )
    rows = {name: Row.empty() for name in names}
    for number, patient in enumerate(patients):
        real, mask = clipped(patient, generator), patient.mask
        own = label_means(real, mask)
        rows[names[0]].add(round_trip(generator, patient), real, mask, own)
        rows[names[1]].add(paint[mask], real, mask, own)
        for template in templates:
            image = synthesised(generator, patient, template, number)
            rows[names[2]].add(image, real, mask, label_means(clipped(template, generator), template.mask))
        rows[names[3]].add(synthesised(generator, patient, patient, number), real, mask, own)
    return rows


def round_trip(generator: Generator, case: Case) -> np.ndarray:
    """A scan encoded and decoded, in HU."""
    assert case.image is not None
    intensity_range = generator.record.config.grid.intensity_range
    record = generator.record
    grid = WorkingGrid.of_case(case, record.working_spacing_mm, record.tcdm)
    unit = to_unit_range(grid.image_to_working(case.image), intensity_range)[None]
    with torch.inference_mode():
        decoded = generator.autoencoder.decode(generator.autoencoder.encode(unit)[0])[0]
    return grid.image_to_native(to_standard_range(decoded, intensity_range))[0]


def synthesised(generator: Generator, patient: Case, template: Case, seed: int) -> np.ndarray:
    """The patient's mask drawn from a template, in HU."""
    reference = Case(patient.case_id, None, patient.mask, patient.affine)
    guided = guide(generator.record, patient, template)
    return draw_image(generator, reference, guided, seed, torch.device("cpu"), torch.float32).image[0]


def class_means(source: RawDataset) -> np.ndarray:
    """Mean HU by label over the training set; [number of labels + 1]."""
    means = [[_mean(_only(case), case.mask == label) for label in range(len(LABELS) + 1)] for case in _cases(source)]
    return np.mean(means, axis=0)


def clipped(case: Case, generator: Generator) -> np.ndarray:
    """The scan within the generator's range of HU."""
    return np.clip(_only(case), *generator.record.config.grid.intensity_range).astype(np.float32)


def label_means(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean HU of every label but the coronaries."""
    return np.array([_mean(image, mask == label) for label in CHAMBERS])


def coronary_contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """HU of the coronary arteries over their surroundings."""
    arteries = mask == CORONARY
    beside = binary_dilation(arteries, iterations=3) & ~binary_dilation(arteries, iterations=1) & (mask == 0)
    return _mean(image, arteries) - _mean(image, beside)


def _cases(source: RawDataset) -> Iterator[Case]:
    return (source.load_case(case_id) for case_id in source.case_ids)


def _only(case: Case) -> np.ndarray:
    """The only channel, [D, H, W]."""
    assert case.image is not None
    return case.image[0]


def _mean(image: np.ndarray, where: np.ndarray) -> float:
    return float(image[where].mean())


def _rmse(image: np.ndarray, real: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(((image - real)[where] ** 2).mean()))


if __name__ == "__main__":
    main()
