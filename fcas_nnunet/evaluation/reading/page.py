"""Render the page of a reading: one HTML file with everything in it, which names no method and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fcas_nnunet.config.files import to_dict
from fcas_nnunet.evaluation.reading.protocol import Protocol
from fcas_nnunet.evaluation.reading.scores import SCORES_SCHEMA, SCORES_VERSION
from fcas_nnunet.evaluation.reading.shown import GREYS, windows_for
from fcas_nnunet.evaluation.viewing.atlas import Atlas
from fcas_nnunet.evaluation.viewing.colours import HEART_WINDOW, label_colours
from fcas_nnunet.evaluation.viewing.templates import page_environment
from fcas_nnunet.geometry import Triple
from fcas_nnunet.intensities import CT_UNIT


@dataclass(frozen=True)
class ShownBag:
    """A bag on the page."""

    bag_id: str  # `bag-01`
    shape: Triple[int]  # voxels along (Z, Y, X) of the grid that all its volumes share
    spacing_mm: Triple[float]  # voxel size of that grid
    images: dict[str, Atlas]  # letter → volume
    mask: Atlas | None  # the label map that all share, where there is one
    window: tuple[float, float] = HEART_WINDOW  # low and high of the window to show it in

    @property
    def atlases(self) -> dict[str, Atlas]:
        """All volumes by name; the mask is called `mask`."""
        return self.images | ({"mask": self.mask} if self.mask else {})


def render_page(
    protocol: Protocol, reading_id: str, bags: Sequence[ShownBag], labels: Mapping[str, int], unit: str = CT_UNIT
) -> str:
    """Render the page as HTML: bags in the order in which they are read, labels (name → id) without the background."""
    data = {
        "schema": SCORES_SCHEMA,
        "schema_version": SCORES_VERSION,
        "reading_id": reading_id,
        "protocol": to_dict(protocol),
        "greyKnots": GREYS.knots,
        "greyValues": GREYS.values,
        "unit": unit,
        "windows": windows_for([bag.window for bag in bags], unit),
        "labels": [
            {"id": labels[name], "name": name.replace("_", " "), "colour": colour}
            for name, colour in label_colours(labels).items()
        ],
        "bags": [
            {
                "id": bag.bag_id,
                "shape": bag.shape,
                "spacing_mm": bag.spacing_mm,
                "letters": list(bag.images),
                "atlases": {name: atlas.layout for name, atlas in bag.atlases.items()},
            }
            for bag in bags
        ],
    }
    payloads = [
        {"id": f"{bag.bag_id}-{name}", "base64": atlas.base64} for bag in bags for name, atlas in bag.atlases.items()
    ]
    template = page_environment("fcas_nnunet.evaluation.reading").get_template("reading.html")
    return template.render(protocol=protocol, reading_id=reading_id, num_bags=len(bags), data=data, payloads=payloads)
