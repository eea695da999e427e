"""fcas_report reading prepare: bags of one reference by every method, blinded, on one page."""

from __future__ import annotations

import argparse
import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fcas_nnunet.commands.evaluate.scans import Scans, open_scans
from fcas_nnunet.commands.runtime.case_files import default_workers, grid_faults, run_cases
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.evaluation.reading.page import ShownBag, render_page
from fcas_nnunet.evaluation.reading.protocol import (
    KEY_SCHEMA,
    KEY_VERSION,
    Bag,
    Protocol,
    draw_bags,
    load_protocol,
    reading_id,
    refuse_named_methods,
)
from fcas_nnunet.evaluation.reading.shown import MARGIN_MM, QUALITY, enough_voxels, shown_image, voxels_per_volume
from fcas_nnunet.evaluation.viewing.atlas import Atlas, atlas_of
from fcas_nnunet.evaluation.viewing.colours import window_of
from fcas_nnunet.evaluation.viewing.frame import frame_of
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_json, atomic_write_text, file_sha256
from fcas_nnunet.integration.dataset.library import name_in
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.volumes import read_grid, read_label_map, read_scan
from fcas_nnunet.intensities import unit_name
from fcas_nnunet.labels.matching import id_table, match_labels
from fcas_nnunet.labels.resampling import nearest_labels
from fcas_nnunet.seeds import derive_seed

PAGE_FILE, KEY_FILE = "reading.html", "key.json"
REAL = "real"

_PILOT_BAGS = 2
_SEED_BITS = 48  # a whole number in every reader of JSON


@dataclass(frozen=True)
class Candidate:
    """A case that may stand for its method in a bag."""

    case_id: str  # id in the method's data set
    image: Path  # the scan
    mask: Path | None  # label map; None in a bare folder
    labels: np.ndarray | None  # [256] uint8, the map's ids → those that all methods label
    channel_name: str  # of the scan's channel


@dataclass(frozen=True)
class Choice:
    """Cases of one reference by every method, all under one mask."""

    candidates: dict[str, Candidate]  # method → case
    mask: Candidate | None  # the method whose label map is shown, where one has any


@dataclass(frozen=True)
class _Job:
    bag: Bag
    choice: Choice
    voxels: int


@dataclass(frozen=True)
class _Made:
    shown: ShownBag
    hashes: dict[str, str]


def run(args: argparse.Namespace) -> None:
    """Choose and blind the cases, draw and write the page; nothing of another reading is overwritten."""
    with exclusive(args.o, refuse=partial(_refuse_another_reading, args.o)):
        _prepare(args)


def _refuse_another_reading(folder: Path) -> None:
    if (folder / KEY_FILE).exists():
        raise InputError(
            f"{folder / KEY_FILE}: folder must not hold the key of another reading, got one. Name another with -o: "
            "without its key a reading cannot be unblinded."
        )
    if (folder / PAGE_FILE).exists():
        raise InputError(
            f"{folder / PAGE_FILE}: must be new, got one that has no key. Name another folder with -o, or remove it."
        )


def _prepare(args: argparse.Namespace) -> None:
    """Prepare a reading; the key is written last."""
    key_path, page_path = args.o / KEY_FILE, args.o / PAGE_FILE
    protocol = load_protocol(args.criteria) if args.criteria else Protocol()
    methods = open_methods(args.methods, args.real, args.channel)
    labels = common_labels(methods)
    refuse_named_methods(_texts(protocol, labels), methods)
    seed = secrets.randbits(_SEED_BITS) if args.seed is None else args.seed
    workers = args.np or default_workers()

    chosen, left_out = choose(methods, args.n, seed, workers)
    bags = draw_bags(list(chosen), list(methods), seed)
    made = _make_to_size(bags, chosen, args.megabytes, workers)

    shown = [bag.shown for bag in made.values()]
    identity = reading_id(protocol, [_sha256(atlas) for bag in shown for atlas in bag.images.values()])
    unit = unit_name(next(iter(methods.values())).channel_name)
    page = render_page(protocol, identity, shown, labels, unit)
    atomic_write_text(page_path, page)
    key = {
        "schema": KEY_SCHEMA,
        "schema_version": KEY_VERSION,
        "reading_id": identity,
        "seed": seed,
        "protocol": to_dict(protocol),
        "methods": {name: scans.name for name, scans in methods.items()},
        "channels": {name: scans.channel_name for name, scans in methods.items()},
        "bags": {bag.bag_id: _key_of(bag, chosen[bag.reference], made[bag.bag_id]) for bag in bags},
        "left_out": left_out,
        "page_sha256": file_sha256(page_path),
        "versions": versions(),
    }
    atomic_write_json(key_path, key)
    _say_what_was_made(page_path, key_path, shown, args.n, len(methods))


def open_methods(arguments: Sequence[str], real: str | None, channel: int = 0) -> dict[str, Scans]:
    """Open one channel of the scans of every method, the real ones last.

    Raises:
        InputError: if an argument is no NAME=DATASET, a name is taken, or there are fewer than two.
    """
    faults: list[str] = []
    named: dict[str, str] = {}
    for argument in arguments:
        name, _, source = argument.partition("=")
        name = name.strip()
        if not name or not source:
            faults.append(f"--methods: each must be NAME=DATASET_OR_FOLDER, got {argument!r}.")
        elif name.casefold() in {other.casefold() for other in named} or (real and name.casefold() == REAL):
            faults.append(
                f"--methods: names must differ, also from {REAL!r} with --real, got {name!r} again. Rename it."
            )
        else:
            named[name] = source
    if not faults and len(named) + bool(real) < 2:
        faults.append(f"--methods: there must be two to compare, got {', '.join(named)}. Name another, or --real.")
    if faults:
        raise InputError("\n".join(faults))
    methods = {name: open_scans(source, "--methods", channel) for name, source in named.items()}
    return methods | ({REAL: open_scans(real, "--real", channel)} if real else {})


def common_labels(methods: Mapping[str, Scans]) -> dict[str, int]:
    """Name → id, as in the first data set, of the labels that every data set among the methods has."""
    datasets = [scans.dataset for scans in methods.values() if scans.dataset is not None]
    if not datasets:
        return {}
    first = datasets[0].labels
    found = [set(match_labels(dataset.labels, first).values()) for dataset in datasets]
    return {name: label_id for name, label_id in first.items() if label_id and all(label_id in ids for ids in found)}


def choose(
    methods: Mapping[str, Scans], number: int, seed: int, workers: int
) -> tuple[dict[str, Choice], dict[str, str]]:
    """Pick references in random order until there are enough of which every method has a case under the same mask.

    Args:
        methods: Name → scans; the real ones stand for themselves, others for their manifest's `reference`, where they
            have one, or the case of the same id.
        number: Largest number of references.
        seed: Seed of the order.
        workers: Number of processes that compare masks.

    Returns:
        reference → its cases; reference → why it was left out, of those that were tried.

    Raises:
        InputError: if there is none.
    """
    candidates = {name: _candidates(name, scans, methods) for name, scans in methods.items()}
    shared = sorted(set.intersection(*(set(by_reference) for by_reference in candidates.values())))
    if not shared:
        counts = ", ".join(f"{len(by_reference)} in {name}" for name, by_reference in candidates.items())
        raise InputError(
            f"references: at least one must have a case of every method, got none ({counts}). "
            "Generate all from the same masks (fcas_generate --masks given), or give cases the same ids."
        )
    order = np.random.default_rng(derive_seed(seed, "references")).permutation(len(shared))
    waiting = [shared[i] for i in order]
    chosen: dict[str, Choice] = {}
    left_out: dict[str, str] = {}
    while waiting and len(chosen) < number:
        batch, waiting = waiting[: number - len(chosen)], waiting[number - len(chosen) :]
        jobs = {reference: {name: found[reference] for name, found in candidates.items()} for reference in batch}
        for reference, choice in run_cases(_choose, jobs, workers=workers, description="masks").items():
            if isinstance(choice, str):
                left_out[reference] = choice
            else:
                chosen[reference] = choice
    if not chosen:
        reasons = "\n".join(f"{reference}: {reason}" for reference, reason in sorted(left_out.items()))
        raise InputError(
            f"{reasons}\nreferences: at least one must be under the same mask in every method, got none of "
            f"{len(shared)}. Generate all from the same masks (fcas_generate --masks given)."
        )
    return chosen, left_out


def _candidates(name: str, scans: Scans, methods: Mapping[str, Scans]) -> dict[str, list[Candidate]]:
    """Reference → the method's cases of it."""
    dataset = scans.dataset
    records = Manifest(dataset.folder).read() if dataset is not None and name != REAL else {}
    table = None if dataset is None else _label_table(dataset.labels, methods)
    real_name = methods[REAL].name if REAL in methods else ""
    found: dict[str, list[Candidate]] = {}
    for case_id, image in sorted(scans.files.items()):
        reference = name_in(str(records.get(case_id, {}).get("reference", case_id)), real_name)
        mask = None if dataset is None else dataset.mask_path(case_id)
        found.setdefault(reference, []).append(Candidate(case_id, image, mask, table, scans.channel_name))
    return found


def _label_table(labels: Mapping[str, int], methods: Mapping[str, Scans]) -> np.ndarray:
    first = next(scans.dataset for scans in methods.values() if scans.dataset is not None).labels
    common = set(common_labels(methods).values())
    return id_table({source: target for source, target in match_labels(labels, first).items() if target in common})


def _choose(candidates: dict[str, list[Candidate]]) -> Choice | str:
    """Choose the first cases that share a mask and a grid, or say why there are none."""
    digests = {name: [_mask_digest(case) for case in cases] for name, cases in candidates.items()}
    masked = [name for name, found in digests.items() if found[0] is not None]
    wanted = digests[masked[0]] if masked else [None]
    shared = [digest for digest in wanted if all(digest in digests[name] for name in masked)]
    if not shared:
        return "masks differ between the methods"
    picked = {
        name: cases[digests[name].index(shared[0]) if name in masked else 0] for name, cases in candidates.items()
    }
    cases = list(picked.values())
    mask = picked[masked[0]] if masked else None
    others = [case.image for case in cases[1:]] + ([mask.mask] if mask is not None and mask.mask else [])
    faults = [fault for other in others for fault in grid_faults(cases[0].image, other)]
    return faults[0] if faults else Choice(picked, mask)


def _mask_digest(case: Candidate) -> str | None:
    """The label map's contents, the common labels alone; None for a case without one."""
    if case.mask is None:
        return None
    mask = _read_mask(case)
    return hashlib.sha256(repr(mask.shape).encode() + mask.tobytes()).hexdigest()


def _read_mask(case: Candidate) -> np.ndarray:
    assert case.mask is not None and case.labels is not None, "only cases of data sets have masks"
    return case.labels[read_label_map(case.mask).array]


def _make_to_size(
    bags: Sequence[Bag], chosen: Mapping[str, Choice], megabytes: float, workers: int
) -> dict[str, _Made]:
    """Make all bags' pictures, as fine as the page's size allows; since noisy scans take more space, that is tried out.

    A few bags show how well these scans compress; if all together are still too large, all are made coarser.
    """
    num_volumes = len(bags) * len(bags[0].methods)
    voxels = voxels_per_volume(megabytes, num_volumes)
    made: dict[str, _Made] = {}
    for part in (bags[:_PILOT_BAGS], bags):
        allowed = megabytes * 1e6 * len(part) / len(bags)
        while len(made) < len(part):
            jobs = {bag.bag_id: _Job(bag, chosen[bag.reference], voxels) for bag in part}
            made = run_cases(_make, jobs, workers=workers, description="bags")
            size = 4 / 3 * sum(len(atlas.data) for bag in made.values() for atlas in bag.shown.atlases.values())
            if size > allowed:
                largest = max(math.prod(bag.shown.shape) for bag in made.values())
                voxels = enough_voxels(int(min(voxels, largest) * 0.95 * allowed / size), num_volumes)
                made = {}
    return made


def _make(job: _Job) -> _Made:
    """Make a bag's pictures, in the order of its letters."""
    cases = {letter: job.choice.candidates[method] for letter, method in job.bag.methods.items()}
    full, affine = read_grid(cases["A"].image)  # the grid of all
    mask = None if job.choice.mask is None else _read_mask(job.choice.mask)
    frame = frame_of(np.broadcast_to(False, full) if mask is None else mask, affine, MARGIN_MM)
    shape = frame.even_shape(job.voxels)
    scans = {letter: frame.upright(read_scan(case.image, case.channel_name).array) for letter, case in cases.items()}
    images = {letter: atlas_of(shown_image(scan, shape), QUALITY) for letter, scan in scans.items()}
    shown_mask = None if mask is None else atlas_of(nearest_labels(frame.upright(mask), shape))
    windows = [window_of(scan, unit_name(cases[letter].channel_name)) for letter, scan in scans.items()]
    low, high = np.median(windows, axis=0).tolist()
    shown = ShownBag(job.bag.bag_id, shape, frame.spacing_at(shape), images, shown_mask, (low, high))
    return _Made(shown, {letter: file_sha256(case.image) for letter, case in cases.items()})


def _key_of(bag: Bag, choice: Choice, made: _Made) -> dict[str, object]:
    return {
        "reference": bag.reference,
        "shape": made.shown.shape,
        "spacing_mm": made.shown.spacing_mm,
        "letters": {
            letter: {
                "method": method,
                "case_id": choice.candidates[method].case_id,
                "image": str(choice.candidates[method].image),
                "image_sha256": made.hashes[letter],
                "shown_sha256": _sha256(made.shown.images[letter]),
            }
            for letter, method in bag.methods.items()
        },
    }


def _sha256(atlas: Atlas) -> str:
    return hashlib.sha256(atlas.data).hexdigest()


def _texts(protocol: Protocol, labels: Mapping[str, int]) -> dict[str, str]:
    """Every text from the user that the page shows, by its origin."""
    texts = {name: str(getattr(protocol, name)) for name in ("title", "introduction", "lowest_means", "highest_means")}
    for criterion in protocol.criteria:
        texts |= {f"criterion {criterion.key}": f"{criterion.key} | {criterion.name} | {criterion.question}"}
    return texts | {f"label {name}": name.replace("_", " ") for name in labels}


def _say_what_was_made(page: Path, key: Path, shown: Sequence[ShownBag], wanted: int, num_methods: int) -> None:
    spacings = [sum(bag.spacing_mm) / 3 for bag in shown]
    print(
        f"{len(shown)} bags of {num_methods} images, {min(spacings):.2f} to {max(spacings):.2f} mm a voxel, "
        f"{page.stat().st_size / 1e6:.1f} MB"
    )
    if len(shown) < wanted:
        print(f"fewer than {wanted}: no other reference has a case of every method under the same mask")
    print(f"{page}: for the readers")
    print(f"{key}: yours alone; it says which letter is which method")
