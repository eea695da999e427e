"""What label names of public and private data sets mean: word for word, whatever their order, case and separators."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import NamedTuple

_CORONARY = frozenset({"artery", "vessel", "tree", "lumen", "branch"})


class Term(NamedTuple):
    """A part of the heart that data sets have a label for.

    Attributes:
        name: standard name, by which two labels are compared.
        structure: value of the `Structure` that it is, or is a part of.
        whole: name of the term that it is a part of.
    """

    name: str
    structure: str
    whole: str | None = None


class _Words(NamedTuple):
    """The words of a name that mean a term: all of `needed`, and besides them only `optional` ones."""

    term: Term
    needed: frozenset[str]
    optional: frozenset[str] = frozenset()


def _words(term: Term, needed: str, optional: frozenset[str] = frozenset()) -> _Words:
    return _Words(term, frozenset(needed.split()), optional)


_MYOCARDIUM, _LEFT_ATRIUM, _LEFT_VENTRICLE, _RIGHT_ATRIUM, _RIGHT_VENTRICLE, _ASCENDING_AORTA, _PULMONARY_ARTERY = (
    Term(name, name)
    for name in (
        "left_myocardium", "left_atrium", "left_ventricle", "right_atrium", "right_ventricle", "ascending_aorta",
        "pulmonary_artery",
    )
)  # fmt: skip
_CORONARIES = Term("coronary_arteries", "coronary_arteries")
_LEFT, _RIGHT = (Term(f"{side}_coronary_artery", _CORONARIES.structure, _CORONARIES.name) for side in ("left", "right"))
_LEFT_MAIN, _LAD, _CIRCUMFLEX = (
    Term(name, _CORONARIES.structure, _LEFT.name)
    for name in ("left_main", "left_anterior_descending", "left_circumflex")
)
#: Cardiac CT shows its ascending part above all, and many data sets call that part so.
AORTA = Term("aorta", _ASCENDING_AORTA.structure)

_VOCABULARY = (
    _words(_MYOCARDIUM, "myocardium", frozenset({"left", "ventricle"})),
    _words(_LEFT_ATRIUM, "left atrium"),
    _words(_LEFT_VENTRICLE, "left ventricle"),
    _words(_RIGHT_ATRIUM, "right atrium"),
    _words(_RIGHT_VENTRICLE, "right ventricle"),
    _words(_ASCENDING_AORTA, "ascending aorta"),
    _words(AORTA, "aorta", frozenset({"thoracic"})),
    _words(_PULMONARY_ARTERY, "pulmonary", frozenset({"artery", "trunk", "main"})),
    _words(_CORONARIES, "coronary", _CORONARY),
    _words(_LEFT, "left coronary", _CORONARY),
    _words(_RIGHT, "right coronary", _CORONARY),
    _words(_LEFT_MAIN, "left main", _CORONARY | {"coronary", "stem"}),
    _words(_LAD, "anterior descending", _CORONARY | {"left", "coronary"}),
    _words(_CIRCUMFLEX, "circumflex", _CORONARY | {"left", "coronary"}),
)
_TERMS = {words.term.name: words.term for words in _VOCABULARY}

#: Words that say nothing of which structure is meant.
_FILLERS = frozenset({"the", "of", "heart", "cardiac", "blood", "pool", "bloodpool", "bp", "cavity", "chamber"})
_SYNONYMS = {
    "lv": "left ventricle", "lvc": "left ventricle", "lvbp": "left ventricle", "rv": "right ventricle",
    "rvc": "right ventricle", "rvbp": "right ventricle", "la": "left atrium", "ra": "right atrium",
    "myo": "myocardium", "lvm": "myocardium", "mlv": "myocardium", "lvmyo": "myocardium", "myocardial": "myocardium",
    "ventricular": "ventricle", "atrial": "atrium", "ao": "aorta", "aa": "ascending aorta", "aortic": "aorta",
    "pa": "pulmonary artery", "mpa": "pulmonary artery", "ca": "coronary artery", "lca": "left coronary",
    "rca": "right coronary", "lm": "left main", "lmca": "left main", "lad": "anterior descending",
    "lcx": "circumflex", "cx": "circumflex", "arteries": "artery", "coronaries": "coronary", "vessels": "vessel",
    "branches": "branch", "l": "left", "r": "right",
}  # fmt: skip
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def name_key(label_name: str) -> str:
    """The name without case and separators: names with equal keys are one name."""
    return re.sub(r"[\W_]+", "", label_name.casefold())


@cache
def term_of(label_name: str) -> Term | None:
    """What a label name means, or None when it is no part of the heart that is known here."""
    tokens = re.split(r"[\W_]+", _CAMEL.sub("_", label_name.strip()).casefold())
    words = frozenset(word for token in tokens for word in _SYNONYMS.get(token, token).split()) - _FILLERS
    found = [entry.term for entry in _VOCABULARY if entry.needed <= words <= entry.needed | entry.optional]
    return found[0] if found else None


def whole_terms(term: Term) -> list[Term]:
    """The term itself, what it is a part of, what that is a part of, ..."""
    chain = [term]
    while chain[-1].whole is not None:
        chain.append(_TERMS[chain[-1].whole])
    return chain


def make_up(whole: Term, named: Collection[Term]) -> bool:
    """Whether terms make up a whole: it is among them, or all its parts are made up by them.

    The left main need not be: who names its two branches marks it as part of one of them.
    """
    parts = [term for term in _TERMS.values() if term.whole == whole.name and term != _LEFT_MAIN]
    return whole in named or (bool(parts) and all(make_up(part, named) for part in parts))
