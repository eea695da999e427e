"""Picture one mask as each source shows it: the real scan that the mask comes from, drawn, warped, painted.

    fcas_phantom -d 906 -n 16 && fcas_phantom -d 907 -n 16 --modality MRI
    for source in drawn warped painted; do
        fcas_generate -d 906 -o $((id += 1)) -n 4 --preset cpu --source $source   # id=910 before; the same for 907
    done
    python scripts/picture_sources.py 906:911,912,913 907:914,915,916 -o docs/images/sources.png

Each row is a real data set and its synthetic sets, made with the same seed, so that their masks are the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.evaluation.viewing.colours import label_map
from fcas_nnunet.evaluation.viewing.frame import frame_of
from fcas_nnunet.evaluation.viewing.pictures import middle
from fcas_nnunet.files import PICTURE_METADATA, atomic_path
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume

_PANEL_INCHES, _DOTS_PER_INCH = 2.2, 130
_SHOWN_PERCENT = (1.0, 99.5)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="REAL:SYN,SYN,...", help="a real data set and its synthetic sets")
    parser.add_argument("--number", type=int, default=0, help="which synthetic case of each set (0)")
    parser.add_argument(
        "--titles", nargs="+", metavar="TITLE", help="of the synthetic sets of each row (their sources)"
    )
    parser.add_argument("-o", required=True, type=Path, metavar="FILE.png")
    args = parser.parse_args()
    rows = [_panels(*row.split(":"), args.number, args.titles) for row in args.rows]
    columns = max(map(len, rows))
    figure = Figure(figsize=(columns * _PANEL_INCHES, len(rows) * (_PANEL_INCHES + 0.2)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panels in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axis, (title, image, mask, colours) in zip(axes, panels, strict=True):
            low, high = np.percentile(image, _SHOWN_PERCENT)
            axis.imshow(image, cmap="gray", vmin=low, vmax=high)
            if colours is not None:
                axis.imshow(np.ma.masked_equal(mask, 0), cmap=colours, vmin=1, vmax=colours.N, interpolation="nearest")
            for label in set(np.unique(mask)) - {0}:
                axis.contour(mask == label, levels=[0.5], colors="white", linewidths=0.4, alpha=0.7)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    with atomic_path(args.o) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png", metadata=PICTURE_METADATA)


def _panels(real_name: str, synthetic_names: str, number: int, titles: Sequence[str] | None) -> list[tuple]:
    """Title, image [H, W], mask [H, W] and the mask's colours, None where it is an outline, of a row's panels."""
    real = RawDataset.open(resolve_dataset(real_name))
    panels, first = [], None
    names = synthetic_names.split(",")
    for name, title in zip(names, titles or [None] * len(names), strict=True):
        dataset = RawDataset.open(resolve_dataset(name))
        case_id = dataset.case_ids[number]
        record = Manifest(dataset.folder).read()[case_id]
        mask = read_volume(dataset.mask_path(case_id))
        upright = frame_of(mask.array, mask.affine).upright
        if first is None:
            first, height = mask.array, middle(upright(mask.array))[0]
            reference = record["reference"]
            labels = upright(read_volume(real.mask_path(reference)).array)[height]
            scan = upright(read_volume(real.image_paths(reference)[0]).array)[height]
            panels.append((f"{real.channel_name}: real scan", scan, labels, None))
            panels.append(("new mask (MGM)", np.zeros_like(scan), upright(mask.array)[height], label_map(real.labels)))
        if not np.array_equal(mask.array, first):
            raise SystemExit(f"{dataset.name}: masks must be those of the row's first set. Take the same seed.")
        image = read_volume(dataset.image_paths(case_id)[0]).array
        panels.append((title or str(ScanSource.of(record)), upright(image)[height], upright(mask.array)[height], None))
    return panels


if __name__ == "__main__":
    main()
