"""Measure time and memory of a case's measures: a phantom at 256³, one process, no GPU.

Every run is a process of its own that reads the volumes, measures once and says its seconds and its peak memory (of the
whole process: Python, libraries, volumes). Goals: segmentation ≤ 10 s, images ≤ 8 s, 3 GB.

    python scripts/benchmark_evaluation.py                    # best and median of 3 runs
    python scripts/benchmark_evaluation.py --size 128 --parts # smaller; which measures take the time
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

GOALS = {"segmentation": 10.0, "images": 8.0}
GOAL_GB = 3.0
_PROFILED = 12


def write_volumes(path: Path, size: int) -> int:
    """A phantom's mask and scan, a prediction of it, another scan of the same patient; returns how many structures."""
    from fcas_nnunet.datasets.phantom import phantom_case

    first = phantom_case("first", (size,) * 3, seed=0)
    again = phantom_case("again", (size,) * 3, seed=0, acquisition=1)
    generator = np.random.default_rng(0)
    prediction = np.roll(first.mask, (1, 2, 1), axis=(0, 1, 2))  # off by a little everywhere
    for start in generator.integers(0, size - 8, size=(200, 3)):  # and with holes, which break vessels
        prediction[tuple(slice(at, at + 6) for at in start)] = 0
    assert first.image is not None and again.image is not None
    np.savez(path, reference=first.mask, prediction=prediction, real=first.image[0], synthetic=again.image[0],
             spacing_mm=np.linalg.norm(first.affine[:3, :3], axis=0))  # fmt: skip
    return int(np.count_nonzero(np.unique(first.mask)))


def measure(what: str, path: Path, profiled: bool) -> dict[str, float]:
    """One run in this process."""
    volumes = np.load(path)
    arrays = {name: volumes[name] for name in volumes.files}
    if what == "segmentation":
        from fcas_nnunet.datasets.phantom import LABELS
        from fcas_nnunet.evaluation.segmentation.overlap import score_case

        def work() -> None:
            spacing_mm = arrays["spacing_mm"].tolist()
            score_case(arrays["reference"], arrays["prediction"], LABELS, spacing_mm=spacing_mm)
    else:
        from fcas_nnunet.evaluation.images.quality import IntensityRange, score_pair

        def work() -> None:
            score_pair(arrays["real"], arrays["synthetic"], IntensityRange(-200, 700, "stated"))

    profile = cProfile.Profile()
    before, processor_before = time.perf_counter(), time.process_time()
    if profiled:
        profile.runcall(work)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(_PROFILED)
    else:
        work()
    return {
        "seconds": time.perf_counter() - before,
        "processor_seconds": time.process_time() - processor_before,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="voxels along each axis (default: 256)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--parts", action="store_true", help="profile a run of each instead")
    parser.add_argument("--run", choices=["volumes", *GOALS], help=argparse.SUPPRESS)
    parser.add_argument("--volumes", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run == "volumes":
        print(write_volumes(args.volumes, args.size))
        return
    if args.run:
        print(json.dumps(measure(args.run, args.volumes, args.parts)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volumes.npz"
        # In a process of its own, too: a child begins with its parent's peak memory.
        command = [sys.executable, __file__, "--run", "volumes", "--volumes", str(path), "--size", str(args.size)]
        structures = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        print(f"{args.size}³ voxels, {structures} structures")
        print(f"{'':14}{'best s':>9}{'median s':>10}{'processor s':>13}{'peak GB':>9}{'goal s':>8}")
        for what, goal in GOALS.items():
            command = [sys.executable, __file__, "--run", what, "--volumes", str(path), *["--parts"] * args.parts]
            runs = []
            for _ in range(1 if args.parts else args.runs):
                result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                runs.append(json.loads(result.stdout.splitlines()[-1]))
            seconds = [run["seconds"] for run in runs]
            print(
                f"{what:14}{min(seconds):9.1f}{median(seconds):10.1f}{min(r['processor_seconds'] for r in runs):13.1f}"
                f"{max(r['peak_gb'] for r in runs):9.2f}{goal:8.0f}"
            )


if __name__ == "__main__":
    main()
