"""The report's viewer in a browser: opening it, its controls, and where a voxel must be drawn."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from report_sets import SHAPE, image_quality, write_result, write_sets

from fcas_nnunet.commands.report.command import main

PLANES = {"axial": (0, 2, 1, False), "coronal": (1, 2, 0, True), "sagittal": (2, 1, 0, True)}  # axis, u, v, turned


def write_page(folder: Path) -> Path:
    """The report of three cases against the real ones, with image quality."""
    synthetic, real = write_sets(folder)
    quality = write_result(folder / "quality.json", image_quality())
    output = folder / "report.html"
    main(["-d", str(synthetic), "--against", str(real), "--results", str(quality), "-o", str(output), "-np", "1"])
    return output


def open_viewer(page: Any) -> None:
    """Scroll to the viewer, which opens the first case."""
    page.evaluate("document.getElementById('viewer').scrollIntoView({behavior: 'instant'})")
    page.wait_for_function("document.getElementById('viewer').dataset.case")
    settle(page)


def settle(page: Any) -> None:
    """Until what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixels(page: Any, canvas: str) -> np.ndarray:
    """What a canvas shows, uint8 [side, side, 4]."""
    address = page.evaluate("(id) => document.getElementById(id).toDataURL('image/png')", canvas)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))


def slide(page: Any, plane: str, index: int) -> None:
    """Move a plane's slider."""
    page.evaluate(
        """([plane, index]) => { const s = document.getElementById(`slice-${plane}`);
        s.value = index; s.dispatchEvent(new Event("input")); }""",
        [plane, index],
    )


def box(axis: int) -> tuple[int, int]:
    """First voxel and size of the crop: the mask's box with 12 mm to each side, within the volume."""
    first, last = [(3, 17), (2, 19), (4, 23)][axis]
    margin = [6, 8, 12][axis]
    start, end = max(0, first - margin), min(SHAPE[axis], last + 1 + margin)
    return start, end - start


def place_of(page: Any, plane: str, voxel: tuple[int, int, int]) -> tuple[int, int]:
    """The pixel (x, y) in which a voxel [z, y, x] of the upright volume must be drawn."""
    _, u, v, is_turned = PLANES[plane]
    left, top, su, sv = map(float, page.get_attribute(f"#synthetic-{plane}", "data-place").split())
    across, down = voxel[u] - box(u)[0], voxel[v] - box(v)[0]
    if is_turned:
        down = box(v)[1] - 1 - down
    return int(left + (across + 0.5) * su), int(top + (down + 0.5) * sv)


def shown_grey(hu: float) -> float:
    """A HU under the preset "heart", −200 to 600 HU."""
    return 255 * (hu + 200) / 800
