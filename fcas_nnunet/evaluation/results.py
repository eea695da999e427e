"""What fcas_evaluate writes: the schemas with their versions, and reading a result back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcas_nnunet.files import free_path
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


def header(schema: str) -> dict[str, Any]:
    """The fields that say what a result is; its first ones."""
    return {SCHEMA: schema, SCHEMA_VERSION: VERSIONS[schema]}


def read_result(path: Path, schemas: Sequence[str] = tuple(VERSIONS)) -> dict[str, Any]:
    """Read a result of fcas_evaluate.

    Args:
        path: JSON that it wrote with -o.
        schemas: those that are taken.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is no JSON, or of another schema or version.
    """
    parts = {schema: part for part, schema in SCHEMAS.items()}
    part = parts[schemas[0]] if len(schemas) == 1 else "PART"
    advice = f"Name a result of fcas_evaluate, or make one: fcas_evaluate {part} ... -o {free_path(path)}"
    content = read_json(path, advice)
    schema = content.get(SCHEMA)
    if isinstance(schema, str) and schema in schemas:  # its own kind may be written over
        advice = f"Make it again with this version of fcas_evaluate: fcas_evaluate {parts[schema]} ... -o {path}"
    check_schema(path, content, {schema: VERSIONS[schema] for schema in schemas}, advice)
    return content
