"""Whole numbers on the command line have a floor, whatever the command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest
from consoles import command_module

from fcas_nnunet.commands.cli import count, positive
from fcas_nnunet.commands.generate.command import main as generate

COMMANDS = ("phantom", "convert", "train", "masks", "generate", "prepare", "env", "evaluate", "report", "export",
            "doctor", "demo")  # fmt: skip
#: Any whole number is a seed; how many cases there may be is checked with its ceiling.
WITHOUT_FLOOR = {"--seed"}
CHECKED_LATER = {("fcas_generate", "-n"), ("fcas_masks", "-n")}


def arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """All arguments of a command and of its parts."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from arguments(part)
        else:
            yield parser.prog.split()[0], action


@pytest.mark.parametrize("command", COMMANDS)
def test_every_whole_number_has_a_floor(command: str) -> None:
    parser = command_module(command).build_parser()
    found = [(prog, action.option_strings[0]) for prog, action in arguments(parser) if action.type is int]
    assert {(prog, flag) for prog, flag in found if flag not in WITHOUT_FLOOR} <= CHECKED_LATER


@pytest.mark.parametrize("flag", ["--steps", "--snapshots", "-np"])
@pytest.mark.parametrize("value", ["0", "-4", "2.5", "two"])
def test_generating_refuses_no_steps_snapshots_or_processes(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        generate(["-d", "901", flag, value])
    assert f"argument {flag}:" in (said := capsys.readouterr().err)
    assert f"got {value}" in said


def test_floors() -> None:
    assert (positive("1"), count("0")) == (1, 0)
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number of 1 or more, got 0"):
        positive("0")
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number of 0 or more, got -1"):
        count("-1")
