"""The report in a browser: orientation, light, dark and phone, and what is there without JavaScript."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import opened
from PIL import Image
from report_browser import PLANES, box, open_viewer, pixels, place_of, settle, shown_grey, slide, write_page
from report_sets import HEART_HU, MARKER, MARKER_HU, NAME, REAL, SHAPE, record, turned, write_sets

from fcas_nnunet.commands.report.command import main
from fcas_nnunet.integration.dataset.manifest import Manifest

#: (file axis of z, y, x; whether it runs the other way): LPS as nnU-Net's arrays usually lie, RAS, and one all askew.
ORIENTATIONS = [((0, 1, 2), (False, False, False)), ((0, 1, 2), (False, True, True)), ((1, 2, 0), (True, False, True))]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS, ids=["LPS", "RAS", "askew"])
def test_a_voxel_is_where_the_body_has_it(
    tmp_path: Path, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    synthetic, _ = write_sets(tmp_path, num_cases=1, axes=axes, flips=flips)
    main(["-d", str(synthetic), "-o", str(tmp_path / "page.html"), "-np", "1"])
    centre = tuple((side.start + side.stop) // 2 for side in MARKER)
    with opened(tmp_path / "page.html", width=1400) as shown:
        page = shown.page
        open_viewer(page)
        page.keyboard.press("Tab")
        page.focus("#synthetic-axial")
        page.keyboard.press("m")
        page.keyboard.press("x")
        for axis, plane in enumerate(PLANES):
            slide(page, plane, centre[axis] - box(axis)[0])
        settle(page)
        for plane, (_, u, v, _) in PLANES.items():
            drawn = pixels(page, f"synthetic-{plane}")[..., 0].astype(float)
            x, y = place_of(page, plane, centre)
            middle = len(drawn) / 2
            # The patient's left is on the right, the front on top, the head on top; sagittal: the front on the left.
            assert (x > middle, y < middle) == (plane != "sagittal", True)
            assert drawn[y, x] == pytest.approx(shown_grey(MARKER_HU), abs=1)
            mirrored = list(centre)
            mirrored[u], mirrored[v] = 27 - centre[u] if u == 2 else 23 - centre[u], 20 - centre[v]
            x, y = place_of(page, plane, (mirrored[0], mirrored[1], mirrored[2]))
            assert drawn[y, x] == pytest.approx(shown_grey(HEART_HU), abs=1)
            letters = page.eval_on_selector_all(
                f"figure:has(#synthetic-{plane}) .letter", "(all) => all.map((e) => [e.className, e.textContent])"
            )
            sides = {"axial": "APRL", "coronal": "SIRL", "sagittal": "SIAP"}[plane]
            expected = [f"letter {side}" for side in ("top", "bottom", "left", "right")]
            assert letters == [list(pair) for pair in zip(expected, sides, strict=True)]
        # The file's own index of that voxel, found by turning a volume that holds one voxel.
        single = np.zeros(SHAPE, dtype=np.uint8)
        single[centre] = 1
        index = tuple(int(i) for i in np.argwhere(turned(single, axes, flips))[0])
        readout = page.inner_text("#readout")
        assert f"{MARKER_HU} HU" in readout
        assert "left ventricle" in readout
        assert "confidence 0.90" in readout
        assert f"voxel ({index[0]}, {index[1]}, {index[2]})" in readout
        assert shown.complaints == []


def spread(picture: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(picture)).convert("L")).std())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_panel_shows_something_in_light_and_dark(page_file: Path, dark: bool) -> None:
    with opened(page_file, dark=dark) as shown:
        page: Any = shown.page
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(14, 17, 19)" if dark else "rgb(251, 251, 249)")
        ink = page.evaluate("getComputedStyle(document.querySelector('.chart .real')).stroke")
        assert ink == ("rgb(244, 246, 247)" if dark else "rgb(21, 24, 27)")
        open_viewer(page)
        panels = page.query_selector_all(".check, .card, .panel, .scroll, .frame")
        visible = [panel for panel in panels if panel.is_visible()]
        assert len(visible) > 20
        assert min(spread(panel.screenshot()) for panel in visible) > 4
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
        assert shown.complaints == []


def test_a_phone_shows_it_without_scrolling_sideways(page_file: Path) -> None:
    with opened(page_file, width=360, height=740) as shown:
        page: Any = shown.page
        open_viewer(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator("#synthetic-axial").bounding_box()["width"] > 300
        assert not page.is_visible("#row-beside")  # a phone decodes the real scan only when it is asked for
        assert shown.complaints == []


def test_on_paper_it_is_black_on_white_even_from_a_dark_screen(page_file: Path) -> None:
    with opened(page_file, width=800, dark=True) as shown:
        page: Any = shown.page
        open_viewer(page)
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(0, 0, 0)"
        assert not page.is_visible(".controls")
        assert page.is_visible("#synthetic-axial")


def test_without_javascript_there_are_pictures_and_numbers(page_file: Path) -> None:
    with opened(page_file, javascript=False) as shown:
        page: Any = shown.page
        stills = page.query_selector_all("img.still")
        assert len(stills) == 3
        assert not page.is_visible(".card > img")  # each still takes the place of its strip
        assert min(spread(still.screenshot()) for still in stills) > 20
        assert "left ventricle" in page.inner_text("#structure-table")
        assert "needs JavaScript" in page.inner_text("#viewer")
        assert not page.is_visible("#stage")


def test_every_control_has_a_name(page_file: Path) -> None:
    with opened(page_file, width=1400) as shown:
        page: Any = shown.page
        open_viewer(page)
        nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, select, img, canvas, svg")]
            .filter((e) => !(e.getAttribute("aria-label") || e.alt || e.textContent.trim() || e.labels?.length))
            .map((e) => e.outerHTML.slice(0, 80))""")
        assert nameless == []
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    synthetic, _ = write_sets(tmp_path, num_cases=1, manifest=False)
    evil = "</script><img src=x onerror=\"document.title='run'\">"
    Manifest(synthetic).append(record("fcas_00000", 0, template=evil, preset=evil))
    main(["-d", str(synthetic), "-o", str(tmp_path / "page.html"), "-np", "1"])
    with opened(tmp_path / "page.html") as shown:
        page: Any = shown.page
        open_viewer(page)
        assert page.title() == f"{NAME} – report"
        assert evil in page.inner_text(".lede")
        assert page.query_selector("img[src=x]") is None
        assert shown.complaints == []


def test_the_page_names_both_sets_and_its_verdict(page_file: Path) -> None:
    with opened(page_file) as shown:
        page: Any = shown.page
        assert page.inner_text("h1") == NAME
        assert f"Measured against {REAL}" in page.inner_text(".lede")
        assert "Not yet worth training on" in page.inner_text("#verdict")  # three cases
