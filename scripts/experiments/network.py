"""Train one phase of an arm's network with nnU-Net's own command; a training that was killed goes on.

python network.py MODEL DATASET PLANS TRAINER DEVICE FOLD [nnUNetv2_train's further flags, to begin with]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fcas_nnunet.commands.demo.arms import training_line


def main() -> None:
    """Train, unless the training has ended."""
    model, dataset, plans, trainer, device, fold, *start = sys.argv[1:]
    line = training_line(Path(model), dataset, plans, trainer, device, *start, fold=fold)
    if line is not None:
        program, *arguments = map(str, line)
        path = str(Path(sys.executable).with_name(program))
        os.execv(path, [path, *arguments])  # a signal to this process then reaches the training


if __name__ == "__main__":
    main()
