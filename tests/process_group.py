"""How a test's processes end once they have talked to each other."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from torch import distributed


def leave() -> NoReturn:
    """End this process, its work done and its files written, when the others are as far.

    Without torch's own end: taking gloo's threads down aborts one process of a hundred ("terminate called without an
    active exception").
    """
    distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
