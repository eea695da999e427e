"""Files that would run code when they are unpickled."""

from __future__ import annotations

import os


class Payload:
    """Makes a folder where it is unpickled.

    Args:
        folder: to make.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)
