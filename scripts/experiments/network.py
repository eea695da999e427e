"""Train one phase of an arm's network with nnU-Net's own command; a training that was killed goes on.

python network.py MODEL DATASET PLANS TRAINER DEVICE [nnUNetv2_train's further flags, to begin with]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fcas_nnunet.commands.demo.arms import training_line


def main() -> int:
    """Train, unless the training has ended."""
    model, dataset, plans, trainer, device, *start = sys.argv[1:]
    line = training_line(Path(model), dataset, plans, trainer, device, *start)
    if line is None:
        return 0
    program, *arguments = map(str, line)
    return subprocess.call([str(Path(sys.executable).with_name(program)), *arguments])


if __name__ == "__main__":
    sys.exit(main())
