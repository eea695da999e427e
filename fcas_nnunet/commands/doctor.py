"""fcas_doctor: report problems of this machine or a data set, with remedies."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcas_nnunet.commands.cli import command, make_parser
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import Root
from fcas_nnunet.integration.environment import torchvision_fix
from fcas_nnunet.integration.environment.checks import Finding, Status, check_environment
from fcas_nnunet.listing import few_of_a_kind, listed

if TYPE_CHECKING:
    from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

_MARK = {Status.OK: "ok     ", Status.WARNING: "note   ", Status.PROBLEM: "PROBLEM"}
_EXAMPLE = """
fcas_doctor            # look at this environment
fcas_doctor -d 901     # and read every case of a data set
fcas_doctor --fix      # let stock nnU-Net run on a CPU build of torch
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of fcas_doctor."""
    parser = make_parser(
        "fcas_doctor",
        "Report problems of nnU-Net and fcas-nnunet on this machine, and what to do about them. "
        "The exit code is 0 without problems, else 1.",
        _EXAMPLE,
    )
    parser.add_argument("-d", metavar="ID", help="data set to check as well: id, name or folder")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--fix",
        action="store_true",
        help="only if `import torchvision` fails: put a small import hook (one .pth file) into this environment's "
        "site-packages, with which it succeeds",
    )
    action.add_argument("--unfix", action="store_true", help="remove what --fix put there")
    parser.add_argument("--force", action="store_true", help="let --fix write outside a virtual environment")
    parser.idle("--force", without="--fix")
    parser.idle("-d", beside="--fix")
    parser.idle("-d", beside="--unfix")
    return parser


def fix(*, force: bool) -> None:
    """Install the torchvision hook if it helps, and report what was done."""
    error = torchvision_fix.import_error(with_hook=False)
    if error is None:
        print("torchvision imports by itself: nothing to mend, nothing written.")
        return
    if torchvision_fix.releases_match() is None:
        raise InputError(f"torchvision: it and torch must be installed, got `{error}`. Install both, then --fix again.")
    written = torchvision_fix.install(force=force)
    print(f"torchvision did not import ({error}).")
    print("\n".join(f"wrote {path}" for path in written) or "The hook was in place already.")
    still = torchvision_fix.import_error(with_hook=True)
    if still is not None:
        torchvision_fix.remove()
        raise InputError(
            f"torchvision: must import with the hook, got `{still}`. The hook was taken out again; "
            "install the torchvision release that matches torch."
        )
    print("It imports now, in every process of this environment. `fcas_doctor --unfix` takes the hook out again.")


def unfix() -> None:
    """Remove the torchvision hook, and report what was done."""
    removed = torchvision_fix.remove()
    print("\n".join(f"removed {path}" for path in removed) or "There is no hook in this environment.")


def dataset_findings(identifier: str) -> Iterator[Finding]:
    """Check a raw data set; each fault is a finding."""
    from fcas_nnunet.commands.runtime.label_table import role_lines
    from fcas_nnunet.integration.dataset.checks import dataset_faults, stray_maps
    from fcas_nnunet.integration.dataset.raw_dataset import open_dataset

    try:
        dataset = open_dataset(identifier, by="-d")
        if faults := [*dataset_faults(dataset, anew=True), *stray_maps(dataset)]:
            raise InputError("\n".join(faults))
    except InputError as error:
        for line in few_of_a_kind(str(error).splitlines()):
            yield Finding(Status.PROBLEM, f"data set {identifier}", line.strip())
    else:
        yield Finding(Status.OK, f"data set {identifier}", f"{dataset.folder}: {len(dataset.case_ids)} cases are sound")
        table = role_lines(dataset.labels, dataset.roles)
        yield Finding(Status.OK, f"data set {identifier}", "\n".join(["roles of its labels:", *table]))
        yield from _map_findings(dataset, f"data set {identifier}")


def _map_findings(dataset: RawDataset, subject: str) -> Iterator[Finding]:
    """Compare the confidence maps with the cases, and with what fcas_prepare has made of them."""
    from fcas_nnunet.integration.preprocessing.confidence_store import outdated_maps

    mapped = dataset.mapped_cases()
    without = sorted(set(dataset.case_ids) - set(mapped))
    if mapped and without and not dataset.synthetic_cases():
        message = f"{len(without)} of {len(dataset.case_ids)} cases have no confidence map: {listed(without)}"
        yield Finding(Status.WARNING, subject, message, "They count fully, 1 everywhere.")
    if not Path(os.environ.get(Root.PREPROCESSED, os.devnull)).is_dir():
        return
    for folder, changed in outdated_maps(dataset).items():
        message = f"{folder}: confidence maps have changed since they were prepared: {listed(changed)}"
        remedy = f"fcas_prepare -d {dataset.dataset_id}, for a synthetic set with --for."
        yield Finding(Status.WARNING, subject, message, remedy)


def report(findings: Iterator[Finding]) -> int:
    """Print findings as they come. Returns the number of problems."""
    problems = 0
    for finding in findings:
        problems += finding.status is Status.PROBLEM
        print(f"{_MARK[finding.status]} {finding.subject}: {finding.message}", flush=True)
        if finding.remedy:
            print(f"        -> {finding.remedy}", flush=True)
    return problems


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_doctor."""
    args = build_parser().parse_args(argv)
    if args.fix:
        return fix(force=args.force)
    if args.unfix:
        return unfix()
    problems = report(check_environment())
    if args.d is not None:
        problems += report(dataset_findings(args.d))
    print(f"{problems} problem{'' if problems == 1 else 's'} found." if problems else "Nothing stands in the way.")
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
