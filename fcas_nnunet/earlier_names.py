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


#: Keys of objects whose own keys are users' names of cases and labels.
_OF_USERS = ("cases", "labels", "left_out", "structures")


def present_names(content: Any, *, of_users: bool = False) -> Any:
    """Give the keys of plain content, in all its dicts and lists, their present names; what has them is unchanged.

    Ids of cases and names of labels stay as they are; `of_users` says that the content's own keys are such.
    """
    if isinstance(content, dict):
        return {
            key if of_users else RENAMED.get(key, key): present_names(value, of_users=not of_users and key in _OF_USERS)
            for key, value in content.items()
        }
    return [present_names(value) for value in content] if isinstance(content, list) else content
