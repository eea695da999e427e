"""Write the commands that make a synthetic set again, from its manifest: its cases one by one, or the whole run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fcas_nnunet.commands.generate.command import build_parser
from fcas_nnunet.commands.generate.sampling_settings import EVERYWHERE, confidence_config, sampling_config
from fcas_nnunet.commands.generate.sources import TOLD, source_words
from fcas_nnunet.commands.generate.varied import VARIETY_CONFIG, variety_record
from fcas_nnunet.commands.masks.settings import MASK_FLAGS, mask_config
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import ConfidenceConfig, FCaSConfig
from fcas_nnunet.config.options import ConfidenceChoice, ReferenceSource, ScanSource
from fcas_nnunet.config.presets import PRESETS, preset
from fcas_nnunet.evaluation.report.provenance import common_fields, run_seed

Records = Mapping[str, Mapping[str, Any]]


def replay_command(name: str, records: Records) -> str | None:
    """The command that makes a set's cases again, to the same bytes; None where fcas_generate did not make them."""
    if not records or not all({"template", *TOLD[ScanSource.of(record)], "mask_config"} <= record.keys() for record in
                              records.values()):  # fmt: skip
        return None
    return shlex.join(["fcas_generate", "--replay", name])


def remake_command(name: str, records: Records) -> str | None:
    """The command line of the run that made a set; None where its manifest does not record it.

    Where the manifest's settings differ from those of its preset, the run used a configuration of the user's: the
    command names it as a file called after the preset.
    """
    if replay_command(name, records) is None or any({"attempt", "hard"} & record.keys() for record in records.values()):
        return None  # or cases that followed from the scores of others
    common, scans = common_fields(records), sorted({ScanSource.of(record) for record in records.values()})
    for scan in scans:
        theirs = common_fields({key: record for key, record in records.items() if ScanSource.of(record) == scan})
        common |= {key: theirs[key] for key in TOLD[scan] if key in theirs}
    recorded = {key for scan in scans for key in TOLD[scan]} | {"mask_config", "preset"}
    if not recorded <= common.keys() or not common.get("confidence", {}).keys() <= to_dict(ConfidenceConfig()).keys():
        return None  # a setting that only earlier versions had
    kinds = {str(record.get("masks")) for record in records.values()}
    words = ["fcas_generate", "-d", common["source"], "-o", name, "-n", str(len(records))]
    for key in ("for", "fold"):
        words += [f"--{key}", str(common[key])] if common.get(key) is not None else []
    for key in ("references", "templates"):
        words += [f"--{key}", *common[key]] if common.get(key) else []
    masks = kinds.pop() if len(kinds) == 1 else "both"
    words += ["--masks", masks]
    words += source_words(common, scans)
    if ScanSource.DRAWN in scans:
        words += _sampling_words(common["sampling"])
        words += _confidence_words(common["confidence"])
    named = common["preset"]
    if masks != ReferenceSource.GIVEN:
        words += _mask_words(common["mask_config"], to_dict(preset(named).masks) if named in PRESETS else {})
    seed = run_seed(records)
    words += ["--seed", "SEED" if seed is None else str(seed)]
    stock = named in PRESETS and not differing_settings(words[1:], preset(named), common, seed or 0)
    return shlex.join([*words, *(["--preset", named] if stock else ["--config", f"{named}.yaml"])])


def differing_settings(arguments: Sequence[str], config: FCaSConfig, common: Mapping[str, Any], seed: int) -> list[str]:
    """List the settings that a command line would set differently from a manifest.

    Args:
        arguments: Arguments of fcas_generate.
        config: Preset or configuration that they name.
        common: Fields that the manifest's records share.
        seed: Seed that stands for an unknown one.
    """
    args = build_parser().parse_args([str(seed) if word == "SEED" else word for word in arguments])
    calibrated = common.get("confidence", {}).get("norm") == "calibrated"
    confidence = confidence_config(config.confidence, args)
    found = {
        "sampling": to_dict(sampling_config(config.sampling, args)),
        "confidence": to_dict(confidence.for_generator(calibrated)),
        "mask_config": to_dict(mask_config(args, config.masks)),
        "warp": to_dict(config.warp),
        "paint": to_dict(config.paint),
        **variety_record(config.variety),
    }
    told = [key for key in (*found, VARIETY_CONFIG) if key in common]
    return [key for key in told if found.get(key) != common[key]]


def _sampling_words(sampling: Mapping[str, Any]) -> list[str]:
    words = ["--solver", sampling["solver"], "--steps", str(sampling["num_inference_steps"])]
    words += ["--strength", str(sampling["strength"])] if sampling.get("strength", 1) != 1 else []
    words += ["--window", *map(str, sampling["window"])] if sampling.get("window") else []
    return words + (["--overlap", str(sampling["overlap"])] if "overlap" in sampling else [])


def _confidence_words(confidence: Mapping[str, Any]) -> list[str]:
    """Flags of the choice whose estimator and norm these are, with its snapshots and its region."""
    plain = ConfidenceConfig()
    for choice in (ConfidenceChoice.ERROR_MODEL, ConfidenceChoice.SSV, ConfidenceChoice.SSV_CALIBRATED,
                   ConfidenceChoice.PAPER):  # fmt: skip
        chosen = to_dict(plain.chosen(choice))
        if all(confidence.get(key) == chosen[key] for key in ("estimator", "norm")):
            break
    words = ["--confidence", str(choice)]
    if choice == ConfidenceChoice.ERROR_MODEL:
        return words
    margin = confidence.get("box_margin")
    return words + [
        "--snapshots", str(confidence["num_snapshots"]),
        "--box_margin", EVERYWHERE if margin is None else str(margin),
    ]  # fmt: skip


def _mask_words(masks: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Flags of the ranges that differ from the preset's."""
    changed = {flag: masks[key] for key, flag in MASK_FLAGS.items() if key in masks and masks[key] != base.get(key)}
    return [word for flag, ends in changed.items() for word in (flag, *map(str, ends))]
