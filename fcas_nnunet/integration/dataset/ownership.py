"""Refuse folders that a command must not write into; new and empty ones, and those that it began, are accepted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import remove_strays
from fcas_nnunet.integration.dataset.locks import Workplace, exclusive
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE, Manifest
from fcas_nnunet.listing import listed

COMMAND = "command"  # key of a manifest's record: the command that made the case

GENERATE, MASKS, PHANTOM, CONVERT = "fcas_generate", "fcas_masks", "fcas_phantom", "fcas_convert"


@contextmanager
def sole_writer(folder: Path, command: str) -> Iterator[None]:
    """Lock a folder of cases for a command that does not share its work with other runs; these wait.

    The folder and its manifest are created if needed, and removed again if nothing is written.

    Raises:
        InputError: when it is no folder, or belongs to another command.
    """
    with exclusive(folder, refuse=partial(refuse_foreign_cases, folder, command)):
        manifest = Manifest(folder)
        manifest.begin()
        remove_strays(folder, deep=True)
        try:
            yield
        finally:
            with suppress(OSError):
                if _visible(folder) == [MANIFEST_FILE] and not manifest.path.stat().st_size:
                    manifest.path.unlink()


@contextmanager
def nothing_left(workplace: Workplace, folder: Path, is_new: bool) -> Iterator[None]:
    """Take away what was begun in a folder of cases if the work fails before the first of them, in all runs there.

    Args:
        workplace: this process' presence in the folder.
        folder: the folder.
        is_new: whether it did not exist before; it is removed then.
    """
    try:
        yield
    except BaseException:
        manifest = Manifest(folder)
        with suppress(OSError), workplace.alone() as alone:
            if alone and _visible(folder) == [MANIFEST_FILE] and not manifest.read():
                for path in (manifest.path, *(journal.path for journal in manifest.journals())):
                    path.unlink()
                workplace.remove()
                if is_new:
                    folder.rmdir()
        raise


def refuse_links(folder: Path) -> None:
    """Refuse to write into a folder, which may be a link itself, if links in it could lead the files elsewhere.

    Raises:
        InputError: when there are any.
    """
    links = sorted(name for name in os.listdir(folder) if (folder / name).is_symlink()) if folder.is_dir() else []
    if links:
        raise InputError(
            f"{folder}: what is written must lie in the folder itself, got links: {listed(links)}. Put what they lead "
            "to in their place, or remove them."
        )


def refuse_foreign_folder(folder: Path, command: str, mark: str) -> None:
    """Refuse a folder with files that this command did not write; the folder need not exist.

    The mark is the name of the file that this command writes before all others.

    Raises:
        InputError: when it is no folder, or contains other files without the mark.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: must be a folder, or be new, got a file. Choose another folder.")
    refuse_links(folder)
    there = _visible(folder) if folder.is_dir() else []
    if there and mark not in there:
        raise InputError(
            f"{folder}: must be new, empty or begun by {command}, got other files: {listed(there, 3)}. "
            "Choose another folder or id."
        )


def refuse_foreign_cases(folder: Path, command: str) -> None:
    """Refuse a folder of cases that another command began; the manifest says which command made which case.

    The folder may also contain files that the manifest does not name, or cases of which it gives the id alone, such as
    a real case among synthetic ones.

    Raises:
        InputError: when it is no folder, or belongs to another command.
    """
    refuse_links(folder)
    manifest = Manifest(folder)
    if not manifest.journals():  # runs of earlier versions leave journals without a manifest
        refuse_foreign_folder(folder, command, MANIFEST_FILE)
    made_by = {  # early records of two commands lack the key
        str(record.get(COMMAND, GENERATE if "weights_sha256" in record else MASKS))
        for record in manifest.read().values()
        if len(record) > 1
    }
    if others := sorted(made_by - {command}):
        raise InputError(
            f"{folder}: must be new, empty or begun by {command}, got cases of {', '.join(others)}. "
            "Choose another folder or id."
        )


def _visible(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))
