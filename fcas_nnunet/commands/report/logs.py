"""Find training logs of the generator and of nnU-Net in nnUNet_results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.evaluation.report.curves import Curves, generator_curves, nnunet_curves
from fcas_nnunet.integration.dataset.folders import Root, model_name

_GENERATOR_PARTS = ("autoencoder", "tcdm")
_LOG = "training.log"


def find_curves(common: Mapping[str, Any], names: Sequence[str]) -> tuple[list[Curves], str]:
    """Find training curves; return those that exist, and a sentence on those that are missing.

    Args:
        common: Manifest fields of all cases; `source` and `preset` name the generator.
        names: Data sets whose nnU-Net trainings are looked for.
    """
    value = os.environ.get(Root.RESULTS.value)
    if not value or not Path(value).is_dir():
        return [], f"{Root.RESULTS} names no folder here, so no training log was looked for."
    results = Path(value)
    generator, drawn = [], ScanSource.of(common) == ScanSource.DRAWN  # of mixed sets, too
    if drawn and common.get("source") and common.get("preset"):
        generator = _generator(results / str(common["source"]) / model_name(common["preset"], common.get("fold")))
    trained = [curves for name in dict.fromkeys(names) for curves in _nnunet(results / name)]
    missing = ["of the generator"] if drawn and not generator else []
    missing += [f"of nnU-Net for {' or '.join(dict.fromkeys(names))}"] if not trained else []
    note = f"No training log {' and '.join(missing)} was found under {Root.RESULTS}." if missing else ""
    return generator + trained, note


def _generator(folder: Path) -> list[Curves]:
    logs = {part: folder / part / _LOG for part in _GENERATOR_PARTS}
    found = [generator_curves(f"Generator, {part}", log.read_text(encoding="utf-8", errors="replace"))
             for part, log in logs.items() if log.is_file()]  # fmt: skip
    return [curves for curves in found if curves is not None]


def _nnunet(folder: Path) -> list[Curves]:
    found = []
    for fold in sorted(folder.glob("*__*__*/fold_*")):
        logs = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(fold.glob("training_log_*.txt"))]
        trainer, _, configuration = fold.parent.name.split("__")[:3]
        found.append(nnunet_curves(f"{folder.name}, {trainer}, {configuration}, {fold.name.replace('_', ' ')}", logs))
    return [curves for curves in found if curves is not None]
