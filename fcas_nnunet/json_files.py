"""Read JSON objects that this package has written, and check their schema and version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import what_is_at

SCHEMA, SCHEMA_VERSION = "schema", "schema_version"


def read_json(path: Path, advice: str = "Take the file as it was saved.") -> dict[str, Any]:
    """Read a JSON object; `advice` ends every message.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it holds no JSON object.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: file must exist, got {what_is_at(path)}. {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # invalid JSON, not UTF-8, nested without an end
        raise InputError(f"{path}: content must be JSON, got an error: {error}. {advice}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: content must be a JSON object, got a {type(content).__name__}. {advice}")
    return content


def check_schema(path: Path, content: Mapping[str, Any], known: Mapping[str, int], advice: str) -> None:
    """Raise an `InputError` for a schema or a version that is not in `known`; `advice` ends the message."""
    schema, version = content.get(SCHEMA), content.get(SCHEMA_VERSION)
    if not isinstance(schema, str) or schema not in known:
        raise InputError(f"{path}: schema must be one of {', '.join(known)}, got {schema}. {advice}")
    if version != known[schema]:
        raise InputError(f"{path}: schema_version of {schema} must be {known[schema]}, got {version}. {advice}")
