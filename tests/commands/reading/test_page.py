"""The reading's page in a browser: images in step, scores that last, and a file that unblinds to what was given."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import OpenPage, opened
from PIL import Image
from reading_cases import SHIFTS, Prepared, prepare, write_sets

from fcas_nnunet.commands.reading.command import run

PICTURES = "() => [...document.querySelectorAll('.panel canvas')].map((canvas) => canvas.toDataURL().split(',')[1])"
READY = "() => viewer.shown && document.querySelector('.panel i').textContent"


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("reading")
    return prepare(write_sets(root), root / "out", "--seed", "5")


@pytest.fixture
def shown(reading: Prepared) -> Iterator[OpenPage]:
    with opened(reading.page) as page:
        yield page
        assert page.complaints == []


def begin(page: Any, name: str = "Dr. Ada Example") -> None:
    page.fill("#reader-name", name)
    page.fill("#reader-experience", "radiologist, 12 years")
    page.click("#begin")
    page.wait_for_function(READY)


def panels(page: Any) -> list[np.ndarray]:
    """The green of every panel as it is drawn, [H, W]."""
    page.wait_for_timeout(100)  # a frame to draw
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in page.evaluate(PICTURES)]
    return [np.asarray(picture.convert("RGB"))[..., 1].astype(int) for picture in pictures]


def give(page: Any, letter: str, criterion: str, score: int) -> None:
    page.locator(f"label:has(> input[name='{letter}-{criterion}'][value='{score}'])").click()


def test_every_panel_shows_its_own_image(shown: OpenPage, reading: Prepared) -> None:
    begin(shown.page)
    letters = reading.key["bags"]["bag-01"]["letters"]
    assert shown.page.locator(".panel figcaption").all_text_contents() == list(letters) == ["A", "B", "C"]
    pictures = {letters[letter]["method"]: p for letter, p in zip(letters, panels(shown.page), strict=True)}
    assert all(picture.std() > 30 for picture in pictures.values())
    # One anatomy in one window (800 HU in 255 steps): where the real scan is neither black nor white, so is the shift.
    grey = (pictures["real"] > 60) & (pictures["real"] < 190)
    for method, shift in SHIFTS.items():
        difference = np.median(pictures[method][grey] - pictures["real"][grey])
        assert difference == pytest.approx(shift * 255 / 800, abs=3), method


def test_wheel_keys_and_slider_move_all_images(shown: OpenPage) -> None:
    page = shown.page
    begin(page)
    before, slice_before = panels(page), int(page.input_value("#slice"))
    page.locator(".panel canvas").first.hover()
    page.mouse.wheel(0, 120)
    page.wait_for_timeout(100)
    assert int(page.input_value("#slice")) == slice_before - 3
    after = panels(page)
    assert all(np.abs(a - b).mean() > 1 for a, b in zip(after, before, strict=True))
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    assert all(np.array_equal(a, b) for a, b in zip(panels(page), before, strict=True))
    page.locator("#slice").fill("2")
    assert page.text_content("#slice-text").startswith("3 / ")
    page.keyboard.press("Tab")  # out of the slider
    page.keyboard.press("c")
    assert page.is_checked("#planes input >> nth=1")
    coronal = panels(page)
    page.keyboard.press("w")
    assert "350 HU" in page.text_content("#level-text")
    assert np.median(panels(page)[0]) <= np.median(coronal[0])


def test_contours_are_the_same_on_every_image(shown: OpenPage) -> None:
    page = shown.page
    begin(page)
    plain = panels(page)
    page.keyboard.press("m")
    assert page.get_attribute("#contours", "aria-pressed") == "true"
    assert page.locator("#legend li").first.text_content() == "left myocardium"
    changed = [np.abs(a - b) > 40 for a, b in zip(panels(page), plain, strict=True)]
    assert all(100 < one.sum() < 0.2 * one.size for one in changed)
    page.keyboard.press("m")
    assert all(np.array_equal(a, b) for a, b in zip(panels(page), plain, strict=True))


def test_scores_outlive_a_reload(shown: OpenPage) -> None:
    page = shown.page
    begin(page)
    give(page, "B", "visual_realism", 4)
    page.fill("#comment", "steps in <b>B</b>")
    page.reload()
    page.wait_for_function(READY)
    assert page.locator("#reader-dialog[open]").count() == 0
    assert page.is_checked("input[name='B-visual_realism'][value='4']")
    assert page.input_value("#comment") == "steps in <b>B</b>"
    assert page.text_content("#reader-line") == "Dr. Ada Example · radiologist, 12 years"
    assert "14 of 15 scores to give" in page.text_content("#bag-state")


def test_keyboard_alone_scores_a_bag_and_turns_to_the_next(shown: OpenPage) -> None:
    page = shown.page
    page.keyboard.type("K. Board")
    page.keyboard.press("Enter")
    page.wait_for_function(READY)
    for score in "345" * 5:
        page.keyboard.press(score)
    assert page.text_content("#bag-state") == "Bag 1 is complete."
    assert page.locator(".rank").all_text_contents() == ["Rank 3", "Rank 2", "Rank 1"]
    page.keyboard.press("n")
    assert page.get_attribute("#bags button >> nth=1", "aria-current") == "true"
    assert page.get_attribute("#bags button >> nth=0", "data-state") == "complete"


def test_equal_totals_wait_for_a_decision(shown: OpenPage) -> None:
    page = shown.page
    begin(page)
    for score in "335" * 5:
        page.keyboard.press(score)
    assert page.locator(".rank").all_text_contents() == ["Rank 2–3", "Rank 2–3", "Rank 1"]
    assert "equal totals wait" in page.text_content("#bag-state")
    page.click(".tie >> text='No difference'")
    assert page.text_content("#bag-state") == "Bag 1 is complete."
    page.click(".tie >> text='Change'")
    page.locator(".tie button", has_text=re.compile("^B$")).click()
    assert page.locator(".rank").all_text_contents() == ["Rank 3", "Rank 2", "Rank 1"]


def test_what_is_saved_unblinds_to_what_was_given(reading: Prepared, tmp_path: Path) -> None:
    """Round trip with the key's permutation: scores by method go in, the same come out."""
    criteria = [criterion["key"] for criterion in reading.key["protocol"]["criteria"]]
    given = {"Zylindrix": [5, 4, 5, 4, 5], "real": [5, 5, 4, 4, 4], "Quastenflosser": [1, 2, 1, 2, 3]}
    with opened(reading.page) as shown:
        page = shown.page
        begin(page, "Ada")
        for number, bag in enumerate(reading.key["bags"].values()):
            page.click(f"#bags button >> nth={number}")
            for letter, entry in bag["letters"].items():
                for criterion, score in zip(criteria, given[entry["method"]], strict=True):
                    give(page, letter, criterion, score)
        assert page.text_content("#progress-text") == "2 of 2 bags complete"
        with page.expect_download() as download:
            page.click("#save")
        assert download.value.suggested_filename == "scores_Ada.json"
        saved = tmp_path / "scores_Ada.json"
        download.value.save_as(saved)
        assert "All bags are complete" in page.text_content("#notice")
        assert shown.complaints == []
    run(["results", "-k", str(reading.key_path), str(saved), "-o", str(tmp_path / "results")])
    report = json.loads((tmp_path / "results" / "reading_results.json").read_text())
    found = {(image["bag_id"], image["method"]): list(image["scores"].values()) for image in report["images"]}
    assert found == {(bag, method): scores for bag in ("bag-01", "bag-02") for method, scores in given.items()}
    assert {m: s["rank"]["mean"] for m, s in report["summary"].items()} == {
        "Zylindrix": 1,
        "real": 2,
        "Quastenflosser": 3,
    }


def test_a_saved_file_resumes_elsewhere_and_a_strange_one_does_not(reading: Prepared, tmp_path: Path) -> None:
    with opened(reading.page) as shown:
        begin(shown.page, "Ada")
        for score in "335" * 5:
            shown.page.keyboard.press(score)
        shown.page.locator(".tie button", has_text=re.compile("^B$")).click()
        with shown.page.expect_download() as download:
            shown.page.click("#save")
        download.value.save_as(tmp_path / "saved.json")
    other = json.loads((tmp_path / "saved.json").read_text()) | {"reading_id": "another"}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with opened(reading.page) as shown:
        page = shown.page
        with page.expect_file_chooser() as chooser:
            page.click("#reader-dialog [data-load]")
        chooser.value.set_files(tmp_path / "other.json")
        page.wait_for_selector("#reader-fault:visible")
        assert page.text_content("#reader-fault") == "This file belongs to another reading."
        page.set_input_files("#load", tmp_path / "saved.json")
        page.wait_for_selector("#reader-dialog", state="hidden")
        assert page.get_attribute("#bags button >> nth=1", "aria-current") == "true"  # the first unfinished one
        page.click("#previous")
        assert page.locator(".rank").all_text_contents() == ["Rank 3", "Rank 2", "Rank 1"]
        assert page.text_content("#reader-line") == "Ada · radiologist, 12 years"
        assert shown.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1600])
def test_no_width_overflows_and_dark_is_dark(reading: Prepared, width: int, dark: bool) -> None:
    with opened(reading.page, width=width, height=844, dark=dark) as shown:
        begin(shown.page)
        shown.page.keyboard.press("m")
        assert all(picture.std() > 20 for picture in panels(shown.page))
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        colour = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3
        assert brightness < 40 if dark else brightness > 230
        assert shown.complaints == []


def test_without_javascript_a_sentence_says_so(reading: Prepared) -> None:
    with opened(reading.page, javascript=False) as shown:
        assert "needs JavaScript" in shown.page.inner_text("body")
        assert not shown.page.is_visible("main")
