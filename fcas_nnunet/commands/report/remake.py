"""The commands that make a synthetic set again, from its manifest: its cases line by line, or the run that it was."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fcas_nnunet.commands.generate.command import build_parser
from fcas_nnunet.commands.generate.sampling_settings import EVERYWHERE, confidence_config, sampling_config
from fcas_nnunet.commands.masks.settings import MASK_FLAGS, mask_config
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import ConfidenceConfig, FCaSConfig
from fcas_nnunet.config.options import ConfidenceChoice, ReferenceSource
from fcas_nnunet.config.presets import PRESETS, preset
from fcas_nnunet.evaluation.report.provenance import common_fields, run_seed

Records = Mapping[str, Mapping[str, Any]]


def replay_command(name: str, records: Records) -> str | None:
    """The command that makes a set's cases again, to the same bytes; None where fcas_generate did not draw them."""
    if not records or not all({"template", "weights_sha256", "mask_config"} <= record.keys() for record in
                              records.values()):  # fmt: skip
        return None
    return shlex.join(["fcas_generate", "--replay", name])


def remake_command(name: str, records: Records) -> str | None:
    """The command line of the run that made a set; None where its manifest does not tell.

    Where the preset of that name does not have the settings that the manifest holds, the configuration was the user's
    own: it stands there as a file named after the preset.
    """
    common = common_fields(records)
    told = {"sampling", "confidence", "mask_config", "preset"} <= common.keys()
    if told and not common["confidence"].keys() <= to_dict(ConfidenceConfig()).keys():
        return None  # a setting that only earlier versions had
    if not told or replay_command(name, records) is None:
        return None
    kinds = {str(record.get("masks")) for record in records.values()}
    words = ["fcas_generate", "-d", common["source"], "-o", name, "-n", str(len(records))]
    for key in ("for", "fold"):
        words += [f"--{key}", str(common[key])] if common.get(key) is not None else []
    for key in ("references", "templates"):
        words += [f"--{key}", *common[key]] if common.get(key) else []
    masks = kinds.pop() if len(kinds) == 1 else "both"
    words += ["--masks", masks]
    words += _sampling_words(common["sampling"])
    words += _confidence_words(common["confidence"])
    own = common["preset"]
    if masks != ReferenceSource.GIVEN:
        words += _mask_words(common["mask_config"], to_dict(preset(own).masks) if own in PRESETS else {})
    seed = run_seed(records)
    words += ["--seed", "SEED" if seed is None else str(seed)]
    stock = own in PRESETS and not differing_settings(words[1:], preset(own), common, seed or 0)
    return shlex.join([*words, *(["--preset", own] if stock else ["--config", f"{own}.yaml"])])


def differing_settings(arguments: Sequence[str], config: FCaSConfig, common: Mapping[str, Any], seed: int) -> list[str]:
    """Which settings a command line would leave otherwise than a manifest has them.

    Args:
        arguments: of fcas_generate.
        config: the preset or configuration that it names.
        common: what the manifest's records share.
        seed: stands for a seed that is not known.
    """
    args = build_parser().parse_args([str(seed) if word == "SEED" else word for word in arguments])
    calibrated = common["confidence"].get("norm") == "calibrated"
    confidence = confidence_config(config.confidence, args)
    found = {
        "sampling": to_dict(sampling_config(config.sampling, args)),
        "confidence": to_dict(confidence.for_generator(calibrated)),
        "mask_config": to_dict(mask_config(args, config.masks)),
    }
    return [key for key, value in found.items() if value != common[key]]


def _sampling_words(sampling: Mapping[str, Any]) -> list[str]:
    words = ["--solver", sampling["solver"], "--steps", str(sampling["num_inference_steps"])]
    words += ["--window", *map(str, sampling["window"])] if sampling.get("window") else []
    return words + (["--overlap", str(sampling["overlap"])] if "overlap" in sampling else [])


def _confidence_words(confidence: Mapping[str, Any]) -> list[str]:
    """The choice whose estimator, source and norm these are, and what it looks at."""
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
    """The ranges that the preset does not have by itself."""
    changed = {flag: masks[key] for key, flag in MASK_FLAGS.items() if key in masks and masks[key] != base.get(key)}
    return [word for flag, ends in changed.items() for word in (flag, *map(str, ends))]
