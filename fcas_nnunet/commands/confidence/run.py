"""Judge a synthetic set by a segmenter, and rewrite its confidence maps."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.commands.confidence.command import weighing_of
from fcas_nnunet.commands.confidence.judges import appoint
from fcas_nnunet.commands.confidence.maps import (
    CaseScore,
    Judged,
    Written,
    check_generated,
    remove_kept_folder,
    restore_map,
    score_case,
    was_judged,
    write_map,
)
from fcas_nnunet.commands.confidence.rules import Rule, Weighing, mean_losses
from fcas_nnunet.commands.runtime.case_files import default_workers, run_cases
from fcas_nnunet.commands.runtime.devices import resolve_device
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.evaluation.table import format_table
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_json, files_sha256
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE, Manifest
from fcas_nnunet.integration.dataset.ownership import refuse_links
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON, RawDataset, open_dataset
from fcas_nnunet.integration.models.cross_fitting import Judges
from fcas_nnunet.integration.models.own_labels import Members, members_of, predict_own_probabilities
from fcas_nnunet.integration.models.prediction import (
    TrainedModel,
    find_model,
    fingerprint,
    outdated_cases,
    scan_faults,
)
from fcas_nnunet.integration.provenance.parents import JUDGES_KEY, Parent, origins_of, parents_of, to_json
from fcas_nnunet.listing import listed

PROBABILITIES_FOLDER = "fcas_probabilities"
#: Bytes per voxel of a case whose map is written; measured: 34 at 128³.
BYTES_PER_VOXEL = 40.0
WORST_SHOWN = 5

logger = logging.getLogger(__name__)

Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Plan:
    """What judges what."""

    synthetic: RawDataset
    records: Records  # of the cases that are judged
    model: TrainedModel
    members: Members
    judges: Mapping[str, Judges]
    learnt: list[Parent]  # what the folds in use have learnt from

    @cached_property
    def networks(self) -> dict[tuple[str, ...], TrainedModel]:
        """Folds that judge together → the network of these folds alone."""
        together = sorted({judges.folds for judges in self.judges.values()})
        return {folds: find_model(self.model.folder, folds, self.model.checkpoint) for folds in together}

    def network(self, case_id: str) -> TrainedModel:
        """The network that judges a case."""
        return self.networks[self.judges[case_id].folds]


def run(args: argparse.Namespace) -> str:
    """Judge the data set that the command line names; see `judge`."""
    return judge(open_dataset(args.d, by="-d"), args)


def judge(synthetic: RawDataset, args: argparse.Namespace) -> str:
    """Judge every case of a finished synthetic data set, and rewrite its map.

    Args:
        synthetic: The data set.
        args: Arguments of `add_judge_arguments`, with `np` and `device`.

    Returns:
        A summary.

    Raises:
        MissingFileError: when the data set or the network is missing.
        InputError: when the network cannot judge these cases without having learnt from them; every case is named.
    """
    plan = _plan(synthetic, args)
    weighing, workers = weighing_of(args), args.np or default_workers()
    maps = {case_id: (plan.synthetic, case_id, record) for case_id, record in plan.records.items()}
    run_cases(check_generated, maps, workers=workers, description="checking the maps")
    cases = _predicted(plan, args, workers)
    need = MemoryNeed.of(map(plan.synthetic.mask_path, cases), BYTES_PER_VOXEL)
    with exclusive(plan.synthetic.folder, refuse=partial(refuse_links, plan.synthetic.folder)):
        scores = run_cases(score_case, cases, workers=workers, description="scores", need=need)
        means = mean_losses(score.sums for score in scores.values())
        _name_judges(plan.synthetic, plan.learnt)
        jobs = {i: (case, scores[i], weighing, means, _origin(plan, i)) for i, case in cases.items()}
        written = run_cases(write_map, jobs, workers=workers, description="confidence maps", need=need)
        Manifest(plan.synthetic.folder).update({case_id: case.record for case_id, case in written.items()})
    return _summary(plan, weighing, scores, means, written)


def restore(args: argparse.Namespace) -> str:
    """Put the generated maps back, and return what was done."""
    synthetic = open_dataset(args.d, by="-d")
    with exclusive(synthetic.folder, refuse=partial(refuse_links, synthetic.folder)):
        records = Manifest(synthetic.folder).read()
        judged = {i: record for i, record in records.items() if was_judged(synthetic, i, record)}
        jobs = {case_id: (synthetic, case_id, record) for case_id, record in judged.items()}
        restored = run_cases(restore_map, jobs, workers=args.np or default_workers(), description="confidence maps")
        Manifest(synthetic.folder).update(restored)
        _name_judges(synthetic, ())
        remove_kept_folder(synthetic)
    return f"done: the generated maps of {len(restored)} cases are back in {synthetic.folder}"


def _plan(synthetic: RawDataset, args: argparse.Namespace) -> _Plan:
    """Check the network and the data set, and choose the folds that judge each case."""
    model = find_model(args.network, args.f, args.chk)
    every = Manifest(synthetic.folder).read()
    records = {i: every[i] for i in synthetic.case_ids if i in every and origins_of(every[i])}
    faults = scan_faults(model, synthetic)
    faults += [
        f"{path}: confidence map must exist, got none. Generate the case again."
        for case_id in records
        if not (path := synthetic.confidence_path(case_id)).is_file()
    ]
    if not records:
        faults.append(
            f"{synthetic.folder}: {MANIFEST_FILE} must name the reference of its cases, got none. Name a set that "
            "fcas_generate made."
        )
    if faults:
        raise InputError("\n".join(faults))
    members = members_of(model, synthetic.labels, synthetic.name)
    if others := sorted(set(synthetic.case_ids) - records.keys()):
        logger.info(f"no line in {MANIFEST_FILE} says what {listed(others)} were made from: their maps stay")
    judges, learnt = appoint(model, records, parents_of(synthetic), both=args.both)
    return _Plan(synthetic, records, model, members, judges, learnt)


def _predicted(plan: _Plan, args: argparse.Namespace, workers: int) -> dict[str, Judged]:
    """Predict what is not predicted yet; returns the cases with their probabilities."""
    synthetic, device = plan.synthetic, resolve_device(args.device)
    name = f"{synthetic.name}__{Path(plan.model.checkpoint).stem}"
    folder = args.probabilities or plan.model.folder / PROBABILITIES_FOLDER / name
    paths = {i: [*synthetic.image_paths(i), synthetic.mask_path(i)] for i in plan.records}
    hashes = run_cases(files_sha256, paths, workers=workers, description="hashes of the scans")
    members = {str(label): list(own) for label, own in plan.members.items()}
    origins = {i: {**fingerprint(i, hashes[i], plan.network(i)), "labels": members} for i in plan.records}
    remedy = "Name another folder with --probabilities."
    outdated = partial(outdated_cases, folder, origins, synthetic.file_ending, remedy)
    if outdated():
        with exclusive(folder):
            todo = set(outdated())  # again: this run may have waited for another
            logger.info(f"probabilities go to {folder}: {len(todo)} of {len(origins)} to be predicted")
            for network in plan.networks.values():
                mine = {i: origins[i] for i in plan.records if i in todo and plan.network(i) == network}
                if mine:
                    predict_own_probabilities(network, synthetic, mine, plan.members, folder, device)
    return {
        i: Judged(synthetic, i, record, folder / f"{i}{synthetic.file_ending}") for i, record in plan.records.items()
    }


def _origin(plan: _Plan, case_id: str) -> dict[str, Any]:
    """Entries of a case's record that say who judged it."""
    network = plan.network(case_id)
    knows = plan.judges[case_id].know_template
    return {"network": network.name, "network_sha256": network.sha256, "knows_template": knows}


def _name_judges(synthetic: RawDataset, learnt: Sequence[Parent]) -> None:
    """Name in dataset.json what the judges have learnt from, so that fcas_prepare and the trainers refuse leaks."""
    content = {key: value for key, value in synthetic.dataset_json.items() if key != JUDGES_KEY}
    judges = {JUDGES_KEY: to_json(learnt)} if learnt else {}
    atomic_write_json(synthetic.folder / DATASET_JSON, content | judges)


def _summary(
    plan: _Plan,
    weighing: Weighing,
    scores: Mapping[str, CaseScore],
    means: Mapping[int, float],
    written: Mapping[str, Written],
) -> str:
    synthetic = plan.synthetic
    rows = []
    for name, label in synthetic.labels.items():
        if label in means:
            parts = [case.weights[label] for case in written.values() if label in case.weights]
            voxels, weight = sum(n for n, _ in parts), sum(w for _, w in parts)
            limit = f"{weighing.alpha * means[label]:.4f}" if weighing.rule == Rule.FREEMASK else "-"
            rows.append([name, str(voxels), f"{means[label]:.4f}", limit, f"{weight / voxels:.3f}"])
    lines = [format_table(["label", "voxels", "mean loss", "largest loss kept", "mean confidence"], rows)]
    for folds, number in sorted(Counter(judges.folds for judges in plan.judges.values()).items()):
        lines.append(f"judged by fold {' '.join(folds)}: {number} cases")
    if knowing := sum(judges.know_template for judges in plan.judges.values()):
        lines.append(f"{knowing} of {len(plan.judges)} cases: their judges have learnt from the template")
    values = [score.score for score in scores.values()]
    worst = sorted(scores, key=lambda case_id: (scores[case_id].score, case_id))[:WORST_SHOWN]
    lines.append(
        f"probability of the labels inside structures {np.mean(values):.3f} ± {np.std(values):.3f} over cases; lowest: "
        + ", ".join(f"{case_id} {scores[case_id].score:.3f}" for case_id in worst)
    )
    if weighing.drop_below is not None:
        dropped = [i for i, score in scores.items() if score.score < weighing.drop_below]
        lines.append(f"below {weighing.drop_below:g}, and so without weight: {listed(dropped, 20) or 'none'}")
    lines.append(f"done: confidence of {len(written)} cases in {synthetic.folder}")
    return "\n".join(lines)
