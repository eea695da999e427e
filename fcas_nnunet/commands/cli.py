"""Code shared by all commands: exit codes, logging, parsing of arguments."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from fcas_nnunet.faults import InputError, in_words, report_request
from fcas_nnunet.integration.environment.checks import checked_processes
from fcas_nnunet.listing import few_of_a_kind
from fcas_nnunet.machine import check_working_directory, number_in

Settings = TypeVar("Settings")

EXIT_BAD_INPUT = InputError.exit_code
MOST_CASES = 1_000_000  # largest number of cases in a data set that a command writes
MOST_OF_ANYTHING = 10**15


class Parser(argparse.ArgumentParser):
    """A parser that refuses options without effect; the parsers of its parts do so, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: list[tuple[Sequence[str], str, str]] = []

    def idle(self, *flags: str, without: str = "", beside: str = "") -> None:
        """Declare options without effect `without`, or `beside`, another flag or its value (`--masks given`).

        An option with its default value counts as absent.
        """
        self._idle.append((flags, without, beside))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # subparsers use it as well
        """Parse as argparse does; an InputError lists the options that would have no effect."""
        found, rest = super().parse_known_args(args, namespace)
        faults = []
        for flags, without, beside in self._idle:
            idle = [flag for flag in flags if self._has(found, flag)]
            if without and not self._has(found, *without.split()):
                faults += [f"{flag}: must go with {without}, got it alone. Add that, or leave it out." for flag in idle]
            if beside and self._has(found, *beside.split()):
                fault = f"must go without {beside}, beside which it does nothing, got both. Leave one out."
                faults += [f"{flag}: {fault}" for flag in idle]
        if faults:
            raise InputError("\n".join(faults))
        return found, rest

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, and say where it stands what the command takes."""
        super().error(f"{message}{'' if message.endswith('.') else '.'} See {self.prog} --help.")

    def _has(self, found: argparse.Namespace, flag: str, value: str | None = None) -> bool:
        action = self._option_string_actions[flag]
        got = getattr(found, action.dest)
        return got != action.default if value is None else str(got) == value


def make_parser(prog: str, description: str, example: str) -> Parser:
    """Make a parser whose --help ends with an example: shell lines that work as they are."""
    return Parser(
        prog=prog,
        description=description,
        epilog="example:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Make an argument's type: whole numbers from `least`, up to `most`, or to what nothing exceeds."""
    rule = f"a whole number of {least} or more" if most is None else f"{least} to {most:,}"
    ceiling = MOST_OF_ANYTHING if most is None else most

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= ceiling:
            words = rule if value < least else f"at most {ceiling:,}"
            raise argparse.ArgumentTypeError(f"must be {words}, got {text}. Give another number.")
        return value

    return parse


positive, count, case_count = whole_number(1), whole_number(0), whole_number(1, MOST_CASES)
#: Voxels or pixels along an axis, and times that a measurement repeats something.
voxels, repeats = whole_number(1, 8192), whole_number(0, 1000)
seed_number = whole_number(-(2**63), 2**63 - 1)


def processes(text: str) -> int:
    """Parse a number of worker processes that this machine can run."""
    try:
        return checked_processes(text, "-np")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def fold_number(text: str) -> int | None:
    """Parse a fold as users of nnU-Net write it: a whole number from 0, or None for `all`."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a fold's number or all, got {text}")
    return int(text)


def finite(text: str) -> float:
    """Parse a number that is neither NaN nor infinite."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return value


def not_negative(text: str) -> float:
    """Parse a finite number from 0."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    value = not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be 1 or less, got {text}")
    return value


def number(least: float, most: float) -> Callable[[str], float]:
    """Make an argument's type: numbers from `least` to `most`."""

    def parse(text: str) -> float:
        value = finite(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {least:g} to {most:g}, got {text}. Give another number.")
        return value

    return parse


def given(flags: Mapping[str, str], args: argparse.Namespace) -> dict[str, Any]:
    """Name of a setting → its value, for settings whose flag was given; `args` has them under the settings' names."""
    values = {name: getattr(args, name) for name in flags}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
            if value is not None}  # fmt: skip


def of_flags(default: Settings, flags: Mapping[str, str], args: argparse.Namespace) -> Settings:
    """Replace settings by the values of flags.

    Args:
        default: Settings that check themselves.
        flags: Name of a setting → its flag.
        args: The parsed arguments, as `given` reads them.

    Raises:
        InputError: If values are out of range; every fault names its flag, a line each.
    """
    values = given(flags, args)
    with said_of_flags({name: flags[name] for name in values}):
        return replace(default, **values)  # type: ignore[type-var]


@contextmanager
def said_of_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """Name the flags in faults of the settings that they set; `flags` has the settings' names without their blocks."""
    try:
        yield
    except InputError as error:
        lines = []
        for line in str(error).splitlines():
            setting, _, rest = line.partition(": must be ")
            flag = flags.get(setting.partition("[")[0].rpartition(".")[2])
            lines.append(f"{flag}: must be {rest} Give another value, or leave it out." if flag else line)
        raise InputError("\n".join(lines)) from error


def process_number() -> int:
    """Return the number of this process in a run of `torchrun` or `accelerate launch`; 0 is the main or only one."""
    return number_in(os.environ, "RANK", 0)


def process_count() -> int:
    """Return the number of processes in a run of `torchrun` or `accelerate launch`; 1 without them."""
    return number_in(os.environ, "WORLD_SIZE", 1, least=1)


def say(text: str) -> None:
    """Print a result; if there are several processes, only the main one prints."""
    if process_number() == 0:
        print(text)


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., None]:
    """Turn what a user can mend into one message and exit code 2; if there are several processes, one logs.

    Any other error keeps its traceback, under a sentence that says where to report it.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> None:
        number = 0
        try:
            check_working_directory()
            number = process_number()
            level = logging.ERROR if number else logging.INFO
            logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
            main(argv)
        except KeyboardInterrupt:
            print("interrupted; the same command resumes from here", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            words = in_words(error)
            if words is None:
                print(report_request(), file=sys.stderr)
                raise
            lines = "\n".join(few_of_a_kind(words.splitlines()))
            print(f"error{f' in process {number}' if number else ''}: {lines}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)

    return wrapper


def add_channel_argument(parser: argparse._ActionsContainer) -> None:
    """Add the channel that is looked at where a command looks at one."""
    parser.add_argument(
        "--channel", type=count, default=0, metavar="N",
        help="of scans with several channels, look at this one, by its number in dataset.json (default: 0)",
    )  # fmt: skip
