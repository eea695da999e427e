"""Plan synthetic cases: reference, template and seed of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fcas_nnunet.config.options import ReferenceSource
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
    """

    case_id: str
    seed: int
    reference: str
    template: str
    masks: ReferenceSource

    def to_record(self) -> dict[str, Any]:
        """The plan as part of a manifest record."""
        return asdict(self) | {"masks": str(self.masks)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CasePlan:
        """The plan in a manifest record."""
        fields = {name: record[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {"masks": ReferenceSource(record["masks"])})


def plan_cases(
    num_cases: int,
    references: Sequence[str],
    templates: Sequence[str],
    masks: ReferenceSource,
    seed: int,
    labels_of: Mapping[str, Collection[int]] | None = None,
) -> list[CasePlan]:
    """Plan synthetic cases: references in turn, in a random order each round; a random template for each.

    The plan of fewer cases is the beginning of the plan of more.

    Args:
        num_cases: Number of cases.
        references: Cases whose masks are drawn.
        templates: Training cases that guide the drawing.
        masks: Source of the masks. `given`: unchanged masks, with another case as the template; `mgm`: deformed ones;
            `both`: given ones in the first round, then deformed ones.
        seed: Seed of the run.
        labels_of: Case → ids of its structures; templates are chosen among the cases that lack fewest of the
            reference's. None = all cases have all structures.
    """
    plans = []
    for number in range(num_cases):
        turn, place = divmod(number, len(references))
        order = np.random.default_rng(derive_seed(seed, "references", turn)).permutation(len(references))
        reference = references[int(order[place])]
        given = masks == ReferenceSource.GIVEN or (masks == ReferenceSource.BOTH and turn == 0)
        others = ([t for t in templates if t != reference] if given else []) or list(templates)
        if labels_of is not None:
            lacking = [len(set(labels_of[reference]).difference(labels_of[t])) for t in others]
            others = [t for t, count in zip(others, lacking, strict=True) if count == min(lacking)]
        case_seed = derive_seed(seed, "case", number)
        rng = np.random.default_rng(derive_seed(case_seed, "template"))
        template = others[int(rng.integers(len(others)))]
        source = ReferenceSource.GIVEN if given else ReferenceSource.MGM
        plans.append(CasePlan(f"fcas_{number:05d}", case_seed, reference, template, source))
    return plans
