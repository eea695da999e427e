"""Make whole synthetic cases with random weights of a preset, and time every stage; what is drawn is noise.

The masks are MGM's of a data set's own cases, the first case is the template, and files are written as fcas_generate
writes them. It also counts the pieces of thin structures in the new mask and in the condition that is drawn from.

    fcas_phantom -d 901 --name Fine -n 1 --shape 256 512 512
    python scripts/benchmark_case.py -d 901 --preset cpu -device cpu
    python scripts/benchmark_case.py -d 901 --preset gpu -device cuda -n 4
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from fcas_nnunet.case import Case
from fcas_nnunet.commands.runtime.resolution import turned_grids
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.generator import drawing, generate
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.checkpoint import Calibrated, Generator, GeneratorRecord
from fcas_nnunet.generator.confidence.calibration import Calibration, Curve, Scale
from fcas_nnunet.generator.confidence.error_model import ErrorModel
from fcas_nnunet.generator.data.grid import WorkingGrid, working_spacing
from fcas_nnunet.generator.generate import CaseMaker, Drawer
from fcas_nnunet.generator.optimisation.precision import drawing_precision
from fcas_nnunet.generator.plan import plan_cases
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.geometry import triple
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case
from fcas_nnunet.labels.anatomy import label_roles
from fcas_nnunet.labels.components import label_components

#: Stage → the functions whose time it is, as (owner, name).
STAGES: dict[str, list[tuple[Any, str]]] = {
    "new mask": [(generate, "reference_mask")],
    "scan to the working grid": [(WorkingGrid, "image_to_working")],
    "masks to the working grid": [(WorkingGrid, "labels_to_working")],
    "reverse diffusion and decoding": [(drawing, "synthesise")],
    "confidence": [(drawing, "drawing_confidence")],
    "image and confidence to the scan's grid": [
        (WorkingGrid, "image_to_native"),
        (WorkingGrid, "confidence_to_native"),
    ],
}


class Clock:
    """Seconds of the stages: on a GPU until it has finished each; on a CPU those of the processor, in one thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def call(self, stage: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function as a stage."""
        start = self.now()
        result = function(*args, **kwargs)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + self.now() - start
        return result

    def now(self) -> float:
        """The time when the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    @contextmanager
    def on_stages(self) -> Iterator[None]:
        """Measure the functions of `STAGES` while it lasts."""
        patches = [mock.patch.object(owner, name, self._timed(stage, getattr(owner, name)))
                   for stage, functions in STAGES.items() for owner, name in functions]  # fmt: skip
        for patch in patches:
            patch.start()
        yield
        for patch in patches:
            patch.stop()

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            return self.call(stage, function, *args, **kwargs)

        return timed


def random_generator(config: FCaSConfig, source: RawDataset, device: torch.device) -> Generator:
    """A generator as training leaves it for this data set, with random weights."""
    spacing = triple(working_spacing(turned_grids(source), config.grid))
    torch.manual_seed(0)
    networks = Autoencoder(config.autoencoder), TCDM(config.tcdm, spacing)
    record = GeneratorRecord(
        config, config.autoencoder, config.tcdm, dict(source.labels), {}, spacing, LatentScale(),
        dict.fromkeys(source.case_ids, ""), (),
    )  # fmt: skip
    calibrated = None
    if config.calibration is not None:
        curve = Curve((0.0, 1.0), (0.0, 1.0))
        scale = Scale(curve, curve, 0.0, 100.0)
        sampling = config.sampling.for_model(config.tcdm.prediction_type)
        calibration = Calibration(config.calibration, sampling, config.confidence, scale, scale, ())
        calibrated = Calibrated(calibration, ErrorModel(config.calibration.width))
    for network in (*networks, *([calibrated.error_model] if calibrated else [])):
        network.requires_grad_(False).eval().to(device)
    return Generator(record, *networks, calibrated)


def pieces(case: Case, generator: Generator) -> str:
    """Pieces of each thin structure in a mask, and in the condition that is made of it."""
    record = generator.record
    roles = label_roles(record.labels, record.roles)
    grid = WorkingGrid.of_case(case, record.working_spacing_mm, record.tcdm)
    condition = grid.labels_to_working(case.mask, roles.thin).numpy()
    names = {label: name for name, label in record.labels.items()}
    found = [f"{names[label]} {label_components(case.mask == label)[1]} pieces, "
             f"{label_components(condition == label)[1]} in the condition" for label in sorted(roles.thin)]  # fmt: skip
    return "; ".join(found) or "no thin structure"


def main() -> None:
    """Make the cases and print their stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, metavar="ID", help="data set with the masks and scans")
    parser.add_argument("-n", type=int, default=1, help="cases (1)")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    source, device, config = RawDataset.open(resolve_dataset(args.d)), torch.device(args.device), PRESETS[args.preset]
    torch.set_num_threads(1)  # as fcas_generate
    generator = random_generator(config, source, device)
    clock = Clock(device)
    maker = CaseMaker.of_generator(
        Drawer(generator, device, drawing_precision(device)), lambda name: clock.call("read", source.load_case, name)
    )
    plans = plan_cases(args.n, source.case_ids, source.case_ids[:1], ReferenceSource.MGM, seed=0)
    with tempfile.TemporaryDirectory() as folder, clock.on_stages():
        for plan in plans:
            clock.seconds.clear()
            start, begun = clock.now(), time.perf_counter()
            case, record = maker.make(plan)
            clock.call("write", write_case, Path(folder), case)
            whole = clock.now() - start
            wall = time.perf_counter() - begun
            stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in clock.seconds.items())
            size, kept = "×".join(map(str, case.shape)), pieces(case, generator)
            kept += f"; {len(record['mgm']['rejections'])} masks rejected before"
            print(f"{plan.case_id}, {size}: {whole:.1f} s ({wall:.1f} s of the clock); {stages}; {kept}", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB", end="")
    print(f", GPU {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if device.type == "cuda" else "")


if __name__ == "__main__":
    main()
