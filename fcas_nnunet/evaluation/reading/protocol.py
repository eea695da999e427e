"""Protocol of a blinded reading by experts: its criteria, its letters for methods, and the key that unblinds them.

Source: FCaS, arXiv 2503.09560, §7.4. Several methods' images of one reference make an *evaluation bag*; each image is
scored on five criteria, and the methods are ranked within the bag by their scores, 1 being the best.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.config.files import load_config, to_dict
from fcas_nnunet.config.schema import check_form, form, from_dict, settings
from fcas_nnunet.faults import InputError
from fcas_nnunet.json_files import check_schema, read_json
from fcas_nnunet.seeds import derive_seed

KEY_SCHEMA, KEY_VERSION = "fcas-nnunet/reading-key", 1
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_LEVELS = 11

_KEY_PATTERN = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED_KEYS = frozenset({"total", "rank"})


@settings
class Criterion:
    """Criterion that an image is scored on."""

    key: str  # name in files: small letters, digits and underscores
    name: str  # name on the page
    question: str = ""  # sentence on what to look at


#: The paper's five criteria. It gives their names only; the questions are this package's.
PAPER_CRITERIA = (
    Criterion("visual_realism", "Visual realism", "Could this be a patient's scan: contrast, noise, texture?"),
    Criterion(
        "interlayer_continuity",
        "Interlayer continuity",
        "Do structures run on smoothly from slice to slice, in all planes?",
    ),
    Criterion(
        "topological_consistency",
        "Topological consistency",
        "Are chambers, walls and vessels whole, and joined where they should be?",
    ),
    Criterion(
        "coronary_detail_preservation",
        "Coronary detail preservation",
        "Can the coronary arteries be followed, with sharp edges and even lumen?",
    ),
    Criterion(
        "morphological_heterogeneity",
        "Morphological heterogeneity",
        "Does the anatomy look like an individual's, rather than an average?",
    ),
)  # fmt: skip


@settings
class Protocol:
    """Criteria, scale and words of a reading.

    Attributes:
        criteria: Criteria that each image is scored on.
        lowest: Worst score.
        highest: Best score; at most ten above the worst. The paper names no scale; 1 to 5 is this package's.
        lowest_means: Meaning of the worst score.
        highest_means: Meaning of the best score.
        title: Title of the page.
        introduction: Instructions that readers see before they begin.
    """

    criteria: tuple[Criterion, ...] = PAPER_CRITERIA
    lowest: int = 1
    highest: int = 5
    lowest_means: str = "poor"
    highest_means: str = "excellent"
    title: str = "Expert reading of cardiac CT angiography"
    introduction: str = (
        "Each bag shows several images of the same anatomy. Which method made which image is hidden, and the order "
        "changes from bag to bag. Score every image on every criterion; the ranking follows from your scores."
    )

    def __post_init__(self) -> None:
        keys = [criterion.key for criterion in self.criteria]
        if not keys or len(set(keys)) < len(keys):
            raise InputError(f"criteria: keys must be there and differ, got {keys}. Name each criterion once.")
        wrong = [key for key in keys if not _KEY_PATTERN.fullmatch(key) or key in _RESERVED_KEYS]
        if wrong:
            raise InputError(
                f"criteria: keys must be small letters, digits and underscores, not total or rank, got {wrong}. "
                "Rename them; `name` is what readers see."
            )
        if not 0 <= self.lowest < self.highest < self.lowest + MAX_LEVELS:
            raise InputError(
                f"criteria: scores must run from 0 or more upwards over 2 to {MAX_LEVELS} levels, got "
                f"{self.lowest} to {self.highest}. Change lowest or highest."
            )


@dataclass(frozen=True)
class Bag:
    """One reference by every method."""

    bag_id: str  # name on the page, `bag-01`
    reference: str  # case whose mask the images share; the page does not name it
    methods: dict[str, str]  # letter → method


def load_protocol(path: Path) -> Protocol:
    """Read a protocol from YAML; fields that it leaves out take the paper's values.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is not YAML, or keys or values are wrong.
    """
    return load_config(Protocol, path)


def draw_bags(references: Sequence[str], methods: Sequence[str], seed: int) -> list[Bag]:
    """Shuffle the bags, and the methods within each.

    Args:
        references: Case ids; each becomes a bag.
        methods: Names of 2 to 26 methods; the first in a bag becomes A.
        seed: Seed of the reading; a reader must not know it.

    Raises:
        InputError: if the methods cannot be lettered.
    """
    if not 2 <= len(methods) <= len(LETTERS):
        raise InputError(
            f"methods: there must be 2 to {len(LETTERS)} in a bag, the scans counted as one, got {len(methods)}. "
            "Name others."
        )
    width = max(2, len(str(len(references))))
    order = np.random.default_rng(derive_seed(seed, "bags")).permutation(len(references))
    bags = []
    for number, index in enumerate(order, start=1):
        reference = references[index]
        shuffled = np.random.default_rng(derive_seed(seed, "letters", reference)).permutation(len(methods))
        lettered = {letter: methods[i] for letter, i in zip(LETTERS, shuffled, strict=False)}
        bags.append(Bag(f"bag-{number:0{width}d}", reference, lettered))
    return bags


def reading_id(protocol: Protocol, shown_sha256: Iterable[str]) -> str:
    """Compute the digest that ties scores to their page, of protocol and volumes; it reveals no method and no seed."""
    digest = hashlib.sha256(json.dumps(to_dict(protocol), sort_keys=True).encode())
    for sha256 in shown_sha256:
        digest.update(sha256.encode())
    return digest.hexdigest()[:16]


def refuse_named_methods(texts: Mapping[str, str], methods: Iterable[str]) -> None:
    """Refuse method names on the page: no text that readers see may hold one as a word, in capitals or not.

    Raises:
        InputError: with every text that does, and where it comes from.
    """
    faults = [
        f"{place}: text on the page must not name a method, got {text!r} with {method!r} in it. Rename one of them."
        for place, text in texts.items()
        for method in methods
        if re.search(rf"(?<!\w){re.escape(method)}(?!\w)", text, flags=re.IGNORECASE)
    ]
    if faults:
        raise InputError("\n".join(faults))


@dataclass(frozen=True)
class Key:
    """The organiser's key, read back."""

    reading_id: str  # ties the key to its page
    seed: int  # seed of the shuffling
    protocol: Protocol  # protocol that the readers followed
    methods: dict[str, str]  # name → origin of its images
    bags: tuple[Bag, ...]  # in the order of the page
    case_ids: dict[str, dict[str, str]]  # bag id → letter → case id of the image


@form
class _KeyLetter:
    method: str
    case_id: str


@form
class _KeyBag:
    reference: str
    letters: dict[str, _KeyLetter]


@form
class _KeyFile:
    """What `prepare` writes into key.json."""

    reading_id: str
    seed: int
    protocol: dict[str, Any]
    methods: dict[str, str]
    bags: dict[str, _KeyBag]


def load_key(path: Path) -> Key:
    """Read the `key.json` that `prepare` wrote.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no key, or a broken one.
    """
    advice = "Name the key.json of this reading."
    content = read_json(path, advice)
    check_schema(path, content, {KEY_SCHEMA: KEY_VERSION}, advice)
    check_form(_KeyFile, content, f"{path}: ", "Take the file as it was written.")
    try:
        bags = {
            bag_id: Bag(bag_id, bag["reference"], {letter: entry["method"] for letter, entry in bag["letters"].items()})
            for bag_id, bag in content["bags"].items()
        }
        return Key(
            reading_id=content["reading_id"],
            seed=content["seed"],
            protocol=from_dict(Protocol, content["protocol"], f"{path}: protocol."),
            methods=content["methods"],
            bags=tuple(bags.values()),
            case_ids={
                bag_id: {letter: entry["case_id"] for letter, entry in bag["letters"].items()}
                for bag_id, bag in content["bags"].items()
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: key must be whole, got an error at {error}. Take the file as it was written."
        ) from error
