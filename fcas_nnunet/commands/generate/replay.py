"""`fcas_generate --replay`: make cases again from the recipes and seeds in their manifest lines."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.cli import make_parser, processes
from fcas_nnunet.commands.generate.checks import check_output
from fcas_nnunet.commands.generate.sources import TOLD
from fcas_nnunet.commands.generate.varied import VARIETY_CONFIG
from fcas_nnunet.commands.generate.workers import Job, finish, generate
from fcas_nnunet.commands.runtime.channels import generator_channel_faults
from fcas_nnunet.commands.runtime.label_table import OF_LABELS, roles_from_json
from fcas_nnunet.commands.runtime.leaks import drawing_parents, generator_parents
from fcas_nnunet.commands.runtime.shares import Share
from fcas_nnunet.config.generator import ConfidenceConfig, MaskConfig, SamplingConfig
from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.config.schema import from_dict
from fcas_nnunet.config.sources import PaintConfig, WarpConfig
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.generator.checkpoint import GeneratorRecord, case_sha256, generator_exists, load_record, weights_sha256
from fcas_nnunet.generator.data.grid import GEOMETRY
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.sources.registration import REGISTRATION
from fcas_nnunet.integration.dataset.folders import Root, model_name, new_dataset_folder, resolve_dataset, root_folder
from fcas_nnunet.integration.dataset.library import CaseLibrary, make_library, split_name
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE, Journal, Manifest, versions
from fcas_nnunet.integration.dataset.ownership import GENERATE, refuse_foreign_cases
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON, RawDataset, write_dataset_json
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, from_json, merged, to_json
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles
from fcas_nnunet.labels.regions import Entries
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

Records = Mapping[str, Mapping[str, Any]]

#: Keys that a line must have to be made again, keys that all cases of a run share, and keys that depend on the case.
_NEEDED = ("source", "preset", "mask_config", "label_map")
_SHARED = (*_NEEDED, "roles", "for", "fold", "references", "templates", "run_seed")
_OF_CASE = ("seed", "reference", "template", "masks", "mgm")
#: Source of scans → keys that all cases of it in a run share.
_OF_SCAN = TOLD | {ScanSource.DRAWN: (*TOLD[ScanSource.DRAWN], "geometry", "registration")}

_EXAMPLE = """
fcas_generate --replay $nnUNet_raw/Dataset902_HeartFCaS/fcas_manifest.jsonl -o 903
fcas_generate --replay 902 -o 903 fcas_00007 fcas_00012     # these two cases alone
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of `fcas_generate --replay`."""
    parser = make_parser(
        "fcas_generate --replay",
        "Make synthetic cases again from their manifest lines, into a data set of their own; on a CPU, with the same "
        "versions of the packages, to the same bytes. The scans that they were made from, and the generator that drew "
        "them, must be there as they were.",
        _EXAMPLE,
    )
    parser.add_argument(
        "--replay", required=True, metavar="MANIFEST", help=f"a {MANIFEST_FILE}, or the data set that holds it"
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="these cases alone (default: all)")
    parser.add_argument("-o", metavar="ID", help="data set to write (default: the next free id, named … + Replay)")
    parser.add_argument(
        "-device", default="auto", choices=["auto", "cpu", "cuda"], help="device to run on (default: auto)"
    )
    parser.add_argument("-np", type=processes, metavar="P", help="processes (default: one per core; 1 on a GPU)")
    return parser


def run(argv: Sequence[str]) -> None:
    """Run `fcas_generate --replay`.

    Raises:
        MissingFileError: If the manifest, a data set or the generator is missing.
        InputError: If cases cannot be made again, or their generator, scans or masks have changed.
    """
    parser = build_parser()
    if {"-h", "--help"} & set(argv):
        parser.parse_args(["--help"])  # though --replay has no argument
    args = parser.parse_args(argv)
    path = manifest_path(args.replay)
    records = _chosen(path, args.cases)
    shared, of_scan = _shared(records, path), _of_scan(records, path)
    output = new_dataset_folder(args.o, default_name=_default_name(path, shared["source"]), by="-o")
    if output.resolve() == path.parent.resolve():
        raise InputError(
            f"-o: must be another data set than the one that is made again, got {output.name} for both. "
            "Give another id, or none for a free one."
        )
    refuse_foreign_cases(output, GENERATE)
    for source in (ScanSource.REGISTERED, ScanSource.DRAWN):
        _check_registration(of_scan.get(source), path)
    drawn = of_scan.get(ScanSource.DRAWN)
    model = confidence = sampling = generator = None
    if drawn is not None:
        model = root_folder(Root.RESULTS) / shared["source"] / model_name(shared["preset"], shared["fold"])
        confidence = from_dict(ConfidenceConfig, drawn["confidence"], f"{path}: confidence.")
        sampling = from_dict(SamplingConfig, drawn["sampling"], f"{path}: sampling.")
        generator = _generator_record(model, confidence, drawn)
    library = _library(records, shared, generator, model)
    _check_parents(records, library)
    _name_other_versions(records)
    plans = [CasePlan.from_record(record) for record in records.values()]
    job = Job(
        cases=library, model=model, output=output, confidence=confidence or ConfidenceConfig(), bounds_ml={},
        sampling=sampling or SamplingConfig(), of_scan=of_scan,
        masks=from_dict(MaskConfig, shared["mask_config"], f"{path}: mask_config."),
        warp=from_dict(WarpConfig, _warp_settings(of_scan), f"{path}: warp."),
        paint=from_dict(PaintConfig, of_scan.get(ScanSource.PAINTED, {}).get("paint", {}), f"{path}: paint."),
        label_map={int(source): target for source, target in shared["label_map"].items() if source != IGNORE},
        ignore_id=shared["label_map"].get(IGNORE),
        roles=roles_from_json(shared["roles"]), device_name=args.device if drawn else "cpu",
        shared=shared | {"versions": versions()}, replayed=records,
    )  # fmt: skip
    check_output(plans, job)
    generate(plans, Share(), job, args.np)
    labels, roles, of_labels = _labels(path, library.source, job)
    learnt = from_json(library.source.dataset_json) or []
    if model is not None and generator is not None:
        learnt = generator_parents(model, library.source, generator)
    parents = merged([*learnt, *drawing_parents(library)])
    note = f"Synthetic, made again by fcas_generate --replay from {path.name} of {path.parent.name}."
    more = {**of_labels, PARENTS_KEY: to_json(parents)}
    describe = partial(
        write_dataset_json, output, labels, channel_names=library.source.channel_names, roles=roles, description=note,
        more=more,
    )  # fmt: skip
    finish(plans, Share(), output, describe, library.source.num_channels)
    print(f"done: {len(plans)} cases made again in {output}")


def _warp_settings(of_scan: Mapping[ScanSource, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of warping, of which registered scans have the contrast."""
    for source in (ScanSource.WARPED, ScanSource.REGISTERED):
        if source in of_scan:
            return dict(of_scan[source]["warp"])
    return {}


def _check_registration(registered: Mapping[str, Any] | None, path: Path) -> None:
    if registered is not None and registered.get("registration", REGISTRATION) != REGISTRATION:
        raise InputError(
            f"{path}: registered scans must be of version {REGISTRATION} of the registration, got version "
            f"{registered['registration']}. Make them with the version of fcas-nnunet that the line names."
        )


def manifest_path(argument: str) -> Path:
    """Return the manifest that `--replay` names by its file, or by the folder, id or name of a data set."""
    path = Path(argument)
    if not path.exists():
        path = resolve_dataset(argument, by="--replay", also="manifest")
    path = path / MANIFEST_FILE if path.is_dir() else path
    if not path.is_file():
        raise MissingFileError(f"{path}: the manifest must be there, got no file. Name a set that fcas_generate made.")
    return path


def _chosen(path: Path, cases: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the lines of the requested cases, after checking that they have all keys for making them again."""
    records = Manifest(path.parent).read() if path.name == MANIFEST_FILE else Journal(path).read()
    unknown = [case_id for case_id in cases if case_id not in records]
    if not records:
        raise InputError(f"{path}: cases must be in it, got none. Name a set that fcas_generate made.")
    if unknown:
        raise InputError(
            f"{path}: cases must be in it, got {listed(unknown)}. Name some of its {len(records)}: "
            f"{listed(list(records))}."
        )
    chosen = {case_id: records[case_id] for case_id in dict.fromkeys(cases or records)}
    faults = [
        f"{path}: {case_id}: the line must hold {', '.join(missing)}, got none. Only cases that fcas_generate made can "
        "be made again."
        for case_id, record in chosen.items()
        if (missing := [key for key in (*_NEEDED, *TOLD[ScanSource.of(record)], *_OF_CASE) if key not in record])
    ]
    if faults:
        raise InputError("\n".join(faults))
    return chosen


def _shared(records: Records, path: Path) -> dict[str, Any]:
    """Return the entries that all lines share, in the form of this version's lines."""
    of_some = [key for key in ("shares", VARIETY_CONFIG) if any(key in record for record in records.values())]
    return _common(records, (*_SHARED, *of_some), path)


def _of_scan(records: Records, path: Path) -> dict[ScanSource, dict[str, Any]]:
    """Return, for each source that lines are of, the further entries that these share."""
    by_source: dict[ScanSource, dict[str, Mapping[str, Any]]] = {}
    for case_id, record in records.items():
        by_source.setdefault(ScanSource.of(record), {})[case_id] = record
    found = {source: _common(theirs, _OF_SCAN[source], path) for source, theirs in by_source.items()}
    return {
        source: {key: value for key, value in entries.items() if value is not None} for source, entries in found.items()
    }


def _common(records: Records, keys: Sequence[str], path: Path) -> dict[str, Any]:
    """Return entries that lines must share."""
    first = next(iter(records.values()))
    shared = {key: first.get(key) for key in keys}
    others = [case_id for case_id, record in records.items() if any(record.get(key) != shared[key] for key in keys)]
    if others:
        raise InputError(
            f"{path}: cases that are made again together must be of one run, got others: {listed(others)}. "
            "Name them apart."
        )
    return shared


def _library(
    records: Records, shared: Mapping[str, Any], generator: GeneratorRecord | None, model: Path | None
) -> CaseLibrary:
    """Open the references of the lines and the templates of those that have one, also of other data sets.

    The labels are the source's; `generator` is there if lines are of drawn cases.
    """
    source = RawDataset.open(resolve_dataset(shared["source"]))
    with_template = [record for record in records.values() if ScanSource.of(record).has_template]
    references, templates = (
        [":".join(split_name(record[key], source.name)) for record in chosen]
        for key, chosen in (("reference", records.values()), ("template", with_template))
    )
    library = make_library(source, references, templates or None, [])
    faults = library.label_faults(draws_surroundings=generator is not None and generator.draws_surroundings)
    if generator is not None and model is not None:
        faults += generator_channel_faults(model, generator, source)
    if generator is not None and dict(generator.labels) != dict(source.labels):
        faults.append(
            f"{source.name}: labels must be those that its generator was trained on, got others. Put its "
            "dataset.json back."
        )
    if faults:
        raise InputError("\n".join(faults))
    return library


def _generator_record(model: Path, confidence: ConfidenceConfig, drawn: Mapping[str, Any]) -> GeneratorRecord:
    """Load the record of the generator, after checking that it made the cases."""
    if not generator_exists(model):
        raise MissingFileError(
            f"{model}: the generator that made the cases must be there, got none. Put it back: another one, trained "
            "with the same settings on another machine, draws other scans."
        )
    if drawn["geometry"] != GEOMETRY:
        raise InputError(
            f"{model}: scans must be resampled to the working grid as for the cases, way {drawn['geometry']}, got "
            f"{GEOMETRY} of this version. Make them again with the version that their lines name."
        )
    found = weights_sha256(model, confidence)
    if found != drawn["weights_sha256"]:
        raise InputError(
            f"{model}: weights must be those that made the cases, SHA-256 {drawn['weights_sha256'][:12]}…, got "
            f"{found[:12]}…. Put the original generator back."
        )
    return load_record(model)


def _check_parents(records: Records, library: CaseLibrary) -> None:
    """Check that every scan and mask that the cases were made from is unchanged."""
    wanted: dict[str, set[str]] = {}
    for record in records.values():
        for key, sha256 in record.get("parents_sha256", {}).items():
            wanted.setdefault(record[key], set()).add(sha256)
    if not wanted:
        logger.warning("these lines are of an older version and hold no hashes: whether scans changed is not known")
    changed = [name for name, hashes in wanted.items() if hashes != {case_sha256(library.load_case(name))}]
    if changed:
        raise InputError(
            f"{library.source.name}: scans and masks must be those that the cases were made from, got other content "
            f"for {listed(sorted(changed))}. Put the originals back."
        )


def _name_other_versions(records: Records) -> None:
    now = versions()
    then = sorted({pair for record in records.values() for pair in record.get("versions", {}).items()})
    other = [
        f"{name} {version} then, {now.get(name, 'none')} now" for name, version in then if now.get(name) != version
    ]
    if other:
        logger.warning(f"packages are of other versions, so that scans may differ in places: {'; '.join(other)}")


def _labels(path: Path, source: RawDataset, job: Job) -> tuple[Entries, GivenRoles, dict[str, Any]]:
    """Return labels, roles and further entries to write: the original set's, else the source's names and roles with
    the written ids."""
    if (path.parent / DATASET_JSON).is_file():
        original = RawDataset.open(path.parent)
        content = original.dataset_json
        return content["labels"], original.roles, {key: content[key] for key in OF_LABELS if key in content}
    written = {name: job.label_map[label] for name, label in source.labels.items() if label and job.label_map[label]}
    ignored = {} if job.ignore_id is None else {IGNORE: job.ignore_id}
    roles = {name: given for name, given in job.roles.items() if name in written}
    return {BACKGROUND: 0, **written, **ignored}, roles, {}


def _default_name(path: Path, source: str) -> str:
    own = path.parent.name if path.name == MANIFEST_FILE and path.parent.name.startswith("Dataset") else f"{source}FCaS"
    return f"{own.split('_', 1)[1]}Replay"
