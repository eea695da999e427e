"""Results of fcas_evaluate: their schemas and versions, writing them as JSON and CSV, and reading them back."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from fcas_nnunet.config.schema import check_form, form
from fcas_nnunet.earlier_names import present_names
from fcas_nnunet.files import atomic_path, atomic_write_json, free_path
from fcas_nnunet.json_files import SCHEMA, SCHEMA_VERSION, check_schema, read_json

SEGMENTATIONS = "fcas-nnunet/segmentations"
COMPARISON = "fcas-nnunet/comparison"
IMAGE_QUALITY = "fcas-nnunet/image-quality"
CONFIDENCE = "fcas-nnunet/confidence"
FIDELITY = "fcas-nnunet/fidelity"
MEMORISATION = "fcas-nnunet/memorisation"

#: Part of fcas_evaluate → schema of what it writes.
SCHEMAS = {
    "segmentations": SEGMENTATIONS, "compare": COMPARISON, "images": IMAGE_QUALITY, "confidence": CONFIDENCE,
    "fidelity": FIDELITY, "memorisation": MEMORISATION,
}  # fmt: skip
#: Schema → version; it rises when a field changes its meaning or goes away (docs/evaluation.md lists the changes).
VERSIONS = {SEGMENTATIONS: 2, COMPARISON: 1, IMAGE_QUALITY: 1, CONFIDENCE: 2, FIDELITY: 2, MEMORISATION: 2}
#: Those with fields that earlier versions named otherwise.
_RENAMED = (IMAGE_QUALITY, CONFIDENCE, MEMORISATION)


def header(schema: str) -> dict[str, Any]:
    """The first fields of a result, which say what it is."""
    return {SCHEMA: schema, SCHEMA_VERSION: VERSIONS[schema]}


def write_result(path: Path, report: dict[str, Any]) -> None:
    """Write a result as JSON; a score that does not exist (NaN) becomes null."""
    atomic_write_json(path, _without_nan(report))


@form
class _SegmentationSettings:
    labels: dict[str, Any]
    rdice_radii_voxels: list[int] = field(default_factory=list)
    overlap_only: bool = False
    empty_masks: str = ""


@form
class _Segmentations:
    """What other commands read of the scores of segmentations."""

    settings: _SegmentationSettings
    cases: dict[str, dict[str, dict[str, Any]]]
    references: str = ""
    predictions: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    references_sha256: dict[str, str] = field(default_factory=dict)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table; a score that does not exist (NaN) becomes an empty cell."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows([["" if cell != cell else cell for cell in row] for row in rows])


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(path: Path, schemas: Sequence[str] = tuple(VERSIONS)) -> dict[str, Any]:
    """Read a result of fcas_evaluate.

    Args:
        path: JSON file that fcas_evaluate wrote with -o.
        schemas: Schemas that are accepted.

    Raises:
        MissingFileError: if there is no file.
        InputError: if it is no JSON, or of another schema or version.
    """
    parts = {schema: part for part, schema in SCHEMAS.items()}
    part = parts[schemas[0]] if len(schemas) == 1 else "PART"
    advice = f"Name a result of fcas_evaluate, or make one: fcas_evaluate {part} ... -o {free_path(path)}"
    content = read_json(path, advice)
    schema = content.get(SCHEMA)
    if isinstance(schema, str) and schema in schemas:  # a result of the same part may be overwritten
        advice = f"Make it again with this version of fcas_evaluate: fcas_evaluate {parts[schema]} ... -o {path}"
    check_schema(path, content, {schema: VERSIONS[schema] for schema in schemas}, advice)
    content = dict(present_names(content)) if content[SCHEMA] in _RENAMED else content
    if content[SCHEMA] == SEGMENTATIONS:
        check_form(_Segmentations, content, f"{path}: ", advice)
    return content
