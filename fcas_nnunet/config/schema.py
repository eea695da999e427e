"""Dataclasses of settings that check themselves: types and ranges, then rules between settings, by dotted names."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from fcas_nnunet.earlier_names import RENAMED
from fcas_nnunet.faults import InputError

T = TypeVar("T")


class _BrokenRule(ValueError):
    """A broken rule of one setting: what its value must be, and the value."""


def rule(words: str, holds: Callable[[Any], bool]) -> AfterValidator:
    """Make a rule of one setting, for `Annotated`: its wording, and the test that a value must pass."""

    def validate(value: Any) -> Any:
        if not holds(value):
            raise _BrokenRule(words, value)
        return value

    return AfterValidator(validate)


#: Largest count of crops, steps or voxels; a longer run would never end.
_LARGEST = 10**12

Count = Annotated[int, Field(ge=1, le=_LARGEST)]
CountOrZero = Annotated[int, Field(ge=0, le=_LARGEST)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
#: Voxels, or latents, along one axis; more are not the size of anything that a network sees.
Size = Annotated[int, Field(ge=1, le=4096)]
Sizes = tuple[Size, Size, Size]
Interval = Annotated[tuple[float, float], rule("(low, high)", lambda pair: pair[0] <= pair[1])]
PositiveInterval = Annotated[Interval, rule("(low, high), low above 0", lambda pair: pair[0] > 0)]
Percentile = Annotated[float, Field(ge=0, le=100)]
Percentiles = Annotated[
    tuple[Percentile, Percentile], rule("increasing within [0, 100]", lambda pair: pair[0] < pair[1])
]
#: Feature channels of each level of a network.
Widths = Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]
#: A name that becomes part of a folder's name.
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
#: A class's `REMOVED`: settings of earlier versions → the values that no longer mean anything; None = any value.
Removed = Mapping[str, tuple[object, ...] | None]

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_LONGEST_VALUE = 120  # characters of a value in a message
_FORM = ConfigDict(strict=True, extra="ignore")
#: Wording of pydantic's rules in messages to users.
_RULES = {
    "unexpected_keyword_argument": "left out, since there is no such setting",
    "dataclass_type": "a block of settings",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "list_type": "a list",
    "string_pattern_mismatch": "a plain name of letters, digits, dots, dashes and underscores that begins with one of "
    "the first two",
}


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """Decorate a class as a frozen dataclass that checks every value at construction.

    Types are strict: 300.0 is no whole number, "no" is not false, and NaN is no number. `__post_init__` runs once
    every value is valid, and refuses combinations by `check`.

    Raises:
        InputError: If a value is wrong; the message names every fault, a line each.
    """
    checked = pydantic_dataclass(frozen=True, config=_CONFIG)(cls)
    build, names = checked.__init__, [field.name for field in dataclasses.fields(checked)]

    @functools.wraps(build)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        assert len(args) <= len(names), f"{cls.__name__} takes {len(names)} values"
        try:
            build(self, **dict(zip(names, args, strict=False)), **values)  # by name, so that faults have one
        except ValidationError as error:
            raise InputError("\n".join(_sentences(error))) from None

    checked.__init__ = __init__  # type: ignore[method-assign]
    return checked  # type: ignore[return-value]


def check(block: Any, *rules: tuple[bool, str, str] | tuple[bool, str, str, object]) -> None:
    """Refuse combinations of settings.

    Args:
        block: The settings.
        rules: (whether the rule holds, the setting's dotted name or several names with commas, what it must be in
            words), and the value that the message shows, where it is not that of the settings named.

    Raises:
        InputError: If a rule is broken; the message names every one, a line each.
    """
    broken = [
        _sentence(name, words, value[0] if value else attrgetter(*name.split(", "))(block))
        for holds, name, words, *value in rules
        if not holds
    ]
    if broken:
        raise InputError("\n".join(broken))


def from_dict(config_type: type[T], values: Any, where: str = "") -> T:
    """Build settings from plain values: dicts, lists, strings, numbers.

    Args:
        config_type: Class decorated with `settings`.
        values: Values read from YAML or JSON; missing ones take their defaults, and those of earlier
            versions are renamed or dropped.
        where: Prefix of every fault: the file, or the dotted name of the block.

    Raises:
        InputError: If a setting is unknown, missing or wrong; the message names every one, a line each.
    """
    try:
        text = json.dumps(up_to_date(config_type, values), default=str)
    except (TypeError, ValueError, RecursionError) as error:  # keys that are no text, a block that holds itself
        raise InputError(f"{where}settings: must be plain names and values, got an error: {error}.") from error
    try:
        return TypeAdapter(config_type).validate_json(text)
    except ValidationError as error:
        raise InputError("\n".join(where + sentence for sentence in _sentences(error))) from None


@functools.cache
def _type_hints(block: Any) -> dict[str, Any]:
    """Return the types of a block's settings; they are kept, since a manifest has thousands of lines."""
    return get_type_hints(block)


def form(cls: type[T]) -> type[T]:
    """Decorate a class as the fields that code reads of a file; the file may have more, which `check_form` ignores."""
    return pydantic_dataclass(config=_FORM)(cls)  # type: ignore[return-value]


def check_form(form_type: type, content: Any, where: str, advice: str) -> None:
    """Check that plain values have the fields of a `form`, in the types that it says.

    Args:
        form_type: Class decorated with `form`, or any type that pydantic knows.
        content: What JSON or YAML held, or JSON that was not read yet.
        where: Prefix of every fault: the file, and the line in it.
        advice: End of every fault: what to do.

    Raises:
        InputError: If a field is missing or of another type; the message names every one, a line each.
    """
    try:
        _adapter(form_type).validate_json(content if isinstance(content, bytes) else json.dumps(content))
    except ValidationError as error:
        lines = [f"{where}{sentence} {advice}" for sentence in _sentences(error)]
        raise InputError("\n".join(lines)) from None


@functools.cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def up_to_date(config_type: Any, values: Any) -> Any:
    """Bring settings of earlier versions up to date, in all blocks: rename them, and drop those in `REMOVED`.

    Where a file holds a setting under both names, the earlier one is left, and is refused as unknown.
    """
    block = next((kind for kind in (config_type, *get_args(config_type)) if dataclasses.is_dataclass(kind)), None)
    if block is None or not isinstance(values, dict):
        return values
    removed, kinds = getattr(block, "REMOVED", {}), _type_hints(cast(Any, block))
    renamed = {old: new for old, new in RENAMED.items() if new in kinds and new not in values}
    present: dict[Any, Any] = {renamed.get(name, name): value for name, value in values.items()}
    return {
        name: up_to_date(kinds.get(name), value)
        for name, value in present.items()
        if name not in removed or (removed[name] is not None and value not in removed[name])
    }


def _sentences(error: ValidationError) -> list[str]:
    sentences: list[str] = []
    for fault in error.errors():
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])[1:]
        error_of_ours = fault.get("ctx", {}).get("error")
        if isinstance(error_of_ours, _BrokenRule):
            sentences.append(_sentence(where, *error_of_ours.args))
        elif fault["type"] == "value_error":  # raised by `check`
            sentences += [f"{where}.{line}" if where else line for line in str(error_of_ours).splitlines()]
        elif fault["type"] == "missing":
            sentences.append(f"{where}: must be given, got nothing.")
        else:
            words = _RULES.get(fault["type"]) or _plain_rule(fault["msg"])
            sentences.append(_sentence(where or "settings", words, fault["input"]))
    return sentences


def _sentence(name: str, words: str, value: object) -> str:
    shown = repr(value) if type(value) is str else str(value)  # 'no' is not no
    if len(shown) > _LONGEST_VALUE:
        shown = f"{shown[:_LONGEST_VALUE]} …"
    return f"{name}: must be {words}, got {shown}."


def _plain_rule(message: str) -> str:
    """pydantic's "Input should be greater than or equal to 1" => "at least 1"."""
    words = message.partition(" should ")[2].partition(" after validation")[0]
    words = words.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return words.removeprefix("be ") if words.startswith("be ") else f"of {words.removeprefix('have ')}"
