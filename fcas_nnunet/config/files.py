"""Save and load dataclasses of settings, as YAML and as plain dicts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter

from fcas_nnunet.config.schema import from_dict
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import atomic_write_text, what_is_at

T = TypeVar("T")
_ANY = TypeAdapter(Any)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, as YAML 1.2 wants it: 1e-3 is a number and no text, and a key may be there once.

    Aliases are refused: some hundred bytes of them can stand for more entries than any memory holds.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias, which stands for a node that is written elsewhere."""
        if self.check_event(yaml.AliasEvent):  # type: ignore[no-untyped-call]
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not read: write it out", event.start_mark)
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that comes twice, of which PyYAML takes the last one without a word."""
        names: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name = self.construct_object(key)  # type: ignore[no-untyped-call]
                if name in names:
                    raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice", key.start_mark)
                names.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a dataclass to plain dicts, lists, strings and numbers."""
    plain: dict[str, Any] = _ANY.dump_python(config, mode="json")
    return plain


def save_config(config: Any, path: Path) -> None:
    """Write a dataclass as YAML, whole or not at all."""
    atomic_write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def load_config(config_type: type[T], path: Path) -> T:
    """Read a dataclass written by `save_config`.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is not YAML, or keys or values are wrong; every fault is named, a line each.
    """
    content = read_yaml(path)
    try:
        return from_dict(config_type, content, where=f"{path}: ")
    except InputError as error:
        raise InputError("\n".join(f"{line} Correct it." for line in str(error).splitlines())) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping that a YAML file holds; tags that would build objects are refused.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it is not YAML, empty, or no mapping.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: the file must exist, got {what_is_at(path)}. Check the path.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: content must be YAML, got an error: {reason}. Correct the file.") from error
    if not isinstance(content, dict):
        found = "an empty file" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path}: content must be a mapping of settings, got {found}. Correct the file.")
    return content


def dotted(settings: Mapping[str, Any], maps: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names; those named in `maps` stay mappings."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and key not in maps
        flat |= dotted(value, maps, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
