"""Dataclasses of settings as plain dicts and as YAML, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fcas_nnunet.enums import StrEnum

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain dicts, lists, strings and numbers."""
    return _plain(dataclasses.asdict(config))


def from_dict(config_type: type[T], values: dict[str, Any], path: str = "") -> T:
    """Build a dataclass from plain values; unknown and missing keys are errors.

    Raises:
        ValueError: naming the key and what it must be.
    """
    hints = typing.get_type_hints(config_type)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{path or 'config'}: keys must be among {sorted(hints)}, got {unknown}. Remove them.")
    try:
        return config_type(**{key: _cast(hints[key], value, f"{path}{key}") for key, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{path or 'config'}: {error}.") from error


def save_config(config: Any, path: Path) -> None:
    """Write a dataclass as YAML."""
    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def load_config(config_type: type[T], path: Path) -> T:
    """Read a dataclass written by `save_config`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when keys or values are wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the configuration must exist, got no file. Train first, or check the path.")
    return from_dict(config_type, yaml.safe_load(path.read_text(encoding="utf-8")))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def _cast(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _cast(next(h for h in typing.get_args(hint) if h is not type(None)), value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, f"{path}.")
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_cast(item, v, path) for v in value)
    if isinstance(hint, type) and issubclass(hint, (StrEnum, float)):
        return hint(value)
    return value
