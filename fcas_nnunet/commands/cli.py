"""What all commands share: exit codes, logging, argparse habits."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence

from fcas_nnunet.integration.environment import checked_processes

EXIT_BAD_INPUT = 2


def make_parser(prog: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose --help ends with an example.

    Args:
        prog: name of the command.
        description: what it does, in a sentence or two.
        example: shell lines that work as they stand.
    """
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="example:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def positive(text: str) -> int:
    """A whole number from 1."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A whole number from 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text}")
    return value


def processes(text: str) -> int:
    """A number of worker processes that this machine can carry."""
    try:
        return checked_processes(text, "-np")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def fold_number(text: str) -> int | None:
    """A fold as nnU-Net's users write it: a whole number from 0, or None for `all`."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a fold's number or all, got {text}")
    return int(text)


def finite(text: str) -> float:
    """A number that is neither NaN nor infinite."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return value


def not_negative(text: str) -> float:
    """A finite number from 0."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def process_number() -> int:
    """Which process of a parallel run this is, as `torchrun` and `accelerate launch` say; 0 = the main or only one."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes a parallel run has, as `torchrun` and `accelerate launch` say."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(text: str) -> None:
    """Print a result; of several processes, only the main one does."""
    if process_number() == 0:
        print(text)


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., None]:
    """Turn bad input into one clean message and exit code 2; a success returns with exit code 0.

    Of several processes, all but the main one log nothing.
    """

    @functools.wraps(main)
    def wrapper(argv: Sequence[str] | None = None) -> None:
        number = process_number()
        logging.basicConfig(level=logging.ERROR if number else logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            main(argv)
        except (ValueError, FileNotFoundError) as error:
            print(f"error{f' in process {number}' if number else ''}: {error}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            sys.exit(130)

    return wrapper
