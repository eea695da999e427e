"""fcas_env: let stock nnU-Net find the trainers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from fcas_nnunet.commands.cli import command, make_parser
from fcas_nnunet.integration.environment.trainer_lookup import (
    EXT_TRAINER_VARIABLE,
    ext_trainer_value,
    install_shim,
    uninstall_shim,
)

_EXAMPLE = """
eval "$(fcas_env)"     # for this shell
fcas_env --install     # for this Python environment, until --uninstall
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of fcas_env."""
    parser = make_parser(
        "fcas_env",
        "Print the line that lets nnU-Net's own commands find nnUNetTrainerCAL and its variants, for the shell to "
        "evaluate.",
        _EXAMPLE,
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--install",
        action="store_true",
        help="instead of printing, put one file beside nnU-Net's own trainer variants; no variable is needed then",
    )
    action.add_argument("--uninstall", action="store_true", help="remove that file")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run fcas_env."""
    arguments = build_parser().parse_args(argv)
    if arguments.install:
        print(f"wrote {install_shim()}")
    elif arguments.uninstall:
        removed = uninstall_shim()
        print(f"removed {removed}" if removed else "There is no such file beside nnU-Net's trainers.")
    else:
        print(f"export {EXT_TRAINER_VARIABLE}={shlex.quote(ext_trainer_value())}")


if __name__ == "__main__":
    main()
