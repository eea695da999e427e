"""Interpret label names of public and private data sets by their words, whatever order, case and separators."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import NamedTuple


class Term(NamedTuple):
    """A part of the heart that data sets have a label for.

    Attributes:
        name: Standard name, by which two labels are compared.
        structure: Value of the `Structure` that the term is, or is a part of.
        whole: Name of the term that it is a part of.
    """

    name: str
    structure: str
    whole: str | None = None


_CORONARY = "artery vessel tree lumen branch"
_CORONARIES = Term("coronary_arteries", "coronary_arteries")
_LEFT, _RIGHT = (Term(f"{side}_coronary_artery", _CORONARIES.structure, _CORONARIES.name) for side in ("left", "right"))
_LEFT_MAIN, _LAD, _CIRCUMFLEX = (
    Term(name, _CORONARIES.structure, _LEFT.name)
    for name in ("left_main", "left_anterior_descending", "left_circumflex")
)
#: Terms, the words that a name must contain to mean them, and the words that it may contain besides.
_VOCABULARY = (
    (Term("left_myocardium", "left_myocardium"), "myocardium", "left ventricle"),
    (Term("left_atrium", "left_atrium"), "left atrium", ""),
    (Term("left_ventricle", "left_ventricle"), "left ventricle", ""),
    (Term("right_atrium", "right_atrium"), "right atrium", ""),
    (Term("right_ventricle", "right_ventricle"), "right ventricle", ""),
    (Term("ascending_aorta", "ascending_aorta"), "ascending aorta", ""),
    # cardiac CT shows the ascending part above all, and many data sets call that part the aorta
    (Term("aorta", "ascending_aorta"), "aorta", "thoracic"),
    (Term("pulmonary_artery", "pulmonary_artery"), "pulmonary", "artery trunk main"),
    (_CORONARIES, "coronary", _CORONARY),
    (_LEFT, "left coronary", _CORONARY),
    (_RIGHT, "right coronary", _CORONARY),
    (_LEFT_MAIN, "left main", f"{_CORONARY} coronary stem"),
    (_LAD, "anterior descending", f"{_CORONARY} left coronary"),
    (_CIRCUMFLEX, "circumflex", f"{_CORONARY} left coronary"),
)
_TERMS = {term.name: term for term, _, _ in _VOCABULARY}

#: Words that do not identify a structure.
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
    """The name without case and separators; names with equal keys count as equal."""
    return re.sub(r"[\W_]+", "", label_name.casefold())


@cache
def term_of(label_name: str) -> Term | None:
    """Return the term that a label name means, or None if it means no part of the heart that is known here."""
    tokens = re.split(r"[\W_]+", _CAMEL.sub("_", label_name.strip()).casefold())
    words = {word for token in tokens for word in _SYNONYMS.get(token, token).split()} - _FILLERS
    for term, needed, optional in _VOCABULARY:
        if set(needed.split()) <= words <= set(f"{needed} {optional}".split()):
            return term
    return None


def whole_terms(term: Term) -> list[Term]:
    """The term itself, the term that it is a part of, and so on up to the largest."""
    chain = [term]
    while chain[-1].whole is not None:
        chain.append(_TERMS[chain[-1].whole])
    return chain


def make_up(whole: Term, named: Collection[Term]) -> bool:
    """Return whether terms make up a whole: it is among them, or they make up all of its parts.

    The left main may be missing: data sets that label its two branches mark it as part of one of them.
    """
    parts = [term for term in _TERMS.values() if term.whole == whole.name and term != _LEFT_MAIN]
    return whole in named or (bool(parts) and all(make_up(part, named) for part in parts))
