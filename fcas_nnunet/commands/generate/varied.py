"""What the scans of a set take on of the labelled scans that it is made from."""

from __future__ import annotations

from typing import Any

from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.sources import VarietyConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.sources.variety import Traits, measure
from fcas_nnunet.integration.dataset.library import CaseLibrary

#: Key of the settings in every record of a set whose scans take on something.
VARIETY_CONFIG = "variety_config"
#: More labelled scans add nothing to the range of their traits, but minutes of reading.
_MOST_SCANS = 64


def variety_record(config: VarietyConfig) -> dict[str, Any]:
    """The settings as every record of a set holds them; of sets whose scans take on nothing, nothing."""
    return {VARIETY_CONFIG: to_dict(config)} if config.any else {}


def traits_of(library: CaseLibrary) -> list[Traits]:
    """Measure the templates' scans, or the references' where a set has no templates; some evenly chosen ones of many.

    They are parents of the set, as all its templates and references are.

    Raises:
        InputError: If none has a scan.
    """
    names = list(dict.fromkeys(library.templates or library.references))
    num_labels = max(library.source.labels.values())
    found = [
        measure(case, num_labels)
        for name in names[:: -(-len(names) // _MOST_SCANS)]
        if (case := library.load_case(name)).image is not None
    ]
    if not found:
        raise InputError(
            f"{library.source.name}: templates must have scans for the settings of variety, got none. Set them to 0."
        )
    return found
