"""Evaluate a reading: scores and ranks of the methods, agreement of the readers, and tests of the differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import friedmanchisquare, wilcoxon

from fcas_nnunet.config.files import to_dict
from fcas_nnunet.evaluation.reading.protocol import Key
from fcas_nnunet.evaluation.reading.scores import Reader, ScoredImage
from fcas_nnunet.evaluation.statistics.agreement import ordinal_alpha
from fcas_nnunet.evaluation.statistics.comparison import holm
from fcas_nnunet.evaluation.statistics.means import summarise
from fcas_nnunet.faults import InputError

RESULTS_SCHEMA, RESULTS_VERSION = "fcas-nnunet/reading", 1
RANK, TOTAL = "rank", "total"


def measure(image: ScoredImage, name: str) -> float:
    """A criterion, `total` or `rank` of a scored image; NaN where it is missing."""
    found = getattr(image, name) if name in (RANK, TOTAL) else image.scores.get(name)
    return math.nan if found is None else float(found)


def evaluate_reading(key: Key, readers: Sequence[Reader]) -> dict[str, Any]:
    """Compute all results of a reading but the pictures, as docs/reading.md describes them; JSON-able but for NaN.

    Raises:
        InputError: if nothing was scored.
    """
    images = [image for reader in readers for image in reader.images]
    if not images:
        raise InputError("readers: at least one image must be scored, got none. Wait for the readers.")
    measures = [*(criterion.key for criterion in key.protocol.criteria), TOTAL, RANK]
    summary = {method: _summary(images, method, measures) for method in key.methods}
    order = sorted(key.methods, key=lambda method: np.nan_to_num(summary[method][RANK]["mean"], nan=math.inf))
    return {
        "schema": RESULTS_SCHEMA,
        "schema_version": RESULTS_VERSION,
        "reading_id": key.reading_id,
        "seed": key.seed,
        "protocol": to_dict(key.protocol),
        "methods": {method: key.methods[method] for method in order},
        "bags": len(key.bags),
        "readers": [
            {
                "name": reader.name,
                "experience": reader.experience,
                "complete_bags": len(key.bags) - len(reader.incomplete),
                "incomplete_bags": reader.incomplete,
                "comments": reader.comments,
            }
            for reader in readers
        ],
        "summary": {method: summary[method] for method in order},
        "agreement": {name: _alpha(images, name) for name in measures},
        "tests": {name: method_tests(blocks(images, order, name), order) for name in measures},
        "images": [asdict(image) for image in images],
    }


def _summary(images: Sequence[ScoredImage], method: str, measures: Sequence[str]) -> dict[str, Any]:
    """Summarise all readings of a method: every reader's every bag counts once."""
    own = [image for image in images if image.method == method]
    result: dict[str, Any] = {}
    for name in measures:
        values = [measure(image, name) for image in own]
        present = [value for value in values if not math.isnan(value)]
        median = float(np.median(present)) if present else math.nan
        result[name] = {**vars(summarise(values)), "median": median}
    result["first_share"] = _first_share(images, method)
    return result


def _first_share(images: Sequence[ScoredImage], method: str) -> float:
    """Share of ranked bags in which a method came first; a first place shared by k counts 1/k."""
    bags: dict[tuple[str, str], dict[str, float]] = {}
    for image in images:
        if image.rank is not None:
            bags.setdefault((image.reader, image.bag_id), {})[image.method] = image.rank
    winners = [[name for name, rank in ranks.items() if rank == min(ranks.values())] for ranks in bags.values()]
    return summarise([names.count(method) / len(names) for names in winners]).mean


def _alpha(images: Sequence[ScoredImage], name: str) -> float:
    """Agreement on a measure; a unit is an image."""
    readers = list(dict.fromkeys(image.reader for image in images))
    units = {unit: i for i, unit in enumerate(dict.fromkeys((image.bag_id, image.method) for image in images))}
    table = np.full((len(readers), len(units)), math.nan)
    for image in images:
        table[readers.index(image.reader), units[image.bag_id, image.method]] = measure(image, name)
    return ordinal_alpha(table.tolist())


def blocks(images: Sequence[ScoredImage], methods: Sequence[str], name: str) -> np.ndarray:
    """Tabulate a measure for the tests: a row a bag, the mean over the readers who scored all of its methods.

    A bag counts once however many read it, since readers of the same images are not independent samples.

    Returns:
        [bags, methods] float64, without NaN.
    """
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for image in images:
        rows.setdefault((image.bag_id, image.reader), {})[image.method] = measure(image, name)
    by_bag: dict[str, list[list[float]]] = {}
    for (bag_id, _), values in rows.items():
        row = [values.get(method, math.nan) for method in methods]
        if not any(math.isnan(value) for value in row):
            by_bag.setdefault(bag_id, []).append(row)
    return np.array([np.mean(readings, axis=0) for readings in by_bag.values()]).reshape(-1, len(methods))


def method_tests(table: np.ndarray, methods: Sequence[str]) -> dict[str, Any]:
    """Run Friedman's test over all methods, and Wilcoxon's for every pair with Holm's correction over the pairs.

    Args:
        table: A measure of each bag and method, [bags, methods].
        methods: Names of the methods.

    Returns:
        Friedman's chi square and its p value, NaN for two methods or fewer than two bags; for every pair the mean
        difference, second minus first, and its p values, 1 where no bag differs; the number of bags.
    """
    count = len(table)
    pairs: list[dict[str, Any]] = []
    for first, second in combinations(range(len(methods)), 2):
        differences = table[:, second] - table[:, first]
        p_value = math.nan if not count else float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0
        mean = float(differences.mean()) if count else math.nan
        pairs.append({"first": methods[first], "second": methods[second], "difference": mean, "p_value": p_value})
    for pair, corrected in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        pair |= {"holm_p_value": corrected, "count": count}
    statistic, p_value = _friedman(table)
    return {"friedman_statistic": statistic, "friedman_p_value": p_value, "count": count, "pairs": pairs}


def _friedman(table: np.ndarray) -> tuple[float, float]:
    if len(table) < 2 or table.shape[1] < 3:
        return math.nan, math.nan
    if np.all(table == table[:, :1]):
        return 0.0, 1.0
    result = friedmanchisquare(*table.T)
    return float(result.statistic), float(result.pvalue)


def reading_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a row a method, the best mean rank first."""
    criteria = report["protocol"]["criteria"]
    header = ["method", *(criterion["name"] for criterion in criteria), "rank (median)", "first"]
    rows = []
    for method, scores in report["summary"].items():
        measures = [scores[name] for name in (*(criterion["key"] for criterion in criteria), RANK)]
        cells = [f"{_number(m['mean'], 2)} ± {_number(m['std'], 2)} ({_number(m['median'], 1)})" for m in measures]
        first = scores["first_share"]
        rows.append([method, *cells, "–" if math.isnan(first) else f"{first:.0%}"])
    return header, rows


def tests_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of agreement and tests: a row a measure."""
    names = {criterion["key"]: criterion["name"] for criterion in report["protocol"]["criteria"]}
    rows = []
    for name, tests in report["tests"].items():
        significant = sum(pair["holm_p_value"] < 0.05 for pair in tests["pairs"])
        alpha, statistic = _number(report["agreement"][name], 2), _number(tests["friedman_statistic"], 2)
        p_value, pairs = _p(tests["friedman_p_value"]), f"{significant} of {len(tests['pairs'])}"
        rows.append([names.get(name, name), alpha, statistic, p_value, pairs, str(tests["count"])])
    return ["measure", "alpha", "Friedman χ²", "p", "pairs with p < 0.05", "bags"], rows


_NAMED = ("reader", "bag_id", "reference", "method", "case_id", "letter")
#: Columns of --csv, as a regular expression: the criteria are the protocol's.
CSV_COLUMNS = rf"{','.join(_NAMED)}(,\w+)+,{TOTAL},{RANK}"


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv, a row per reader, bag and method."""
    keys = [criterion["key"] for criterion in report["protocol"]["criteria"]]
    rows = [
        [*(image[name] for name in _NAMED), *(image["scores"].get(key, "") for key in keys), image[TOTAL], image[RANK]]
        for image in report["images"]
    ]
    return [*_NAMED, *keys, TOTAL, RANK], [["" if cell is None else cell for cell in row] for row in rows]


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.0001" if value < 1e-4 else f"{value:.4f}"
