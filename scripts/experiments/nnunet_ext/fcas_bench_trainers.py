"""Lets stock nnU-Net find the trainers of the bench by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from trainers import *  # noqa: E402, F403
