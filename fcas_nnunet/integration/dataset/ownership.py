"""Which folders a command may write into: new ones, empty ones, and those that it began itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fcas_nnunet.files import remove_strays
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE, Manifest
from fcas_nnunet.listing import listed

COMMAND = "command"  # in a manifest's record: which command made the case

GENERATE, MASKS, PHANTOM, CONVERT = "fcas_generate", "fcas_masks", "fcas_phantom", "fcas_convert"


@contextmanager
def sole_writer(folder: Path, command: str) -> Iterator[None]:
    """Have a folder of cases to oneself, for a command that shares its work with no other run; others wait.

    The folder and its manifest are made if needed.

    Raises:
        ValueError: when it is no folder, or another command's.
    """
    with exclusive(folder, refuse=partial(refuse_foreign_cases, folder, command)):
        Manifest(folder).begin()
        remove_strays(folder, deep=True)
        yield


def refuse_foreign_folder(folder: Path, command: str, mark: str) -> None:
    """See that nothing of somebody else's can be written over; the folder need not exist.

    The mark is the name of the file that this command makes before all others.

    Raises:
        ValueError: when it is no folder, or holds other files without the mark.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: must be a folder, or be new, got a file. Choose another folder.")
    there = sorted(name for name in os.listdir(folder) if not name.startswith(".")) if folder.is_dir() else []
    if there and mark not in there:
        raise ValueError(
            f"{folder}: must be new, empty or begun by {command}, got other files: {listed(there, 3)}. "
            "Choose another folder or id."
        )


def refuse_foreign_cases(folder: Path, command: str) -> None:
    """The same for a folder of cases, where the manifest says which command began it and made which case.

    Files that the manifest does not name, or of which it gives the case's id alone, a real case among synthetic ones
    say, may be there besides.

    Raises:
        ValueError: when it is no folder, or another command's.
    """
    manifest = Manifest(folder)
    if not manifest.journals():  # of a run of old, which began no manifest
        refuse_foreign_folder(folder, command, MANIFEST_FILE)
    made_by = {  # early records of two commands do not say it
        str(record.get(COMMAND, GENERATE if "weights_sha256" in record else MASKS))
        for record in manifest.read().values()
        if len(record) > 1
    }
    if others := sorted(made_by - {command}):
        raise ValueError(
            f"{folder}: must be new, empty or begun by {command}, got cases of {', '.join(others)}. "
            "Choose another folder or id."
        )
