"""Hashes of what a synthetic case's files hold: the manifest keeps them, and a swapped or altered file is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from fcas_nnunet.case import Case
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE
from fcas_nnunet.integration.dataset.volumes import quantise_confidence, quantise_image

#: Key of a manifest record: part of the case → SHA-256 of its voxels as they are stored.
CONTENTS = "contents"
IMAGE, LABEL, CONFIDENCE_MAP = "image", "label", "confidence"

_STORED = {IMAGE: quantise_image, LABEL: lambda labels: labels.astype(np.uint8), CONFIDENCE_MAP: quantise_confidence}


def case_contents(case: Case) -> dict[str, str]:
    """Hash what will be written of a case: part → SHA-256 of its voxels; header and compression do not count."""
    parts = {IMAGE: case.image, LABEL: case.mask, CONFIDENCE_MAP: case.confidence}
    return {part: _sha256(part, array) for part, array in parts.items() if array is not None}


def contents_faults(case_id: str, part: str, array: np.ndarray, contents: Mapping[str, str]) -> list[str]:
    """One sentence when a part of a case, as read with scaling applied, has other voxels than were written, else none.

    `contents` are those of the manifest's record; parts without a hash are taken as they are.
    """
    if part not in contents or _sha256(part, array) == contents[part]:
        return []
    return [
        f"{case_id}: {part} must be the one that was written for it, got other voxels, as when files of two cases are "
        f'swapped. Generate the case again, or, if you changed it yourself, take "{CONTENTS}" out of its line in '
        f"{MANIFEST_FILE}."
    ]


def _sha256(part: str, array: np.ndarray) -> str:
    stored = np.ascontiguousarray(_STORED[part](array))
    digest = hashlib.sha256(str(stored.shape).encode())
    digest.update(stored.data)
    return digest.hexdigest()
