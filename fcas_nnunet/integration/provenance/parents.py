"""The parents of a synthetic data set: the real cases that it was made from. A network that learns from it must not
be validated on them.

They are recorded in its `dataset.json`, which nnU-Net copies into every checkpoint, where fine-tuning finds them.
Likewise, a trained nnU-Net must not evaluate cases that it has learnt from, nor synthetic cases made from these.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import PLANS_JSON, Root
from fcas_nnunet.integration.dataset.library import split_name
from fcas_nnunet.integration.dataset.manifest import CASE_ID, MANIFEST_FILE, Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.plans import dataset_of_plans
from fcas_nnunet.integration.preprocessing.splits import SPLITS_FILE, splits_of
from fcas_nnunet.integration.provenance.contents import (
    CONTENTS_FILE,
    contents_of,
    held_out_contents,
    known_contents,
    training_contents,
)
from fcas_nnunet.listing import listed

#: Key in dataset.json: data set → case id → hash and roles of the parent.
PARENTS_KEY = "fcas_parents"
#: The same of what a segmenter has learnt from that judged the labels; fcas_generate leaves it as it is.
JUDGES_KEY = "fcas_judges"
#: Key in a prepared dataset.json: ids of the cases whose origin the manifest does not record.
UNKNOWN_KEY = "fcas_unknown"
#: Key in a trainer's dataset.json, which its checkpoints contain: the data that its first weights had learnt from.
PRETRAINING_KEY = "fcas_pretraining"
ALLOW_VARIABLE = "FCAS_ALLOW_LEAKS"


class Role(StrEnum):
    """The use of a real case in a synthetic data set."""

    TRAINING = "trained the generator"
    VALIDATION = "chose its weights"
    CALIBRATION = "calibrated it"
    REFERENCE = "gave masks"
    TEMPLATE = "was a template"
    JUDGE = "trained the judge of its labels"
    PRETRAINING = "is among the synthetic cases"


@dataclass(frozen=True)
class Parent:
    """A real case that a synthetic data set was made from."""

    dataset: str  # full name
    case_id: str
    image_sha256: str | None  # None where it is not known
    roles: tuple[Role, ...]


def merged(parents: Iterable[Parent]) -> list[Parent]:
    """Merge entries of the same case: each case once, with all its roles, sorted."""
    of_case: dict[tuple[str, str], Parent] = {}
    for parent in parents:
        before = of_case.get((parent.dataset, parent.case_id), replace(parent, roles=()))
        roles = tuple(role for role in Role if role in (*before.roles, *parent.roles))
        sha256 = before.image_sha256 or parent.image_sha256
        of_case[parent.dataset, parent.case_id] = replace(parent, image_sha256=sha256, roles=roles)
    return [of_case[key] for key in sorted(of_case)]


def to_json(parents: Sequence[Parent]) -> dict[str, dict[str, Any]]:
    """Convert parents to the entry `PARENTS_KEY` of dataset.json."""
    content: dict[str, dict[str, Any]] = {}
    for parent in parents:
        entry = {"image_sha256": parent.image_sha256, "roles": [role.name.lower() for role in parent.roles]}
        content.setdefault(parent.dataset, {})[parent.case_id] = entry
    return content


def from_json(dataset_json: Mapping[str, Any]) -> list[Parent] | None:
    """Read the parents from a dataset.json, judges' cases included; None if it names no parents.

    Raises:
        InputError: when the entry is broken.
    """
    if PARENTS_KEY not in dataset_json:
        return None
    own, judges = _entry(dataset_json, PARENTS_KEY), judges_in(dataset_json)
    return merged([*own, *judges]) if judges else own


def judges_in(dataset_json: Mapping[str, Any]) -> list[Parent]:
    """Read from a dataset.json what the judge of its labels has learnt from; empty if nothing judged them."""
    return _entry(dataset_json, JUDGES_KEY) if JUDGES_KEY in dataset_json else []


def _entry(dataset_json: Mapping[str, Any], key: str) -> list[Parent]:
    try:
        return [
            Parent(dataset, case_id, entry["image_sha256"], tuple(Role[role.upper()] for role in entry["roles"]))
            for dataset, cases in dataset_json[key].items()
            for case_id, entry in cases.items()
        ]
    except (AttributeError, KeyError, TypeError) as error:
        command = "fcas_generate" if key == PARENTS_KEY else "fcas_confidence"
        raise InputError(
            f"dataset.json: {key} must be what {command} wrote, got an error: {error!r}. "
            f"Run {command} again: it writes the file anew and keeps the cases."
        ) from error


def parents_of(synthetic: RawDataset) -> list[Parent]:
    """Collect all parents of a synthetic data set, and its cases that are real or whose line has no reference.

    Parents that dataset.json does not name are read from the manifest: the reference and template of every line, also
    of lines copied from another set. If several generators made the lines, or dataset.json names no parents (sets of
    earlier versions), all cases of the lines' sources count as training cases of the generators.
    """
    own = from_json(synthetic.dataset_json)
    records = Manifest(synthetic.folder).read()
    drawn = [record for record in records.values() if ScanSource.of(record) == ScanSource.DRAWN]
    generators = {record.get("weights_sha256") for record in drawn}
    found = judges_in(synthetic.dataset_json) if own is None else own
    if own is None or len(generators) > 1:
        sources = sorted({str(record["source"]) for record in records.values() if "source" in record})
        found = [*found, *(parent for source in sources for parent in _whole_source(source, records))]
    made = {case_id for case_id, record in records.items() if "reference" in record}
    own_scans = sorted(set(synthetic.case_ids) - made) if synthetic.has_confidence else []
    contents = training_contents(synthetic, own_scans)
    pretrained = [Parent(synthetic.name, case_id, contents[case_id], (Role.PRETRAINING,)) for case_id in own_scans]
    return merged([*found, *_drawn_from(records, found), *pretrained])


def unknown_origins(synthetic: RawDataset) -> list[str]:
    """List the cases with a confidence map but no line in the manifest, whose origin is not recorded.

    Without a manifest, the confidence maps are the user's own, and the list is empty.
    """
    manifest = Manifest(synthetic.folder)
    if not manifest.path.is_file():
        return []
    recorded = manifest.read().keys()
    return [i for i in synthetic.case_ids if i not in recorded and synthetic.confidence_path(i).is_file()]


def origins_of(record: Mapping[str, Any]) -> list[tuple[str, str, Role]]:
    """Return data set, id and role of the cases that gave a synthetic case its mask and its appearance.

    The list is empty for a manifest's record without a source.
    """
    roles = (("reference", Role.REFERENCE), ("template", Role.TEMPLATE))
    given = [(str(record[key]), role) for key, role in roles if key in record and "source" in record]
    return [(*split_name(name, str(record["source"])), role) for name, role in given]


def _whole_source(source: str, records: Mapping[str, Mapping[str, Any]]) -> list[Parent]:
    """Return all cases of a source, or those that the manifest names if the source does not exist."""
    contents: Mapping[str, str | None] | None = contents_of(source)
    if contents is None:
        contents = {i: None for r in records.values() for dataset, i, _ in origins_of(r) if dataset == source}
    return [Parent(source, case_id, sha256, (Role.TRAINING,)) for case_id, sha256 in contents.items()]


def _drawn_from(records: Mapping[str, Mapping[str, Any]], known: Iterable[Parent]) -> list[Parent]:
    """Return references and templates of a manifest's lines; only scans whose hash is not in `known` are read."""
    named = {origin for record in records.values() for origin in origins_of(record)}
    hashes = {(parent.dataset, parent.case_id): parent.image_sha256 for parent in known if parent.image_sha256}
    unknown = {(dataset, case_id) for dataset, case_id, _ in named} - hashes.keys()
    for dataset in {dataset for dataset, _ in unknown}:
        case_ids = {case_id for name, case_id in unknown if name == dataset}
        hashes |= {(dataset, i): sha256 for i, sha256 in (contents_of(dataset, case_ids) or {}).items()}
    return [Parent(dataset, i, hashes.get((dataset, i)), (role,)) for dataset, i, role in named]


def leaks(parents: Iterable[Parent], dataset: str, cases: Mapping[str, str | None]) -> list[str]:
    """List the cases that are parents, by id or by content, each with its roles.

    Args:
        parents: Parents of the synthetic data set.
        dataset: Full name of the cases' data set.
        cases: Case id → hash of the scan, None where it is not known.
    """
    by_id = {parent.case_id: parent for parent in parents if parent.dataset == dataset}
    by_content = {parent.image_sha256: parent for parent in parents if parent.image_sha256 is not None}
    found = []
    for case_id, sha256 in cases.items():
        parent = by_id.get(case_id) or by_content.get(sha256 or "")
        if parent is not None:
            itself = (parent.dataset, parent.case_id) == (dataset, case_id)
            scan = "" if itself else f"the scan of {parent.dataset}'s {parent.case_id}, which "
            found.append(f"{case_id} ({scan}{', '.join(parent.roles)})")
    return found


def fold_fault(synthetic: str, dataset: str, fold: int, leaking: Sequence[str]) -> str:
    """Return the fault of a real data set's fold that must not be trained after pretraining on a synthetic one.

    The cases are those that `leaks` found among the fold's validation cases.
    """
    return (
        f"{dataset}, fold {fold}: validation cases must be none that {synthetic} was made from, got {listed(leaking)}. "
        f"Pretrain on a set of this fold, fcas_generate --fold {fold}, or train fold all; {ALLOW_VARIABLE}=1 "
        "allows it, but the validation then proves nothing."
    )


def unknown_fault(synthetic: str, dataset: str, fold: int | str, unknown: Sequence[str]) -> str:
    """Return the fault of folds that must not be trained after pretraining on cases of unknown origin.

    The cases are those that `unknown_origins` found.
    """
    return (
        f"{dataset}, fold {fold}: it must be known what every case of {synthetic} was made from, got no line in "
        f"{MANIFEST_FILE} for {listed(unknown)}. Copy their lines from the set that they are from, or, of scans of "
        f'your own, write lines {{"{CASE_ID}": "{unknown[0]}"}}; then prepare and pretrain again. Or train fold all; '
        f"{ALLOW_VARIABLE}=1 allows it, but the validation then may prove nothing."
    )


def validation_faults(
    parents: Iterable[Parent],
    synthetic: str,
    preprocessed: Path,
    fold: int | str,
    validation: Sequence[str],
    warn: Callable[[str], Any],
) -> list[str]:
    """List the fault of a fold whose validation cases are parents of the pretraining data; at most one sentence.

    Fold `all` has no held-out cases, so it has no fault.

    Args:
        parents: Parents of the synthetic data set.
        synthetic: Name of that data set.
        preprocessed: `$nnUNet_preprocessed/DatasetNNN_Name` of the training.
        fold: Fold of the training.
        validation: Ids of its validation cases.
        warn: Function that is called with a warning if hashes of scans are not known.
    """
    parents = list(parents)
    if fold == "all" or not parents:
        return []
    contents = validation_contents(preprocessed, validation)
    unknown = sum(sha256 is None for sha256 in contents.values())
    if unknown:
        warn(
            f"{preprocessed.name}: scans of {unknown} of {len(contents)} validation cases are not known here, so they "
            f"are held against {synthetic} by id alone. Copy {CONTENTS_FILE} from where fcas_prepare ran."
        )
    leaking = leaks(parents, preprocessed.name, contents)
    return [fold_fault(synthetic, preprocessed.name, int(fold), leaking)] if leaking else []


def held_out_faults(parents: Iterable[Parent], dataset: RawDataset) -> list[str]:
    """List the fault of a data set whose imagesTs contains scans of these parents; at most one sentence."""
    leaking = leaks(parents, "", held_out_contents(dataset))
    fault = (
        f"{dataset.name}: scans of imagesTs must be none that the generator learns or draws from, got "
        f"{listed(leaking)}. Take them out of imagesTs, or out of the training cases; {ALLOW_VARIABLE}=1 allows "
        "it, but the test then proves nothing."
    )
    return [fault] if leaking else []


def refuse_leaks(faults: Sequence[str], warn: Callable[[str], Any]) -> None:
    """Refuse leaks, or warn of them if the user's environment allows leaks.

    Raises:
        InputError: Listing all faults, one a line.
    """
    if faults and not leaks_allowed():
        raise InputError("\n".join(faults))
    for fault in faults:
        warn(f"WARNING, allowed by {ALLOW_VARIABLE}: {fault}")


def leaks_allowed() -> bool:
    """Return whether the user has set `FCAS_ALLOW_LEAKS` to 1."""
    return os.environ.get(ALLOW_VARIABLE) == "1"


def validation_contents(preprocessed: Path, case_ids: Sequence[str]) -> dict[str, str | None]:
    """Return hashes of validation cases: those that fcas_prepare saved, else those of the raw scans; else None."""
    hashes = known_contents(preprocessed)
    missing = [case_id for case_id in case_ids if case_id not in hashes]
    if missing:  # a cluster may have the preprocessed cases alone: their ids remain
        hashes |= contents_of(preprocessed.name, missing) or {}
    return {case_id: hashes.get(case_id) for case_id in case_ids}


def learnt_cases(model: Path, folds: Sequence[str]) -> list[Parent]:
    """Return every case that any of a network's folds, numbers or `all`, was trained on.

    The model is nnU-Net's folder `<trainer>__<plans>__<configuration>`.
    """
    name = dataset_of_plans(model / PLANS_JSON)
    preprocessed = Path(os.environ.get(Root.PREPROCESSED.value, os.devnull)) / name
    contents = known_contents(preprocessed) | (contents_of(name) or {})  # saved hashes, in case the scans are gone
    splits = splits_of(preprocessed / SPLITS_FILE, list(contents))
    known = {case_id for fold in splits for part in fold.values() for case_id in part} | contents.keys()
    training: set[str] = set()
    for fold in folds:
        numbered = fold.isdecimal() and int(fold) < len(splits)
        training |= set(splits[int(fold)]["train"]) if numbered else known
    return [Parent(name, case_id, contents.get(case_id), (Role.TRAINING,)) for case_id in sorted(training)]


def derived_cases(synthetic: RawDataset, learnt: Sequence[Parent]) -> set[str]:
    """Return the synthetic cases whose mask or template comes from a case that the network has learnt from.

    Cases whose record names no source are not included, since their origin is not known.
    """
    hashes = {(p.dataset, p.case_id): p.image_sha256 for p in from_json(synthetic.dataset_json) or []}
    return {
        case_id
        for case_id, record in Manifest(synthetic.folder).read().items()
        if any(leaks(learnt, name, {i: hashes.get((name, i))}) for name, i, _ in origins_of(record))
    }
