"""The page of a reading: one HTML file with everything in it, that names no method and asks no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from fcas_nnunet.config.files import to_dict
from fcas_nnunet.evaluation.reading.protocol import Protocol
from fcas_nnunet.evaluation.reading.scores import SCORES_SCHEMA, SCORES_VERSION
from fcas_nnunet.evaluation.viewing.views import HIGH_HU, LOW_HU, Atlas, Frame

_TEMPLATE = "reading.html"


@dataclass(frozen=True)
class ShownBag:
    """A bag on the page.

    Attributes:
        bag_id: `bag-01`.
        frame: the grid that all its volumes share.
        images: letter → volume.
        mask: the label map that all share, where there is one.
    """

    bag_id: str
    frame: Frame
    images: dict[str, Atlas]
    mask: Atlas | None


def render_page(protocol: Protocol, reading_id: str, bags: Sequence[ShownBag], labels: Mapping[str, int]) -> str:
    """Write the page's HTML.

    Args:
        protocol: what readers are asked.
        reading_id: ties the scores to this page.
        bags: in the order in which they are read.
        labels: name → id of what the masks hold, background left out.
    """
    environment = Environment(
        loader=PackageLoader("fcas_nnunet.evaluation.reading", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = {
        "schema": SCORES_SCHEMA,
        "schema_version": SCORES_VERSION,
        "reading_id": reading_id,
        "protocol": to_dict(protocol),
        "low_hu": LOW_HU,
        "high_hu": HIGH_HU,
        "labels": [{"id": label_id, "name": name.replace("_", " ")} for name, label_id in labels.items()],
        "bags": [
            {
                "id": bag.bag_id,
                "shape": bag.frame.shape,
                "spacing_mm": bag.frame.spacing_mm,
                "letters": list(bag.images),
                "atlases": {name: _layout(atlas) for name, atlas in _atlases(bag).items()},
            }
            for bag in bags
        ],
    }
    payloads = [
        {"id": f"{bag.bag_id}-{name}", "base64": base64.b64encode(atlas.data).decode("ascii")}
        for bag in bags
        for name, atlas in _atlases(bag).items()
    ]
    template = environment.get_template(_TEMPLATE)
    return template.render(protocol=protocol, reading_id=reading_id, num_bags=len(bags), data=data, payloads=payloads)


def _atlases(bag: ShownBag) -> dict[str, Atlas]:
    return bag.images | ({"mask": bag.mask} if bag.mask else {})


def _layout(atlas: Atlas) -> dict[str, object]:
    return {"type": atlas.media_type, "columns": atlas.columns, "tile": atlas.tile}
