"""Plan synthetic cases: reference, template and seed of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from fcas_nnunet.config.options import SCAN, ReferenceSource, ScanSource
from fcas_nnunet.seeds import derive_seed


@dataclass(frozen=True)
class CasePlan:
    """One synthetic case to be made; depends on the run's seed and the case's number alone.

    Attributes:
        case_id: Name of the synthetic case.
        seed: Seed of the case's deformation and noise.
        reference: Case whose mask is drawn.
        template: Case whose image and mask guide the drawing.
        masks: Source of the mask: `given`, or `mgm`, which deforms the reference's first.
        scan: Source of the scan; of a warped or painted one the template is the reference.
        attempt: How often the case was made before, and discarded since its labels were not found in its scan.
        hard: Whether its reference was chosen since the labels of its earlier cases were hard to find.
    """

    case_id: str
    seed: int
    reference: str
    template: str
    masks: ReferenceSource
    scan: ScanSource = ScanSource.DRAWN
    attempt: int = 0
    hard: bool = False

    @property
    def kind(self) -> str:
        """What cases have in common that take about as long to make."""
        return str(self.masks) if self.scan == ScanSource.DRAWN else f"{self.masks}, {self.scan}"

    def of_reference(self, reference: str) -> CasePlan:
        """The plan with another reference."""
        template = self.template if self.scan.has_template else reference
        return replace(self, reference=reference, template=template)

    def to_record(self) -> dict[str, Any]:
        """The plan as part of a manifest record, without what is as usual; bare masks have no `scan`."""
        record = asdict(self) | {"masks": str(self.masks), SCAN: str(self.scan)}
        usual = {SCAN: str(ScanSource.DRAWN), "attempt": 0, "hard": False}
        return {key: value for key, value in record.items() if key not in usual or value != usual[key]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CasePlan:
        """The plan in a manifest record."""
        needed = ("case_id", "seed", "reference", "template")
        return cls(
            **{name: record[name] for name in needed}, masks=ReferenceSource(record["masks"]),
            scan=ScanSource.of(record), attempt=record.get("attempt", 0), hard=record.get("hard", False),
        )  # fmt: skip


@dataclass(frozen=True)
class Changes:
    """What a judge of a set's cases has changed in its plan.

    Attributes:
        attempts: Case id → how often the case was discarded, to be made from another seed.
        first_hard: Number of the first case whose reference is of `hard`.
        hard: References of that case and those after it, instead of those whose turn it is.
    """

    attempts: Mapping[str, int] = field(default_factory=dict)
    first_hard: int = 0
    hard: tuple[str, ...] = ()

    def hard_reference(self, number: int) -> str | None:
        """The reference that takes the place of a case's; None if it stays."""
        place = number - self.first_hard
        return self.hard[place] if 0 <= place < len(self.hard) else None


def case_name(number: int) -> str:
    """Name of the case of a number, from 0."""
    return f"fcas_{number:05d}"


def plan_cases(
    num_cases: int,
    references: Sequence[str],
    templates: Sequence[str],
    masks: ReferenceSource,
    seed: int,
    labels_of: Mapping[str, Collection[int]] | None = None,
    shares: Mapping[ScanSource, float] | None = None,
    changes: Changes | None = None,
) -> list[CasePlan]:
    """Plan synthetic cases: references in turn, in a random order each round; a random template for each.

    The plan of fewer cases is the beginning of the plan of more.

    Args:
        num_cases: Number of cases.
        references: Cases whose masks are drawn.
        templates: Cases that guide the drawing, or whose scans are registered.
        masks: Source of the masks. `given`: unchanged masks, with another case as the template; `mgm`: deformed ones;
            `both`: given ones in the first round, then deformed ones.
        seed: Seed of the run.
        labels_of: Case → ids of its structures; templates are chosen among the cases that lack fewest of the
            reference's. None = all cases have all structures.
        shares: Source → its share of the scans, above 0; None = all are drawn.
        changes: What a judge of earlier cases has changed; None = nothing.
    """
    plans, changes = [], changes or Changes()
    order: list[int] = []
    guides: dict[tuple[str, bool], list[str]] = {}  # found once, since a plan may have a million cases
    for number, scan in enumerate(scan_sources(num_cases, shares or {ScanSource.DRAWN: 1}, seed)):
        turn, place = divmod(number, len(references))
        if place == 0:
            order = np.random.default_rng(derive_seed(seed, "references", turn)).permutation(len(references)).tolist()
        reference = references[order[place]]
        given = masks == ReferenceSource.GIVEN or (masks == ReferenceSource.BOTH and turn == 0)
        case_id = case_name(number)
        hard, attempt = changes.hard_reference(number), changes.attempts.get(case_id, 0)
        reference = hard or reference
        case_seed, template = derive_seed(seed, "case", number, *([attempt] if attempt else [])), reference
        if scan.has_template:  # a registered scan of the reference itself would be a warped one
            another = given or scan == ScanSource.REGISTERED
            if (reference, another) not in guides:
                guides[reference, another] = _guides(reference, templates, another, labels_of)
            others = guides[reference, another]
            rng = np.random.default_rng(derive_seed(case_seed, "template"))
            template = others[int(rng.integers(len(others)))]
        source = ReferenceSource.GIVEN if given else ReferenceSource.MGM
        plans.append(CasePlan(case_id, case_seed, reference, template, source, scan, attempt, hard is not None))
    return plans


def _guides(
    reference: str, templates: Sequence[str], another: bool, labels_of: Mapping[str, Collection[int]] | None
) -> list[str]:
    """The templates among which a reference's is drawn; `another`: others than itself, if there are any."""
    others = ([t for t in templates if t != reference] if another else []) or list(templates)
    if labels_of is None:
        return others
    lacking = [len(set(labels_of[reference]).difference(labels_of[t])) for t in others]
    return [t for t, count in zip(others, lacking, strict=True) if count == min(lacking)]


def scan_sources(num_cases: int, shares: Mapping[ScanSource, float], seed: int) -> list[ScanSource]:
    """The source of each case's scan: after every case, each source has its share to less than one case.

    Of the sources that are due, the one with the nearest deadline is taken. Ties are broken at random, so that no
    source is tied to the order of references.

    Args:
        num_cases: Number of cases; the sources of fewer are the first of those of more.
        shares: Source → its share, above 0; of any sum.
        seed: Seed of the run.

    Source: Tijdeman, "The chairman assignment problem", 1980.
    """
    if len(shares) == 1:
        return [*shares] * num_cases
    total = sum(Fraction(share) for share in shares.values())
    rates = {source: Fraction(share) / total for source, share in shares.items()}
    slack = 1 - Fraction(1, 2 * len(rates) - 2)
    counts, found = dict.fromkeys(rates, 0), []
    for number in range(num_cases):
        behind = {source: rate * (number + 1) - counts[source] for source, rate in rates.items()}
        deadlines = {source: (slack - due) / rates[source] for source, due in behind.items() if due >= 1 - slack}
        first = min(deadlines.values())
        tied = [source for source, deadline in deadlines.items() if deadline == first]
        found.append(tied[derive_seed(seed, SCAN, number) % len(tied)])
        counts[found[-1]] += 1
    return found
