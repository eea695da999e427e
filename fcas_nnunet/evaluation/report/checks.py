"""Check whether a synthetic set is worth training on; each check has a verdict and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fcas_nnunet.config.confidence import FLAT_CONFIDENCE_STD
from fcas_nnunet.config.options import SEGMENTER
from fcas_nnunet.evaluation.report.measures import Spread, StructureSummary
from fcas_nnunet.evaluation.report.provenance import drawn_records
from fcas_nnunet.intensities import CT_UNIT
from fcas_nnunet.listing import listed

# Limits of the verdicts; docs/report.md gives the reasons. The first of two makes "look", the second "bad".
FEW_CASES = (50, 10)
FLAT_CONFIDENCE = (FLAT_CONFIDENCE_STD, 0.02)  # standard deviation inside the structures: below, CAL is plain nnU-Net
LOW_CONFIDENCE = (0.5, 0.2)  # mean inside the structures: below, most of the loss is switched off
EXPECTED_ERROR = (80.0, 120.0)  # mean inside the structures, after matching contrast
SCALE_RATIO = (1.5, 1.2)  # expected error at confidence 0 over that at confidence 1
LOW_WEIGHT = (0.3, 0.1)  # mean inside one structure: below, CAL hardly looks at it
MOVED = (60.0, 150.0)  # Wasserstein distance of a structure
VARIETY = (0.5, 0.25)  # spread between cases, synthetic / real
VOLUME_RATIO = (1.5, 2.5)  # synthetic over real mean volume, or the other way round
REJECTED_PER_MASK = (1.0, 4.0)


class Level(StrEnum):
    """A check's verdict, best first."""

    OK = "ok"
    LOOK = "look"
    BAD = "bad"


@dataclass(frozen=True)
class Check:
    """One check."""

    title: str  # what is checked
    level: Level
    value: str  # what was found
    advice: str  # one sentence: what it means, or what to do


@dataclass(frozen=True)
class Verdict:
    """All checks in one line."""

    level: Level  # the worst level of all checks
    headline: str  # a few words
    sentence: str  # what follows from it


def verdict(checks: Sequence[Check]) -> Verdict:
    """The line at the top of the page."""
    bad, look = ([c.title.lower() for c in checks if c.level == level] for level in (Level.BAD, Level.LOOK))
    if bad:
        return Verdict(Level.BAD, "Not yet worth training on", f"Mend first: {', '.join(bad)}.")
    if look:
        return Verdict(Level.LOOK, "Worth a look before training", f"Nothing is broken; look at: {', '.join(look)}.")
    return Verdict(Level.OK, "Worth training on", "Every check passed. Scroll through a few cases, then train.")


def all_checks(
    num_cases: int, records: Mapping[str, Mapping[str, Any]], inside: Spread | None, without_map: Sequence[str],
    structures: Sequence[StructureSummary], real_name: str | None, num_real: int | None, faults: Sequence[str],
    unit: str = CT_UNIT,
) -> list[Check]:  # fmt: skip
    """Run every check that the data allow; the arguments are those of the single checks."""
    found = [
        check_count(num_cases),
        *check_expected_error(records, unit),
        *check_confidence(inside, without_map, weighs=_weighs(records)),
        check_weights(structures),
        *(check_contrast(structures, real_name, unit) if real_name is not None else []),
        check_structures(structures, num_cases, num_real),
        check_masks(records),
        check_files(faults, bool(records)),
    ]
    return [check for check in found if check is not None]


def _weighs(records: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether maps ought to tell the voxels of a structure apart: where scans were drawn, or labels were judged."""
    return not records or bool(drawn_records(records)) or any(SEGMENTER in record for record in records.values())


def check_count(num_cases: int) -> Check:
    """Check that there are enough cases to pretrain on."""
    level = _below(num_cases, FEW_CASES)
    if level == Level.OK:
        advice = "Enough to pretrain on."
    else:
        advice = f"Pretraining gains from hundreds: run the same fcas_generate with a larger -n (from {FEW_CASES[0]})."
    return Check("Number of cases", level, str(num_cases), advice)


def check_confidence(inside: Spread | None, without_map: Sequence[str], weighs: bool = True) -> list[Check]:
    """Check that the confidence inside the structures varies, and leaves something to learn from.

    Without `weighs` no scan was drawn, and no label judged: then it need not tell the voxels of a structure apart.
    """
    if inside is None:
        advice = "CAL would train as plain nnU-Net: generate the set again, or train with nnUNetTrainer on purpose."
        return [Check("Confidence", Level.BAD, "no maps", advice)]
    spread = _below(inside.std, FLAT_CONFIDENCE) if weighs else Level.OK
    if not weighs:
        advice = "Only what lies outside the real scans is not trusted; labels of warped and painted scans are exact."
    elif spread == Level.OK:
        advice = "The maps tell voxels apart, so CAL has something to weigh."
    else:
        advice = (
            f"Below {FLAT_CONFIDENCE[0]:g} the map is nearly flat and CAL without effect: take another --confidence "
            "of fcas_generate."
        )
    mean = _below(inside.mean, LOW_CONFIDENCE)
    low = (
        "Most of the loss is kept."
        if mean == Level.OK
        else f"Below {LOW_CONFIDENCE[0]:g} much of the loss is switched off: set FCAS_CONFIDENCE_FLOOR, or take "
        "another --confidence."
    )
    checks = [
        Check("Confidence spread", spread, f"± {inside.std:.3f}", advice),
        Check("Confidence mean", mean, f"{inside.mean:.2f} ({inside.low:.2f}–{inside.high:.2f})", low),
    ]
    if without_map:
        advice = "Their maps are missing: run fcas_generate again to make them."
        checks.append(Check("Cases without a map", Level.BAD, listed(without_map, 3), advice))
    return checks


def check_expected_error(records: Mapping[str, Mapping[str, Any]], unit: str = CT_UNIT) -> list[Check]:
    """Check the expected error of the scans, in standard units, and how confidence 1 and 0 differ in it.

    The maps themselves do not show it: a calibrated confidence lies between two percentiles of the generator's own
    errors, so that its mean and spread are the same for a good generator and for one ten times worse. Without a
    manifest, or where no scan was drawn, there are no such checks.
    """
    drawn = drawn_records(records)
    if not drawn:
        return []
    known = [record["expected_error"] for record in drawn if record.get("expected_error")]
    if len(known) < len(drawn):
        advice = (
            f"Nothing says how many {unit} these scans are off: calibrate the generator with fcas_train --calibrate, "
            "and generate with --confidence error_model."
        )
        return [Check("Expected error", Level.LOOK, f"not known in {unit}", advice)]
    mean = sum(entry["mean"] for entry in known) / len(known)
    error = _above(mean, EXPECTED_ERROR)
    advice = (
        "Beside the noise of the scans, which is part of it, structures look as they should."
        if error == Level.OK
        else f"Over {EXPECTED_ERROR[0]:g} {unit}: the scans are crude. Train the generator longer, or on more scans."
    )
    ratios = [entry["at_confidence_0"] / max(entry["at_confidence_1"], 1e-6) for entry in known]
    ratio, scale = min(ratios), _below(min(ratios), SCALE_RATIO)
    entry = known[ratios.index(ratio)]
    meaning = (
        "Voxels that are weighed differently differ in error."
        if scale == Level.OK
        else f"Below a factor of {SCALE_RATIO[0]:g} voxels weighed 0 are hardly worse than those weighed 1: train with "
        "nnUNetTrainer, or take another --confidence."
    )
    return [
        Check("Expected error", error, f"{mean:.0f} {unit} inside the structures", advice),
        Check(
            "Confidence scale", scale,
            f"1 = {entry['at_confidence_1']:.0f} {unit}, 0 = {entry['at_confidence_0']:.0f} {unit}", meaning,
        ),
    ]  # fmt: skip


def check_weights(structures: Sequence[StructureSummary]) -> Check | None:
    """Check for structures of low mean confidence; None without maps."""
    means = {s.name: s.confidence.mean for s in structures if s.confidence is not None}
    if not means:
        return None
    level, worst = _worst({name: _below(value, LOW_WEIGHT) for name, value in means.items()})
    name = min(means, key=lambda key: means[key])
    advice = (
        "No structure is left out by its confidence."
        if level == Level.OK
        else f"Below {LOW_WEIGHT[0]:g}: {_names(worst)}. CAL learns little of it: set FCAS_CONFIDENCE_FLOOR."
    )
    return Check("Confidence by structure", level, f"{means[name]:.2f} at least: {_words(name)}", advice)


def check_contrast(structures: Sequence[StructureSummary], real_name: str, unit: str = CT_UNIT) -> list[Check]:
    """Check contrast, variety and volumes against the real set."""
    moved = {s.name: s.contrast.wasserstein for s in structures if s.contrast is not None}
    variety = {s.name: s.variety for s in structures if s.variety is not None}
    volumes = {
        s.name: s.volume_ml.mean / s.volume_ml_real.mean
        for s in structures
        if s.volume_ml_real is not None and s.volume_ml.count and s.volume_ml_real.count
    }
    checks = []
    if moved:
        level, worst = _worst({name: _above(value, MOVED) for name, value in moved.items()})
        name = max(moved, key=lambda key: moved[key])
        advice = (
            f"Structures have the grey values of {real_name}."
            if level == Level.OK
            else f"Over {MOVED[0]:g} {unit}: {_names(worst)}. Train the generator longer, or check that both "
            "sets are scans of the same contrast phase."
        )
        checks.append(Check("Contrast", level, f"{moved[name]:.0f} {unit} off at worst: {_words(name)}", advice))
    if variety:
        level, worst = _worst({name: _below(value, VARIETY) for name, value in variety.items()})
        name = min(variety, key=lambda key: variety[key])
        value = f"{100 * variety[name]:.0f} % of the real spread at least: {_words(name)}"
        advice = (
            "Synthetic patients are enhanced as differently as real ones."
            if level == Level.OK
            else f"Under {100 * VARIETY[0]:.0f} % of the real spread between cases: {_names(worst)}. Give more "
            "templates, or make more cases."
        )
        checks.append(Check("Variety", level, value, advice))
    if volumes:
        far = {name: max(ratio, 1 / ratio) for name, ratio in volumes.items()}
        level, worst = _worst({name: _above(value, VOLUME_RATIO) for name, value in far.items()})
        name = max(far, key=lambda key: far[key])
        advice = (
            "Structures are as large as real ones."
            if level == Level.OK
            else f"Beyond a factor of {VOLUME_RATIO[0]:g}: {_names(worst)}. Narrow MGM's ranges, or check the labels."
        )
        checks.append(Check("Volumes", level, f"{volumes[name]:.2f} of the real mean at worst: {_words(name)}", advice))
    return checks


def check_structures(structures: Sequence[StructureSummary], num_cases: int, num_real: int | None) -> Check:
    """Check that every structure is shown."""
    levels = {}
    for structure in structures:
        expected = structure.shown_real / num_real if num_real and structure.shown_real is not None else 1.0
        if structure.shown == 0 and expected > 0:
            levels[structure.name] = Level.BAD
        elif structure.shown < num_cases * min(expected, 1.0) * 0.95:
            levels[structure.name] = Level.LOOK
    if not levels:
        return Check("Structures", Level.OK, f"all {len(structures)} shown", "No structure is missing.")
    level, worst = _worst(levels)
    shown = {structure.name: structure.shown for structure in structures}
    value = listed(f"{_words(name)} in {shown[name]} of {num_cases}" for name in worst)
    return Check(
        "Structures", level, value,
        "nnU-Net cannot learn what is not there: look at the reference masks and at --for's names.",
    )  # fmt: skip


def check_masks(records: Mapping[str, Mapping[str, Any]]) -> Check | None:
    """Check how often MGM had to draw again; None where no mask was drawn."""
    drawn = [record for record in records.values() if record.get("masks") == "mgm"]
    if not drawn:
        return None
    rejected = sum(len(record.get("mgm", {}).get("rejections", [])) for record in drawn)
    level = _above(rejected / len(drawn), REJECTED_PER_MASK)
    advice = (
        "Most deformations pass the quality gate."
        if level == Level.OK
        else "Deformations are often refused, so what passes may be tame: narrow MGM's ranges (docs/masks.md)."
    )
    return Check("Masks drawn again", level, f"{rejected} for {len(drawn)} new masks", advice)


def check_files(faults: Sequence[str], has_manifest: bool) -> Check:
    """Check that manifest and files agree; `faults` names those that do not."""
    level, value, advice = Level.OK, "agree", "Every case has its record and its files."
    if faults:
        level, value = Level.BAD, f"{len(faults)} disagree"
        advice = "They are listed under provenance: run the same fcas_generate again, or fcas_doctor -d on the set."
    elif not has_manifest:
        level, value = Level.LOOK, "no manifest"
        advice = (
            "Nothing says how these cases were made, nor which are synthetic: prefer a set that fcas_generate wrote."
        )
    return Check("Manifest and files", level, value, advice)


def _below(value: float, limits: tuple[float, float]) -> Level:
    return Level.BAD if value < limits[1] else Level.LOOK if value < limits[0] else Level.OK


def _above(value: float, limits: tuple[float, float]) -> Level:
    return Level.BAD if value > limits[1] else Level.LOOK if value > limits[0] else Level.OK


def _worst(levels: Mapping[str, Level]) -> tuple[Level, list[str]]:
    """The worst level, and the names that are not ok."""
    order = list(Level)
    level = max(levels.values(), key=order.index)
    return level, [name for name, found in levels.items() if found != Level.OK]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _names(names: Sequence[str]) -> str:
    return listed(_words(name) for name in names)
