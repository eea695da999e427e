"""The real cases that a synthetic data set was made from: whoever learns from it must not be validated on them.

They stand in its `dataset.json`, which nnU-Net copies into every checkpoint, so that fine-tuning finds them there. A
trained nnU-Net, for its part, must not judge what it has learnt from, nor what was made from that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from fcas_nnunet.integration.dataset.folders import PLANS_JSON, Root
from fcas_nnunet.integration.dataset.library import split_name
from fcas_nnunet.integration.dataset.manifest import CASE_ID, MANIFEST_FILE, Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import SPLITS_FILE, splits_of
from fcas_nnunet.integration.provenance.contents import (
    CONTENTS_FILE,
    contents_of,
    held_out_contents,
    known_contents,
    training_contents,
)
from fcas_nnunet.json_files import read_json
from fcas_nnunet.listing import listed

#: Key in dataset.json: data set → case id → what is known of the parent.
PARENTS_KEY = "fcas_parents"
#: Key in a prepared dataset.json: ids of the cases whose origin the manifest does not tell.
UNKNOWN_KEY = "fcas_unknown"
ALLOW_VARIABLE = "FCAS_ALLOW_LEAKS"


class Role(StrEnum):
    """What a real case gave to a synthetic data set."""

    TRAINING = "trained the generator"
    VALIDATION = "chose its weights"
    CALIBRATION = "calibrated it"
    REFERENCE = "gave masks"
    TEMPLATE = "was a template"
    PRETRAINING = "is among the synthetic cases"


@dataclass(frozen=True)
class Parent:
    """A real case that a synthetic data set was made from."""

    dataset: str  # full name
    case_id: str
    image_sha256: str | None  # None where it is not known
    roles: tuple[Role, ...]


def merged(parents: Iterable[Parent]) -> list[Parent]:
    """Each case once, with all its roles, sorted."""
    of_case: dict[tuple[str, str], Parent] = {}
    for parent in parents:
        before = of_case.get((parent.dataset, parent.case_id), replace(parent, roles=()))
        roles = tuple(role for role in Role if role in (*before.roles, *parent.roles))
        sha256 = before.image_sha256 or parent.image_sha256
        of_case[parent.dataset, parent.case_id] = replace(parent, image_sha256=sha256, roles=roles)
    return [of_case[key] for key in sorted(of_case)]


def to_json(parents: Sequence[Parent]) -> dict[str, dict[str, Any]]:
    """What stands in dataset.json under `PARENTS_KEY`."""
    content: dict[str, dict[str, Any]] = {}
    for parent in parents:
        entry = {"image_sha256": parent.image_sha256, "roles": [role.name.lower() for role in parent.roles]}
        content.setdefault(parent.dataset, {})[parent.case_id] = entry
    return content


def from_json(dataset_json: Mapping[str, Any]) -> list[Parent] | None:
    """The parents that a dataset.json names; None where it names none.

    Raises:
        ValueError: when the entry is broken.
    """
    if PARENTS_KEY not in dataset_json:
        return None
    try:
        return [
            Parent(dataset, case_id, entry["image_sha256"], tuple(Role[role.upper()] for role in entry["roles"]))
            for dataset, cases in dataset_json[PARENTS_KEY].items()
            for case_id, entry in cases.items()
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"dataset.json: {PARENTS_KEY} must be what fcas_generate wrote, got an error: {error!r}. "
            "Run fcas_generate again: it writes the file anew and keeps the cases."
        ) from error


def parents_of(synthetic: RawDataset) -> list[Parent]:
    """All parents of a synthetic data set; also its own cases that are real, or of which no line tells the reference.

    What dataset.json does not name is taken from the manifest: the reference and template of every line, also of one
    that was copied from another set. Where the lines are of several generators, or dataset.json names no parents (of a
    set that an earlier version made), all cases of the lines' sources count as the generators' training cases.
    """
    own = from_json(synthetic.dataset_json)
    records = Manifest(synthetic.folder).read()
    generators = {record.get("weights_sha256") for record in records.values()}
    found = [] if own is None else own
    if own is None or len(generators) > 1:
        sources = sorted({str(record["source"]) for record in records.values() if "source" in record})
        found = [*found, *(parent for source in sources for parent in _whole_source(source, records))]
    drawn = {case_id for case_id, record in records.items() if "reference" in record}
    own_scans = sorted(set(synthetic.case_ids) - drawn) if synthetic.has_confidence else []
    contents = training_contents(synthetic, own_scans)
    pretrained = [Parent(synthetic.name, case_id, contents[case_id], (Role.PRETRAINING,)) for case_id in own_scans]
    return merged([*found, *_drawn_from(records, found), *pretrained])


def unknown_origins(synthetic: RawDataset) -> list[str]:
    """Cases with a confidence map but no line in the manifest: nothing tells what they were made from.

    Without any manifest the confidence maps are the user's own, and there is none to complete.
    """
    manifest = Manifest(synthetic.folder)
    if not manifest.path.is_file():
        return []
    told = manifest.read().keys()
    return [i for i in synthetic.case_ids if i not in told and synthetic.confidence_path(i).is_file()]


def origins_of(record: Mapping[str, Any]) -> list[tuple[str, str, Role]]:
    """Data set, id and role of the cases that gave a synthetic case its mask and its appearance.

    A manifest's record without a source tells nothing.
    """
    roles = (("reference", Role.REFERENCE), ("template", Role.TEMPLATE))
    given = [(str(record[key]), role) for key, role in roles if key in record and "source" in record]
    return [(*split_name(name, str(record["source"])), role) for name, role in given]


def _whole_source(source: str, records: Mapping[str, Mapping[str, Any]]) -> list[Parent]:
    """All cases of a source, or those that the manifest names where it is not there."""
    contents: Mapping[str, str | None] | None = contents_of(source)
    if contents is None:
        contents = {i: None for r in records.values() for dataset, i, _ in origins_of(r) if dataset == source}
    return [Parent(source, case_id, sha256, (Role.TRAINING,)) for case_id, sha256 in contents.items()]


def _drawn_from(records: Mapping[str, Mapping[str, Any]], known: Iterable[Parent]) -> list[Parent]:
    """References and templates of a manifest's lines; only scans whose hash `known` does not hold are read."""
    named = {origin for record in records.values() for origin in origins_of(record)}
    hashes = {(parent.dataset, parent.case_id): parent.image_sha256 for parent in known if parent.image_sha256}
    unknown = {(dataset, case_id) for dataset, case_id, _ in named} - hashes.keys()
    for dataset in {dataset for dataset, _ in unknown}:
        case_ids = {case_id for name, case_id in unknown if name == dataset}
        hashes |= {(dataset, i): sha256 for i, sha256 in (contents_of(dataset, case_ids) or {}).items()}
    return [Parent(dataset, i, hashes.get((dataset, i)), (role,)) for dataset, i, role in named]


def leaks(parents: Iterable[Parent], dataset: str, cases: Mapping[str, str | None]) -> list[str]:
    """Which cases are parents, by id or by content, each with what it gave.

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
    """Why a fold of a real data set must not be trained after pretraining on a synthetic one, and what to do.

    The cases are those that `leaks` found among the fold's validation cases.
    """
    return (
        f"{dataset}, fold {fold}: validation cases must be none that {synthetic} was made from, got {listed(leaking)}. "
        f"Pretrain on a set of this fold, fcas_generate --fold {fold}, or train fold all; {ALLOW_VARIABLE}=1 goes on, "
        "and then the validation proves nothing."
    )


def unknown_fault(synthetic: str, dataset: str, fold: int | str, unknown: Sequence[str]) -> str:
    """Why a fold, or several, must not be trained after pretraining on cases of unknown origin, and what to do.

    The cases are those that `unknown_origins` found.
    """
    return (
        f"{dataset}, fold {fold}: it must be known what every case of {synthetic} was made from, got no line in "
        f"{MANIFEST_FILE} for {listed(unknown)}. Copy their lines from the set that they are from, or, of scans of "
        f'your own, write lines {{"{CASE_ID}": "{unknown[0]}"}}; then prepare and pretrain again. Or train fold all; '
        f"{ALLOW_VARIABLE}=1 goes on, and then the validation may prove nothing."
    )


def validation_faults(
    parents: Iterable[Parent],
    synthetic: str,
    preprocessed: Path,
    fold: int | str,
    validation: Sequence[str],
    warn: Callable[[str], Any],
) -> list[str]:
    """Why a fold whose validation cases are parents of what it was pretrained on must not be trained; a sentence at
    most. Fold `all` holds none out.

    Args:
        parents: Parents of the synthetic data set.
        synthetic: Name of that data set.
        preprocessed: `$nnUNet_preprocessed/DatasetNNN_Name` of the training.
        fold: Fold of the training.
        validation: Ids of its validation cases.
        warn: Called with a warning where scans are not known.
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
    """Why a data set's imagesTs cannot test what learns from these parents; a sentence at most."""
    leaking = leaks(parents, "", held_out_contents(dataset))
    fault = (
        f"{dataset.name}: scans of imagesTs must be none that the generator learns or draws from, got "
        f"{listed(leaking)}. Take them out of imagesTs, or out of the training cases; {ALLOW_VARIABLE}=1 goes on, and "
        "then the test proves nothing."
    )
    return [fault] if leaking else []


def refuse_leaks(faults: Sequence[str], warn: Callable[[str], Any]) -> None:
    """Refuse, or warn where the user's environment allows leaks.

    Raises:
        ValueError: Listing all faults, one a line.
    """
    if faults and not leaks_allowed():
        raise ValueError("\n".join(faults))
    for fault in faults:
        warn(f"WARNING, allowed by {ALLOW_VARIABLE}: {fault}")


def leaks_allowed() -> bool:
    """Whether the user has set `FCAS_ALLOW_LEAKS` to 1."""
    return os.environ.get(ALLOW_VARIABLE) == "1"


def validation_contents(preprocessed: Path, case_ids: Sequence[str]) -> dict[str, str | None]:
    """Hashes of validation cases: kept by fcas_prepare, else of the raw data set; None where it is not there."""
    hashes = known_contents(preprocessed)
    missing = [case_id for case_id in case_ids if case_id not in hashes]
    if missing:  # a cluster may have the preprocessed cases alone: their ids remain
        hashes |= contents_of(preprocessed.name, missing) or {}
    return {case_id: hashes.get(case_id) for case_id in case_ids}


def learnt_cases(model: Path, folds: Sequence[str]) -> list[Parent]:
    """Every case that any of a network's folds, numbers or `all`, was trained on.

    The model is nnU-Net's folder `<trainer>__<plans>__<configuration>`.
    """
    name = str(read_json(model / PLANS_JSON)["dataset_name"])
    preprocessed = Path(os.environ.get(Root.PREPROCESSED.value, os.devnull)) / name
    contents = known_contents(preprocessed) | (contents_of(name) or {})  # what fcas_prepare kept may have to do
    splits = splits_of(preprocessed / SPLITS_FILE, list(contents))
    known = {case_id for fold in splits for part in fold.values() for case_id in part} | contents.keys()
    training: set[str] = set()
    for fold in folds:
        numbered = fold.isdecimal() and int(fold) < len(splits)
        training |= set(splits[int(fold)]["train"]) if numbered else known
    return [Parent(name, case_id, contents.get(case_id), (Role.TRAINING,)) for case_id in sorted(training)]


def derived_cases(synthetic: RawDataset, learnt: Sequence[Parent]) -> set[str]:
    """The synthetic cases whose mask or template is of a case that the network has learnt from.

    Of cases whose record names no source nothing is known; they count as others.
    """
    hashes = {(p.dataset, p.case_id): p.image_sha256 for p in from_json(synthetic.dataset_json) or []}
    return {
        case_id
        for case_id, record in Manifest(synthetic.folder).read().items()
        if any(leaks(learnt, name, {i: hashes.get((name, i))}) for name, i, _ in origins_of(record))
    }
