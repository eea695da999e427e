"""The labelled cases that a generator is trained on, and the split that holds some of them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fcas_nnunet.case import NUM_BITS, NUM_CODES, Case
from fcas_nnunet.config.generator import PairConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.intensities import CT
from fcas_nnunet.known_files import KnownFiles
from fcas_nnunet.labels.anatomy import GivenRoles
from fcas_nnunet.seeds import derive_seed


@dataclass(frozen=True)
class TrainingData:
    """The labelled cases that a generator is trained on.

    Attributes:
        case_ids: Ids of the cases, sorted.
        load_case: Function that reads a case, with image and surroundings.
        labels: Label name → id, background included.
        surroundings: Surrounding name → id; empty where there are none.
        roles: Label name → roles that a user has given it.
        channel_names: Names of the scans' channels, by which their values are normalised.
        known: Function that returns what is known of the cases' files, by settings that this depends on (JSON).
    """

    case_ids: Sequence[str]
    load_case: Callable[[str], Case]
    labels: Mapping[str, int]
    surroundings: Mapping[str, int]
    roles: GivenRoles = field(default_factory=dict)
    channel_names: tuple[str, ...] = (CT,)
    known: Callable[[Any], KnownFiles] = lambda _: KnownFiles(None, {})

    def __post_init__(self) -> None:
        codes = max(self.labels.values()) + max(self.surroundings.values(), default=0)
        if codes >= NUM_CODES:
            raise InputError(f"labels + surroundings: must fit into {NUM_BITS} bits, got {codes}. Merge some.")
        if len(self.case_ids) < 2:
            raise InputError(
                f"training cases: must be at least 2, since a pair needs two, got {len(self.case_ids)}. Add cases."
            )

    def split(self) -> tuple[list[str], list[str]]:
        """Split into (training, validation) cases, sorted: about one in eight is held out, none of fewer than four.

        A hash of the ids decides which, since ids begin with the hospital or scanner in many data sets.
        """
        by_hash = sorted(self.case_ids, key=lambda case_id: derive_seed(0, "held out", case_id))
        first = len(by_hash) - held_out_count(len(by_hash))
        return sorted(by_hash[:first]), sorted(by_hash[first:])


def held_out_count(num_cases: int) -> int:
    """Number of cases to hold out for validation."""
    return 0 if num_cases < 4 else max(1, num_cases // 8)


def unseen_shape(pairs: PairConfig) -> int:
    """The shape to hold out for validation if there are too few cases to hold any out.

    Raises:
        InputError: If too few shapes are left for training.
    """
    needed = 3 if pairs.self_pair_probability > 0 else 2
    if pairs.num_shapes < needed:
        raise InputError(
            f"tcdm.pairs.num_shapes: must be at least {needed} for fewer than four cases, since one shape is held out "
            f"for validation, got {pairs.num_shapes}. Raise it in the configuration."
        )
    return pairs.num_shapes - 1
