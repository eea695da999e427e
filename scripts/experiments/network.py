"""Train one phase of an arm's network with nnU-Net's own command; a training that was killed goes on.

python network.py RESULTS DATASET PLANS TRAINER [nnUNetv2_train's further flags]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT, LATEST_CHECKPOINT

CONFIGURATION = "3d_fullres"


def model_folder(results: Path, dataset: str, plans: str, trainer: str) -> Path:
    """The folder that nnU-Net gives a trained model."""
    return results / dataset / f"{trainer}__{plans}__{CONFIGURATION}"


def main() -> int:
    """Train, unless the training has ended."""
    results, dataset, plans, trainer, *more = sys.argv[1:]
    fold = model_folder(Path(results), dataset, plans, trainer) / "fold_all"
    if (fold / FINAL_CHECKPOINT).is_file():
        return 0
    if (fold / LATEST_CHECKPOINT).is_file():
        if "-pretrained_weights" in more:
            at = more.index("-pretrained_weights")
            del more[at : at + 2]
        more.append("--c")
    command = str(Path(sys.executable).with_name("nnUNetv2_train"))
    return subprocess.call([command, dataset, CONFIGURATION, "all", "-p", plans, "-tr", trainer, *more])


if __name__ == "__main__":
    sys.exit(main())
