"""Results of an experiment: a JSON line per arm, seed and case; means and differences of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from design import Experiment
from plan import Layout, Run, precision_of
from stages import Stage, Store

from fcas_nnunet.evaluation.statistics.crossed import CrossedMean, crossed_mean
from fcas_nnunet.files import atomic_write_text
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.provenance.parents import parents_of

RDICE_RADIUS = "2"
MIN_SEEDS = 3
#: (labelled, arm) → (seed, patient) → a measure in %.
Means = dict[tuple[int, str], dict[tuple[int, str], float]]


def network_of(record: Mapping[str, Any]) -> tuple[str, int, str, int]:
    """What names a record's network: (scale, labelled, arm, seed)."""
    return record["scale"], record["labelled"], record["arm"], record["seed"]


def joined(earlier: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All records, of earlier runs those alone whose networks were not scored again."""
    again = {network_of(record) for record in records}
    kept = [record for record in earlier if network_of(record) not in again]
    return sorted([*kept, *records], key=lambda record: (*network_of(record), record["case"]))


def collect(experiment: Experiment, layout: Layout, store: Store) -> list[dict[str, Any]]:
    """A record for every held-out case of every network that is scored, by the present settings and code."""
    stages = {stage.name: stage for stage in layout.stages()}
    done = store.done(stages.values())
    records = []
    for run in layout.runs():
        if f"{run.key}/score" not in done:
            continue
        arm, seen = experiment.arms[run.arm], _scans_seen(layout, run)
        facts = {
            "experiment": experiment.name, "scale": experiment.scale_name, "arm": run.arm, "seed": run.seed,
            "labelled": run.labelled, "scans": len(seen), "seen": " ".join(sorted(seen)),
            "precision": precision_of(experiment.scale.device),
            "version": store.stamp(f"{run.key}/score")["version"],
            "synthetic": experiment.scale.synthetic if arm.source else 0,
            "steps": experiment.scale.steps_of(arm),
            "cpu_seconds": round(_cpu_seconds(stages, store, f"{run.key}/score")),
        }  # fmt: skip
        for case_id, labels in json.loads(layout.scores(run).read_text())["cases"].items():
            records.append(facts | {"case": case_id, "labels": {name: _measures(labels[name]) for name in labels}})
    return records


def _measures(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """What is kept of the scores of a label."""
    kept = {"dice": scores["dice"], "rdice": scores["rdice"][RDICE_RADIUS], "hd95_mm": scores.get("hd95_mm")}
    return {name: None if value is None else round(value, 4) for name, value in kept.items()}


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as JSON lines."""
    atomic_write_text(path, "".join(json.dumps(record, sort_keys=True) + "\n" for record in records))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def patient_means(records: Sequence[Mapping[str, Any]], measure: str, patient: str = ".+") -> Means:
    """Mean of a measure over the labels of every case, and over the cases of every patient: those are not independent.

    Args:
        records: of an experiment.
        measure: such as dice.
        patient: pattern whose match in a case's id names its patient.
    """
    found: dict[tuple[int, str], dict[tuple[int, str], list[float]]] = {}
    for record in records:
        values = [np.nan if scores[measure] is None else scores[measure] for scores in record["labels"].values()]
        match = re.search(patient, record["case"])
        assert match is not None, "the labelled scans' ids hold it, too"
        of_arm = found.setdefault((record["labelled"], record["arm"]), {})
        of_arm.setdefault((record["seed"], match[0]), []).append(100 * float(np.nanmean(values)))
    return {
        network: {key: float(np.mean(values)) for key, values in of_arm.items()} for network, of_arm in found.items()
    }


def compared(first: Mapping[tuple[int, str], float], second: Mapping[tuple[int, str], float]) -> CrossedMean | None:
    """First less second, over the seeds and patients of both; None below three seeds, of which none can be told."""
    seeds = sorted({seed for seed, _ in first} & {seed for seed, _ in second})
    patients = sorted({patient for _, patient in first} & {patient for _, patient in second})
    table = [[first[seed, patient] - second[seed, patient] for patient in patients] for seed in seeds]
    return crossed_mean(np.array(table)) if len(seeds) >= MIN_SEEDS and len(patients) > 1 else None


def _scans_seen(layout: Layout, run: Run) -> set[str]:
    """The real scans that a network has learnt from, its synthetic scans' parents among them.

    Raises:
        ValueError: when a parent is none of the labelled scans.
    """
    labelled = RawDataset.open(layout.raw / layout.real(run.labelled), any_kind=True)
    seen = set(labelled.case_ids)
    arm = layout.experiment.arms[run.arm]
    if arm.source:
        synthetic = RawDataset.open(layout.raw / layout.dataset(run, arm.weighed), any_kind=True)
        named = {(parent.dataset, parent.case_id) for parent in parents_of(synthetic)}
        foreign = {case_id for dataset, case_id in named if dataset != labelled.name or case_id not in seen}
        if foreign:
            raise ValueError(f"{run.key}: parents must be labelled scans, got {', '.join(sorted(foreign))}.")
    return seen


def _cpu_seconds(stages: Mapping[str, Stage], store: Store, name: str) -> float:
    """Seconds of CPU of a stage and of all that it needs, whatever else needs them too."""
    found, waiting = set(), [name]
    while waiting:
        stage = stages[waiting.pop()]
        if stage.name not in found:
            found.add(stage.name)
            waiting += stage.needs
    return sum(store.stamp(each).get("cpu_seconds", 0.0) for each in found)
