"""Run nnU-Net's preprocessing, and transform the confidence maps in the same way."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import blosc2
import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_path, atomic_write_json
from fcas_nnunet.integration.dataset.checks import dataset_faults
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.plain_files import read_pickle
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import quantise_confidence
from fcas_nnunet.integration.preprocessing.cases import PreprocessedCases, for_every_case
from fcas_nnunet.integration.preprocessing.confidence_store import (
    CONFIDENCE_ENDING,
    CONFIDENCE_FOLDER,
    ConfidenceStore,
    label_sums,
    map_hashes,
    maps_step,
    open_confidence,
    preprocessed_confidence_path,
    write_index,
)
from fcas_nnunet.integration.preprocessing.plans import (
    DEFAULT_PLANS,
    FINGERPRINT,
    ensure_plans,
    plans_path,
    preprocessed_folder,
    shrink_plans,
)
from fcas_nnunet.integration.preprocessing.stamps import (
    Stamps,
    file_state,
    newest_scan_change,
    preprocessing_digests,
    scans_digests,
    unreadable_faults,
)
from fcas_nnunet.known_files import digest_of

logger = logging.getLogger(__name__)

_FINGERPRINT_STEP = "fingerprint"

Resampling = Callable[..., Any]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Geometry:
    """The preprocessing geometry of one configuration of a plans file."""

    plans: PlansManager
    configuration: ConfigurationManager

    @classmethod
    def of(cls, plans: dict[str, Any], configuration: str) -> Geometry:
        """Return the geometry of a configuration by name."""
        manager = PlansManager(plans)
        return cls(manager, manager.get_configuration(configuration))

    def read(self, path: Path) -> np.ndarray:
        """Read a file as nnU-Net reads it under these plans, [1, D, H, W] float32."""
        array, _ = self.plans.image_reader_writer_class().read_images([str(path)])
        return array

    def replay(self, array: np.ndarray, properties: dict[str, Any], resample: Resampling) -> np.ndarray:
        """Transpose, crop and resample an array as nnU-Net did the case's segmentation.

        Args:
            array: [1, D, H, W] on the raw grid, in the reader's axis order.
            properties: the properties of the case that nnU-Net wrote into its `.pkl`.
            resample: one of the configuration's resampling functions.

        Returns:
            [1, D', H', W'] on the grid of the preprocessed segmentation.
        """
        forward = self.plans.transpose_forward
        array = array.transpose([0, *[axis + 1 for axis in forward]])
        array = array[(slice(None), *[slice(*bounds) for bounds in properties["bbox_used_for_cropping"]])]
        spacing = [properties["spacing"][axis] for axis in forward]
        target_spacing = list(self.configuration.spacing)
        if len(target_spacing) < len(spacing):  # 2d: slices keep their distance
            target_spacing = [spacing[0], *target_spacing]
        new_shape = compute_new_shape(array.shape[1:], spacing, target_spacing)
        resampled: np.ndarray = resample(array, new_shape, spacing, target_spacing)
        return resampled


def ensure_checked(real: RawDataset, synthetic: RawDataset | None = None) -> None:
    """Read every case that is new or has changed, and refuse broken data sets.

    Real cases may lack a confidence map; without a manifest, every case of the synthetic data set needs one.

    Raises:
        InputError: listing all faults of both data sets, one a line.
    """
    faults = [*dataset_faults(real, any_grid=True), *unreadable_faults(real)]
    if synthetic is not None:
        every_map = not Manifest(synthetic.folder).path.is_file()
        faults += dataset_faults(synthetic, any_grid=True, every_map=every_map)
        faults += unreadable_faults(synthetic)
    if faults:
        raise InputError("\n".join(faults))


@contextmanager
def _nnunet_at_work(dataset: RawDataset, plans: str = "") -> Iterator[None]:
    """Say in a sentence that a worker of nnU-Net has died, or that it cannot work by these plans."""
    try:
        yield
    except InputError:
        raise
    except RuntimeError as error:
        if "background worker" not in str(error):
            raise
        raise InputError(
            f"{dataset.name}: nnU-Net's workers must run to their end, got one that died, most likely for lack of "
            "memory. Take fewer processes (-np); what it said stands above."
        ) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if not plans:
            raise
        raise InputError(
            f"{plans}: plans must be such as nnU-Net can work by, got an error: {error!r}. Make them again with "
            "nnUNetv2_plan_experiment."
        ) from error


def ensure_fingerprint(dataset: RawDataset, num_processes: int, *, keep_existing: bool) -> None:
    """Extract nnU-Net's fingerprint unless there is one of the unchanged data set.

    With `keep_existing`, a fingerprint that nnU-Net's own commands made is kept.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints

    stamps, digests = Stamps.of(dataset), scans_digests(dataset)
    known = stamps.read().get(_FINGERPRINT_STEP)
    exists = _is_json(preprocessed_folder(dataset) / FINGERPRINT)
    if exists and (known in digests or (known is None and keep_existing)):
        return
    with _nnunet_at_work(dataset):
        extract_fingerprints([dataset.dataset_id], num_processes=num_processes, clean=True, verbose=False)
    stamps.put(_FINGERPRINT_STEP, digests[0])


def _is_json(path: Path) -> bool:
    """Return whether a file is there and whole: nnU-Net, if killed, leaves a part of what it was writing."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def ensure_narrow_plans(
    real: RawDataset,
    plans_name: str,
    configuration: str,
    *,
    features_per_stage: Sequence[int],
    patch_size: Sequence[int],
    batch_size: int | None = None,
    convolutions_per_stage: Sequence[int] | None = None,
    num_processes: int = 1,
) -> None:
    """Write nnU-Net's default plans, narrowed for a CPU as `shrink_plans` does, unless there are plans of that name."""
    path = plans_path(real, plans_name)
    if not path.is_file():
        ensure_fingerprint(real, num_processes, keep_existing=True)
        plans = shrink_plans(
            ensure_plans(real, DEFAULT_PLANS, [configuration]), configuration, plans_name=plans_name,
            features_per_stage=features_per_stage, patch_size=patch_size, batch_size=batch_size,
            convolutions_per_stage=convolutions_per_stage,
        )  # fmt: skip
        atomic_write_json(path, plans)


def ensure_preprocessed(
    dataset: RawDataset, plans: dict[str, Any], configuration: str, num_processes: int, *, keep_existing: bool
) -> None:
    """Run nnU-Net's own preprocessing of the cases of one configuration that are not whole or have changed since.

    Args:
        dataset: raw data set to preprocess.
        plans: plans of the data set, saved under their name.
        configuration: configuration of the plans.
        num_processes: number of nnU-Net's worker processes.
        keep_existing: keep what nnU-Net's own commands made if it is complete and younger than the raw files.
    """
    geometry = Geometry.of(plans, configuration)
    step = geometry.configuration.data_identifier
    now, earlier, settings = preprocessing_digests(dataset, plans, geometry.configuration.configuration)
    cases = PreprocessedCases(dataset, plans, configuration, now, settings)
    known, there = Stamps.of(dataset).read().get(step), cases.are_there()
    are_current = there and known in (now, earlier)
    if there and known is None and keep_existing:  # nnU-Net's own commands made it
        are_current = min(path.stat().st_mtime for path in cases.folder.glob("*.pkl")) >= newest_scan_change(dataset)
    with _nnunet_at_work(dataset, plans["plans_name"]):
        is_done = cases.ensure(num_processes, are_current=are_current)
    if is_done:
        logger.info("%s %s: already preprocessed, skipped.", dataset.name, configuration)


def ensure_confidence(dataset: RawDataset, plans: dict[str, Any], configuration: str, num_processes: int) -> None:
    """Write the confidence maps that are missing or outdated beneath a configuration's preprocessed cases, and their
    index, with the sums of weights that means need; without any raw map, remove those of an earlier run.

    Preprocessing a case removes its map, so existing maps belong to the cases beside them. Cases
    without a raw map are real ones: `ensure_checked` has checked that every synthetic case has its map.
    """
    geometry = Geometry.of(plans, configuration)
    step = geometry.configuration.data_identifier
    folder, stamps = preprocessed_folder(dataset) / step, Stamps.of(dataset)
    raw = {case_id: list(file_state(dataset.confidence_path(case_id))) for case_id in dataset.mapped_cases()}
    if not raw:
        stamps.drop(maps_step(step))
        shutil.rmtree(folder / CONFIDENCE_FOLDER, ignore_errors=True)
        return
    (folder / CONFIDENCE_FOLDER).mkdir(exist_ok=True)
    resumed = stamps.read().get(maps_step(step)) == digest_of(raw)  # what a killed run wrote is of these raw maps
    stamps.put(maps_step(step), digest_of(raw))
    known = None
    with suppress(InputError):  # no index, or a broken one: all maps are written again
        known = ConfidenceStore.read(folder)
    hashes = map_hashes(folder, raw)
    missing = [i for i in raw if not _map_is_current(i, hashes.get(i), raw[i], known, resumed)]
    if missing:
        work = partial(_write_map, dataset, geometry, folder)
        for_every_case(work, missing, f"confidence maps, {configuration}", num_processes)
    else:
        logger.info("%s %s: confidence maps are already present, skipped.", dataset.name, configuration)
    kept = {} if known is None else {i: known.sums[i] for i in set(raw).difference(missing) if i in known.sums}
    summed = for_every_case(
        partial(label_sums, folder), [i for i in raw if i not in kept], f"mean weights, {configuration}", num_processes
    )
    write_index(folder, dataset.case_ids, raw, {i: (kept | summed)[i] for i in raw})
    for path in (folder / CONFIDENCE_FOLDER).glob(f"*{CONFIDENCE_ENDING}"):
        if path.name.removesuffix(CONFIDENCE_ENDING) not in raw:
            path.unlink()


def _map_is_current(
    case_id: str, found: str | None, raw: Sequence[int], known: ConfidenceStore | None, resumed: bool
) -> bool:
    """Return whether a map exists that was made from the present raw map: as the index says, or a run that resumes.

    `found` is the hash of the map that is there, None without one.
    """
    sha256 = known.sha256.get(case_id) if known else None
    if known is None or sha256 is None:
        return resumed and found is not None
    return list(known.raw.get(case_id, raw)) == raw and sha256 == found


def _write_map(dataset: RawDataset, geometry: Geometry, folder: Path, case_id: str) -> None:
    """Transform one case's confidence map and store it [1, D, H, W] on its segmentation's grid."""
    properties = read_pickle(folder / f"{case_id}.pkl")
    raw = geometry.read(dataset.confidence_path(case_id))
    confidence = geometry.replay(raw, properties, geometry.configuration.resampling_fn_probabilities)
    quantised = quantise_confidence(confidence, dataset.max_weight)
    shape = open_confidence(folder / f"{case_id}_seg.b2nd").shape
    assert quantised.shape == shape, f"{case_id}: confidence {quantised.shape} and segmentation {shape} share a grid"
    blocks, chunks = comp_blosc2_params(shape, tuple(geometry.configuration.patch_size), quantised.itemsize)
    layout = {"chunks": chunks, "blocks": blocks, "cparams": {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1}}
    with atomic_path(preprocessed_confidence_path(folder, case_id)) as temporary:
        blosc2.asarray(np.ascontiguousarray(quantised), urlpath=str(temporary), mode="w", **layout)
