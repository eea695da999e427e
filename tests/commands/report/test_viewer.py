"""The report's viewer in a browser: what wheel, keys, pointer and buttons change in the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from browser import OpenPage, opened
from report_browser import PLANES, box, open_viewer, pixels, place_of, settle, shown_grey, slide, write_page
from report_sets import HEART_HU, MARKER, MARKER_HU


@pytest.fixture(scope="module")
def wide_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenPage]:
    with opened(write_page(tmp_path_factory.mktemp("report")), width=1400) as shown:
        yield shown


@pytest.fixture
def viewer(wide_page: OpenPage) -> Iterator[OpenPage]:
    page: Any = wide_page.page
    page.reload()
    open_viewer(page)
    yield wide_page
    assert wide_page.complaints == []


def test_wheel_keys_and_slider_change_the_slice(viewer: OpenPage) -> None:
    page: Any = viewer.page
    depth = box(0)[1]
    start = int(page.input_value("#slice-axial"))
    assert page.inner_text("#label-axial") == f"{start + 1} / {depth}"
    before = pixels(page, "synthetic-axial")
    page.hover("#synthetic-axial")
    page.mouse.wheel(0, -120)
    settle(page)
    assert page.inner_text("#label-axial") == f"{start + 2} / {depth}"
    page.focus("#synthetic-axial")
    page.keyboard.press("ArrowDown")
    settle(page)
    assert page.inner_text("#label-axial") == f"{start + 1} / {depth}"
    np.testing.assert_array_equal(pixels(page, "synthetic-axial"), before)
    slide(page, "axial", 0)  # below the heart
    settle(page)
    outside = pixels(page, "synthetic-axial")
    assert (outside != before).any()
    assert page.inner_text("#label-axial") == f"1 / {depth}"
    page.keyboard.press("PageUp")
    settle(page)
    assert page.inner_text("#label-axial") == f"11 / {depth}"
    page.focus("#synthetic-sagittal")
    at = int(page.input_value("#slice-sagittal"))
    page.keyboard.press("ArrowUp")
    settle(page)
    assert page.inner_text("#label-sagittal") == f"{at + 2} / {box(2)[1]}"


def test_a_click_moves_the_crosshair_of_all_planes(viewer: OpenPage) -> None:
    page: Any = viewer.page
    centre = tuple((side.start + side.stop) // 2 for side in MARKER)
    slide(page, "axial", centre[0] - box(0)[0])
    settle(page)
    x, y = place_of(page, "axial", centre)
    frame = page.locator("#synthetic-axial").bounding_box()
    page.mouse.click(frame["x"] + x, frame["y"] + y)
    settle(page)
    found = [int(page.input_value(f"#slice-{plane}")) + box(axis)[0] for axis, plane in enumerate(PLANES)]
    assert tuple(found) == centre
    assert f"{MARKER_HU} HU" in page.inner_text("#readout")


@pytest.mark.parametrize("control", ["mask", "outline", "confidence"])
def test_overlays_come_and_go_without_a_trace(viewer: OpenPage, control: str) -> None:
    page: Any = viewer.page
    before = {plane: pixels(page, f"synthetic-{plane}") for plane in PLANES}
    page.click(f"#{control}")
    settle(page)
    changed = {plane: pixels(page, f"synthetic-{plane}") for plane in PLANES}
    assert all((changed[plane] != before[plane]).any() for plane in PLANES)
    page.click(f"#{control}")
    settle(page)
    for plane in PLANES:
        np.testing.assert_array_equal(pixels(page, f"synthetic-{plane}"), before[plane])


def test_a_structure_can_be_taken_out_of_the_mask(viewer: OpenPage) -> None:
    page: Any = viewer.page
    page.click("#outline")  # filled
    page.keyboard.press("x")
    settle(page)
    before = pixels(page, "synthetic-axial")
    page.click('#legend [data-label="1"]')
    settle(page)
    after = pixels(page, "synthetic-axial")
    x, y = place_of(page, "axial", (0, 12, 12))
    assert (before[y, x] != after[y, x]).any()
    assert (after[y, x, :3] == round(shown_grey(HEART_HU))).all()
    page.click('#legend [data-label="1"]')
    settle(page)
    np.testing.assert_array_equal(pixels(page, "synthetic-axial"), before)


def test_the_confidence_overlay_has_the_colour_of_its_legend(viewer: OpenPage) -> None:
    page: Any = viewer.page
    page.click("#mask")
    page.click("#confidence")
    page.evaluate("""() => { const s = document.getElementById("confidence-opacity");
        s.value = 100; s.dispatchEvent(new Event("input")); }""")
    page.focus("#synthetic-axial")
    page.keyboard.press("x")
    settle(page)
    colour = page.evaluate("JSON.parse(document.getElementById('viewer-data').textContent).confidenceColours[230]")
    x, y = place_of(page, "axial", (0, 12, 12))  # confidence 0.9 is 229.5, rounded to even: 230
    shown = pixels(page, "synthetic-axial")[y, x, :3]
    assert "#{:02x}{:02x}{:02x}".format(*shown) == colour


def test_the_window_changes_by_preset_and_by_the_right_button(viewer: OpenPage) -> None:
    page: Any = viewer.page
    page.click("#mask")
    page.focus("#synthetic-axial")
    page.keyboard.press("x")
    page.click('[data-window="wide"]')
    settle(page)
    x, y = place_of(page, "axial", (0, 12, 12))
    # 100 HU lies 300 HU, 72 grey values of 4 1/6 HU, above −200.
    assert pixels(page, "synthetic-axial")[y, x, 0] == pytest.approx(255 * (HEART_HU + 1000) / 2000, abs=1)
    assert page.inner_text("#width-value") == "2000 HU"
    frame = page.locator("#synthetic-axial").bounding_box()
    page.mouse.move(frame["x"] + 100, frame["y"] + 100)
    page.mouse.down(button="right")
    page.mouse.move(frame["x"] + 50, frame["y"] + 150)
    page.mouse.up(button="right")
    settle(page)
    assert (page.inner_text("#width-value"), page.inner_text("#level-value")) == ("1800 HU", "100 HU")


def test_the_real_scans_lie_beside_and_follow(viewer: OpenPage) -> None:
    page: Any = viewer.page
    page.click("#next")
    page.wait_for_function("document.getElementById('viewer').dataset.case === 'fcas_00001'")
    page.click('#beside [data-role="reference"]')
    page.wait_for_function("document.getElementById('title-beside').textContent.includes('reference real_1')")
    settle(page)
    assert "same voxel" in page.inner_text("#beside-note")
    for key in ("m", "x"):
        page.focus("#synthetic-axial")
        page.keyboard.press(key)
    settle(page)
    x, y = place_of(page, "axial", (0, 12, 12))
    assert pixels(page, "synthetic-axial")[y, x, 0] == pytest.approx(shown_grey(HEART_HU + 10), abs=1.5)
    assert pixels(page, "beside-axial")[y, x, 0] == pytest.approx(shown_grey(HEART_HU + 20), abs=1.5)
    page.click('#beside [data-role="none"]')
    page.wait_for_function("document.getElementById('row-beside').hidden")


def test_cases_open_by_picture_picker_and_key(viewer: OpenPage) -> None:
    page: Any = viewer.page
    page.select_option("#case", label="fcas_00002")
    page.wait_for_function("document.getElementById('viewer').dataset.case === 'fcas_00002'")
    page.focus("#synthetic-axial")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.getElementById('viewer').dataset.case === 'fcas_00000'")
    page.click('.card[data-open="fcas_00002"]')
    page.wait_for_function("document.getElementById('viewer').dataset.case === 'fcas_00002'")


def test_a_finger_swipes_through_slices_and_taps_the_crosshair(viewer: OpenPage) -> None:
    page: Any = viewer.page
    page.click('#beside [data-role="none"]')
    page.wait_for_function("document.getElementById('row-beside').hidden")
    centre = tuple((side.start + side.stop) // 2 for side in MARKER)
    slide(page, "axial", centre[0] - box(0)[0] - 5)
    settle(page)
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    x, y = place_of(page, "axial", centre)
    frame = page.locator("#synthetic-axial").bounding_box()
    x, y = frame["x"] + x, frame["y"] + y

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": across, "y": down} for across, down in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (x, y))
    touch("touchMove", (x - 12, y))
    touch("touchMove", (x - 30, y))  # six pixels a slice
    touch("touchMove", (x + 30, y))
    touch("touchEnd")
    settle(page)
    assert int(page.input_value("#slice-axial")) + box(0)[0] == centre[0]
    touch("touchStart", (x, y))
    touch("touchEnd")
    settle(page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
    found = [int(page.input_value(f"#slice-{plane}")) + box(axis)[0] for axis, plane in enumerate(PLANES)]
    assert tuple(found) == centre
