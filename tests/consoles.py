"""The modules behind the console commands, by the commands' names."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def command_module(name: str) -> ModuleType:
    """The module of `fcas_<name>`: a file of its own, or the `command` of a folder."""
    module = import_module(f"fcas_nnunet.commands.{name}")
    return import_module(f"{module.__name__}.command") if hasattr(module, "__path__") else module
