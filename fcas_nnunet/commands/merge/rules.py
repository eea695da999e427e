"""`map.yaml`: what a source's ids or files are called, where they go, and who wins."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fcas_nnunet.config.files import read_yaml
from fcas_nnunet.datasets.totalsegmentator import CLASSES
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.integration.dataset.description import NAMES
from fcas_nnunet.json_files import read_json
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles
from fcas_nnunet.labels.merging import Part, Structure, usual_priority
from fcas_nnunet.labels.regions import single_ids
from fcas_nnunet.listing import listed

EVERYTHING = "*"
_KEYS = ("names", "into", "priority", "structures")
_RULE_KEYS = ("name", "into", "priority")
_PATTERN = frozenset("*?[")
_ID = re.compile(r"-?\d+")
_RESERVED = (BACKGROUND, IGNORE, Part.IGNORED)
_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Rule:
    """What becomes of an id, or of what has a name.

    Attributes:
        key: the id, the name, or a pattern of names (`lung_*`), as text.
        name: of the structure; None = the source's own.
        into: where it goes; None = where the source goes.
        priority: None = the source's.
    """

    key: str
    name: str | None = None
    into: Part | None = None
    priority: int | None = None


@dataclass(frozen=True)
class SourceMap:
    """How a source's structures are called, and where they go.

    Attributes:
        where: what messages call it.
        rules: for its ids and names; an exact one goes before a pattern, an earlier pattern before a later one.
        into: where structures go whose rule does not say it.
        priority: likewise; None = 1 of thin vessels, 0 of all else.
        names: id → name, by the user's word; None = as the source says.
        roles: label name → roles of the data set that is written.
    """

    where: str
    rules: tuple[Rule, ...] = ()
    into: Part = Part.LABELS
    priority: int | None = None
    names: Mapping[int, str] | None = None
    roles: GivenRoles = field(default_factory=dict)

    def ids(self) -> set[int]:
        """The ids that rules are for."""
        return {int(rule.key) for rule in self.rules if _ID.fullmatch(rule.key)}

    def rule_of(self, value: int | None, name: str | None) -> Rule | None:
        """The rule for an id, which may have a name, or for a file of a name."""
        for text in (None if value is None else str(value), name):
            for rule in self.rules:
                if text is not None and rule.key == text:
                    return rule
        fits = (rule for rule in self.rules if name is not None and fnmatchcase(name, rule.key))
        return next(fits, next((rule for rule in self.rules if rule.key == EVERYTHING), None))

    def becomes(self, value: int | None, name: str | None) -> Structure | None:
        """The structure that an id, or a file of a name, is; None where it is ignored.

        Raises:
            InputError: when nothing gives it a name.
        """
        rule = self.rule_of(value, name) or Rule("")
        part = rule.into or self.into
        called = rule.name or name
        if Part.IGNORED in (part, called) or called == BACKGROUND:
            return None
        if called is None:
            raise InputError(f"value {value} must have a name, got none")
        priority = self.priority if rule.priority is None else rule.priority
        return Structure(called, part, usual_priority(called, self.roles) if priority is None else priority)

    def ordered(self, named: Iterable[tuple[int | None, str | None]]) -> list[tuple[int | None, str | None]]:
        """Ids and names in the order of their rules; those without one follow as they come."""
        places = {rule: place for place, rule in enumerate(self.rules)}
        rules = [(item, self.rule_of(*item)) for item in named]
        return [item for item, rule in sorted(rules, key=lambda pair: places.get(pair[1], len(places)))]  # type: ignore[arg-type]

    def unused_faults(self, named: Collection[str], *, has_ids: bool) -> list[str]:
        """Rules for names that the source does not have.

        Args:
            named: of the source.
            has_ids: whether its files hold ids, for which numbers may stand.
        """
        unused = [
            rule.key
            for rule in self.rules
            if rule.key != EVERYTHING
            and not (has_ids and _ID.fullmatch(rule.key))
            and rule.key not in named
            and not (_PATTERN & set(rule.key) and any(fnmatchcase(name, rule.key) for name in named))
        ]
        if not unused:
            return []
        return [
            f"{self.where}: structures must be ids or names that the source has, "
            f"{listed(sorted(named)) or 'ids alone'}, got {listed(unused)}. Correct or remove them."
        ]


def split_argument(argument: str) -> tuple[Path, Path | None]:
    """`DIR` or `DIR:map.yaml` as (folder, map)."""
    folder, colon, last = argument.rpartition(":")
    if colon and not Path(argument).is_dir() and last.lower().endswith(_ENDINGS):
        return Path(folder), Path(last)
    return Path(argument), None


def read_map(path: Path, default: SourceMap) -> SourceMap:
    """Read a `map.yaml`.

    Args:
        path: of the file.
        default: what holds where it says nothing.

    Raises:
        MissingFileError: when there is no such file.
        InputError: listing all that is wrong with it.
    """
    content = read_yaml(path)
    faults = [
        f"{path}: keys must be of {', '.join(_KEYS)}, got {key}. Correct it; ids and names go under structures."
        for key in content
        if key not in _KEYS
    ]
    into = _part(path, "into", content.get("into"), faults)
    priority = _priority(path, "priority", content.get("priority"), faults)
    names = _names(path, content.get("names"), faults)
    rules = _rules(path, content.get("structures", {}), faults)
    if faults:
        raise InputError("\n".join(faults))
    return replace(
        default,
        where=str(path),
        rules=tuple(rules),
        into=into or default.into,
        priority=default.priority if priority is None else priority,
        names=names if names is not None else default.names,
    )


def names_of_dataset(path: Path) -> dict[int, str]:
    """Id → name of a `dataset.json`.

    Raises:
        InputError: when it is none.
    """
    advice = "Correct it, or say with `names` and `structures` of a map.yaml what the ids are."
    content = read_json(path, advice)
    try:
        labels = content["labels"]
        named = {**single_ids(labels, content.get(NAMES)), **{name: labels[name] for name in labels if name == IGNORE}}
        return {int(value): str(name) for name, value in named.items() if int(value)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: labels must be an object of name and id, got {content.get('labels')}. {advice}"
        ) from error


def _rules(path: Path, structures: Any, faults: list[str]) -> list[Rule]:
    if not isinstance(structures, dict):
        faults.append(f"{path}: structures must be a mapping of ids or names, got {structures}. Write `1: aorta`.")
        return []
    rules: list[Rule] = []
    for key, said in structures.items():
        text = str(key)
        if not isinstance(key, (int, str)) or isinstance(key, bool) or not text:
            faults.append(f"{path}: structures must be ids or names, got {key!r}. Put a name between quotes.")
            continue
        if any(rule.key == text for rule in rules):
            faults.append(f"{path}: {text} must be there once under structures, got it twice. Remove one.")
        given = said if isinstance(said, dict) else {} if said is None else {"name": said}
        wrong = [str(name) for name in given if name not in _RULE_KEYS]
        if wrong:
            faults.append(f"{path}: {text} must have {', '.join(_RULE_KEYS)}, got {listed(wrong)}. Correct it.")
        name = given.get("name")
        if name is not None and (not isinstance(name, str) or not name.strip()):
            faults.append(f"{path}: name of {text} must be text, got {name!r}. Write `{text}: aorta`.")
            continue
        if name is not None and (meant := name.strip().lower()) in _RESERVED and meant != name:
            faults.append(f"{path}: name of {text} must be written {meant}, got {name!r}. Correct it.")
        rules.append(
            Rule(
                text, name and name.strip(), _part(path, f"into of {text}", given.get("into"), faults),
                _priority(path, f"priority of {text}", given.get("priority"), faults),
            )
        )  # fmt: skip
    return rules


def _part(path: Path, what: str, said: Any, faults: list[str]) -> Part | None:
    if said is None or said in list(Part):
        return None if said is None else Part(said)
    faults.append(f"{path}: {what} must be one of {', '.join(Part)}, got {said!r}. Correct it.")
    return None


def _priority(path: Path, what: str, said: Any, faults: list[str]) -> int | None:
    if said is None or (isinstance(said, int) and not isinstance(said, bool)):
        return said
    faults.append(f"{path}: {what} must be a whole number, got {said!r}. Correct it.")
    return None


def _names(path: Path, said: Any, faults: list[str]) -> Mapping[int, str] | None:
    """The names that a map gives to ids: a task of TotalSegmentator, or those of a dataset.json; {} = none."""
    if said is None or said == {}:
        return said
    if isinstance(said, str) and said in CLASSES:
        return CLASSES[said]
    if isinstance(said, str) and (path.parent / said).is_file():
        try:
            return names_of_dataset(path.parent / said)
        except InputError as error:
            faults.append(str(error))
            return None
    faults.append(
        f"{path}: names must be a task of TotalSegmentator ({', '.join(CLASSES)}) or the path of a dataset.json from "
        f"there, got {said!r}. Correct it, or name every id under structures."
    )
    return None


def check_folders(folders: Sequence[Path]) -> None:
    """See that every source is a folder.

    Raises:
        MissingFileError: listing those that are none.
    """
    faults = [
        f"{folder}: --masks must be a folder, got none. Fix the path." for folder in folders if not folder.is_dir()
    ]
    if faults:
        raise MissingFileError("\n".join(faults))
