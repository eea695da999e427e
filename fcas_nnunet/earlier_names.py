"""Names in files of earlier versions, which said HU whatever the modality, and what they are called today."""

from __future__ import annotations

from typing import Any

#: Settings, and keys of manifests, of calibrations and their drawings, of results and of exports.
RENAMED = {
    "intensity_range_hu": "intensity_range",
    "contrast_jitter_hu": "contrast_jitter",
    "surroundings_jitter_hu": "surroundings_jitter",
    "means_hu": "means",
    "error_hu": "error",
    "spread_hu": "spread",
    "certain_hu": "certain",
    "uncertain_hu": "uncertain",
    "expected_error_hu": "expected_error",
    "low_hu": "low",
    "high_hu": "high",
    "mean_hu": "mean",
    "std_hu": "std",
    "between_cases_hu": "between_cases",
    "wasserstein_hu": "wasserstein",
    "rmse_hu": "rmse_units",
    "mean_error_hu": "mean_error",
    "window_hu": "mapped",
}


def present_names(content: Any) -> Any:
    """Give the keys of plain content, in all its dicts and lists, their present names; what has them is unchanged."""
    if isinstance(content, dict):
        return {RENAMED.get(key, key): present_names(value) for key, value in content.items()}
    return [present_names(value) for value in content] if isinstance(content, list) else content
