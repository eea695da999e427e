"""fcas_demo: run all stages on phantoms, from eight labelled scans to a table and a picture."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fcas_nnunet.commands.cli import command, make_parser
from fcas_nnunet.commands.demo.scale import DemoSize, Names
from fcas_nnunet.config.schema import check_form
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_text
from fcas_nnunet.integration.dataset.folders import Root
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.ownership import refuse_foreign_folder
from fcas_nnunet.json_files import read_json

logger = logging.getLogger(__name__)

SIZE_FILE = "size.txt"  # written first: marks the folder as that of a demo

EXAMPLE = """
fcas_demo                     # everything below ./fcas_demo, about half an hour on two cores
fcas_demo -o /data/demo --size quick
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of fcas_demo."""
    parser = make_parser(
        "fcas_demo",
        "Run all stages on phantoms: generate, pretrain, fine-tune, and compare with real-only training and with "
        "pretraining on warped real scans and on randomly painted masks, all from the same labelled scans and for the "
        "same number of iterations. If it is killed, the same command resumes.",
        EXAMPLE,
    )
    parser.add_argument(
        "-o", type=Path, default=Path("fcas_demo"), metavar="DIR", help="folder to write (default: ./fcas_demo)"
    )
    parser.add_argument(
        "--size", type=DemoSize, choices=list(DemoSize), default=DemoSize.FULL,
        help="full: 64³ scans and the cpu preset; quick: 32³ and tiny, some minutes, to check that all stages run",
    )  # fmt: skip
    return parser


@dataclass
class Clock:
    """The finished stages with the seconds that each took; saved in `stages.json`."""

    path: Path

    def read(self) -> dict[str, float]:
        """Finished stage → seconds."""
        if not self.path.is_file():
            return {}
        advice = "Delete it: the stages are then done again."
        content = read_json(self.path, advice)
        check_form(dict[str, float], content, f"{self.path}: ", advice)
        return content

    def run(self, name: str, estimate_s: float, left_s: float, stage: Callable[[], None]) -> None:
        """Run a stage unless it is done."""
        done = self.read()
        if name in done:
            logger.info(f"✓ {name} (done before, {done[name]:.0f} s)")
            return
        logger.info(f"▶ {name}: about {_minutes(estimate_s)}; about {_minutes(left_s)} to the end")
        start = time.monotonic()
        stage()
        atomic_write_text(self.path, json.dumps({**self.read(), name: round(time.monotonic() - start, 1)}, indent=1))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_demo."""
    args = build_parser().parse_args(argv)
    folder = args.o.resolve()
    with exclusive(folder, refuse=partial(_refuse_foreign, folder, args.size)):
        _run_stages(folder, args.size)


def _run_stages(folder: Path, size: DemoSize) -> None:
    from fcas_nnunet.commands.demo.stages import demo_stages

    names = Names(folder, size)
    atomic_write_text(folder / SIZE_FILE, str(size))
    os.environ.update(names.environment())
    for root in Root:
        Path(os.environ[root]).mkdir(exist_ok=True)
    clock = Clock(folder / "stages.json")
    stages = demo_stages(names)
    for number, stage in enumerate(stages):
        left = sum(later.estimate_s for later in stages[number:])
        clock.run(stage.name, stage.estimate_s, left, stage.run)
    print((folder / "results.txt").read_text(), end="")
    seconds = clock.read()
    print("\n".join(f"{name:<56}{value:>8.0f} s" for name, value in seconds.items()))
    print(f"{'all stages':<56}{sum(seconds.values()):>8.0f} s")
    print(f"picture: {folder / 'demo.png'}")


def _refuse_foreign(folder: Path, size: DemoSize) -> None:
    """Refuse a folder that holds a demo of another size, or other files."""
    path = folder / SIZE_FILE
    refuse_foreign_folder(folder, "fcas_demo", SIZE_FILE)
    if path.is_file() and path.read_text() != size:
        raise InputError(f"{folder}: must hold a demo of size {size}, got {path.read_text()}. Choose another -o.")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
