"""Does this package do its work on this GPU, and what does it cost? One command of at most eight minutes.

Runs the tests that need a GPU, then `tiny` and a short training of `gpu` (trained, calibrated, scans drawn), measures a
whole scan beside MAISI's classes and steps of all presets, then goes on with nnU-Net: preparation, both trainers,
prediction, and the bench for as long as there is time. A part that fails or takes too long does not keep the others
from running: nnU-Net takes the scans of `gpu` if `tiny` drew none. The report is written anew after each. The exit code
is 1 if a part failed, 0 if parts were only cut short or skipped for want of time.

    python scripts/gpu_check.py -o gpu_check.json
    python scripts/gpu_check.py -o rehearsal.json --device cpu    # the same parts, small, without a GPU

Nothing needs to be installed but the requirements: PYTHONPATH=. python scripts/gpu_check.py -o gpu_check.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
REAL = "Dataset901_Phantom"
#: Ids of the sets that `tiny` and `gpu` draw; nnU-Net goes on with the first that is finished.
TINY_SET, GPU_SET = 902, 903
CONFIGURATION, SMALL_PLANS = "3d_fullres", "nnUNetPlansSmall"
PACKAGES = ("torch", "nnunetv2", "monai", "diffusers", "accelerate", "numpy", "scipy", "SimpleITK")
PREDICT = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()"
#: Of what a failed part printed, in characters.
TAIL = 4000
#: Seconds kept for writing the report, and without which no part is begun.
RESERVE_S, LEAST_S = 5, 5
#: By which a part's limit is longer without a GPU.
SLOWER_CPU = 5


@dataclass(frozen=True)
class Part:
    """A process to run.

    Attributes:
        name: Name of the part.
        command: after the Python interpreter.
        limit_s: seconds that it may take, as far as the whole check has them left.
        environment: added to this process' own.
    """

    name: str
    command: Sequence[object]
    limit_s: float
    environment: dict[str, str]


def parts(folder: Path, device: str, synthetic: int = TINY_SET) -> list[Part]:
    """All parts, the most important first.

    Args:
        folder: everything is written below it.
        device: `cuda` or `cpu`.
        synthetic: id of the set that nnU-Net goes on with.
    """
    from fcas_nnunet.config.files import save_config
    from fcas_nnunet.integration.environment.trainer_lookup import all_shim_folders, ext_trainer_value

    small = device == "cpu"
    plans = SMALL_PLANS if small else "nnUNetPlans"
    moved, size = f"{plans}From901", 32 if small else 64
    common = {f"nnUNet_{kind}": str(folder / kind) for kind in ("raw", "preprocessed", "results")} | {
        "nnUNet_extTrainer": ext_trainer_value(folders=all_shim_folders()), "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": "2", "nnUNet_def_n_proc": "2", "FCAS_DEMO_PRETRAIN_EPOCHS": "2",
        "FCAS_DEMO_REAL_EPOCHS": "2",
    }  # fmt: skip
    small_gpu = folder / "gpu.yaml"
    save_config(small_gpu_config(narrow=small), small_gpu)
    results, test_set, predictions = folder / "results", folder / "raw" / REAL, folder / "predictions"
    pretrained = results / set_name(synthetic) / f"nnUNetTrainerCAL_demo__{moved}__{CONFIGURATION}"
    tuned = results / REAL / f"nnUNetTrainerCALFinetune_demo__{plans}__{CONFIGURATION}"

    def part(name: str, limit_s: float, *command: object, **environment: str) -> Part:
        return Part(name, command, limit_s * (SLOWER_CPU if small else 1), common | environment)

    def fcas(module: str, limit_s: float, *arguments: object, name: str = "") -> Part:
        return part(f"fcas_{name or module}", limit_s, "-m", f"fcas_nnunet.commands.{module}", *arguments)

    def training(trainer: str, dataset: int, plans: str, *more: object, note: str = "", **environment: str) -> Part:
        command = ("-m", "nnunetv2.run.run_training", dataset, CONFIGURATION, "all", "-p", plans, "-tr", trainer)
        return part(f"{trainer}{note}", 100, *command, "-device", device, *more, **environment)

    def beside_maisi(preset: str, *shape: int) -> Part:
        size = ("--shape", *shape) if not small else ("--shape", 32, 32, 32, "--roi", 8, "--width", 0.25)
        what = f"beside MAISI, {preset}, {'×'.join(map(str, shape))}"
        return part(what, 60, "scripts/benchmark_generation.py", *size, "--preset", preset, "--repeats", 1,
                    "-device", device)  # fmt: skip

    def cal(note: str, **environment: str) -> Part:
        return part(f"a step of CAL beside nnU-Net's{note}", 60, "scripts/benchmark_cal.py", "-d", synthetic,
                    "-p", moved, "-device", device, "--steps", 2 if small else 20, **environment)  # fmt: skip

    bench = ("--experiment", "phantom", "--scale", "smoke" if small else "gpu", "-o", folder / "bench")
    return [
        part("tests", 150, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb", "short", "-m", "gpu",
             "tests/test_gpu.py", "tests/generator/mgm/test_deformation.py"),
        fcas("phantom", 60, "-d", 901, "--name", "Phantom", "-n", 4, "--num-test", 2, "--shape", size, size, size),
        fcas("train", 120, "-d", 901, "--preset", "tiny", "-device", device),
        fcas("generate", 90, "-d", 901, "-o", TINY_SET, "-n", 4, "--preset", "tiny", "-device", device),
        fcas("train", 120, "-d", 901, "--config", small_gpu, "-device", device, name="train gpu"),
        fcas("generate", 90, "-d", 901, "-o", GPU_SET, "-n", 2, "--config", small_gpu, "-device", device,
             name="generate gpu"),
        beside_maisi("gpu", 256, 512, 512),
        part("costs", 120, __file__, "--child", "costs", "--device", device),
        part("stages of a case", 60, "scripts/benchmark_case.py", "-d", 901, "--preset", "tiny" if small else "gpu",
             "-device", device, "-n", 2),
        *([part("small plans", 60, __file__, "--child", "small_plans")] if small else []),
        fcas("prepare", 90, "-d", synthetic, "--for", 901, "-c", CONFIGURATION, "-p", plans),
        cal(""),
        training("nnUNetTrainerCAL_demo", synthetic, moved),
        training("nnUNetTrainerCALFinetune_demo", 901, plans, "-pretrained_weights",
                 pretrained / "fold_all" / "checkpoint_final.pth"),
        cal(", compiled", nnUNet_compile="t"),
        beside_maisi("gpu", 128, 256, 256),
        beside_maisi("maisi", 128, 256, 256),
        beside_maisi("maisi", 256, 512, 512),
        part("prediction", 60, "-c", PREDICT, "-i", test_set / "imagesTs", "-o", predictions, "-m", tuned, "-f", "all",
             "-device", device, "--disable_tta", "-npp", 1, "-nps", 1),
        fcas("evaluate", 40, "segmentations", "-r", test_set / "labelsTs", "-p", predictions,
             "-o", folder / "scores.json"),
        fcas("train", 90, "-d", synthetic, "--preset", "tiny", "-device", device,
             "--precision", "bf16" if small else "fp16", name="train in half precision"),
        part("bench", 400, "scripts/experiments/run.py", *bench),
    ]  # fmt: skip


def set_name(synthetic: int) -> str:
    """Name of the data set of this id that is drawn after the phantoms."""
    return f"Dataset{synthetic}_PhantomFCaS"


def finished_set(folder: Path) -> int:
    """Id of the set that nnU-Net can go on with: that of `tiny`, unless only that of `gpu` is finished."""
    finished = [
        number for number in (TINY_SET, GPU_SET) if (folder / "raw" / set_name(number) / "dataset.json").is_file()
    ]
    return finished[0] if finished else TINY_SET


def small_gpu_config(narrow: bool) -> Any:
    """The `gpu` preset in a few steps on a grid of phantoms; `narrow`: for a CPU."""
    from fcas_nnunet.config.presets import GPU

    def shortened(block: Any, **changes: Any) -> Any:
        steps = 2 if narrow else 40
        return replace(
            block, optimisation=replace(block.optimisation, num_steps=steps, validate_every=steps), **changes
        )

    edge, calibration = 32 if narrow else 64, GPU.calibration
    assert calibration is not None, "the preset learns its errors"
    return replace(
        GPU,
        preset="gpu_small",
        grid=replace(GPU.grid, max_voxels=edge**3, min_voxels=0, crop_size=(edge,) * 3),
        autoencoder=shortened(
            GPU.autoencoder, crop_size=(edge // 2,) * 3, **({"channels": (16, 16)} if narrow else {})
        ),
        tcdm=shortened(GPU.tcdm, **({"channels": (32, 32, 32)} if narrow else {})),
        calibration=replace(calibration, num_drawings=4, num_voxels=5000, num_steps=50),
    )


def run(part: Part, device: str, deadline: float) -> dict[str, Any]:
    """Run a part to its end or its limit.

    Returns:
        `status` (ok, failed, timed out, skipped), `seconds`, `peak_gpu_mb` of all its processes, and the end of what it
        printed: all of it that is short, for parts that failed.
    """
    limit_s = min(part.limit_s, deadline - time.monotonic())
    if limit_s < LEAST_S:
        return {"status": "skipped", "tail": "no time left"}
    start = time.monotonic()
    environment = os.environ | part.environment | {"PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as output, gpu_memory(device) as peak_mb:
        process = subprocess.Popen(
            [sys.executable, *map(str, part.command)], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
            env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
        output.seek(0)
        printed = output.read().decode(errors="replace")
    status = {0: "ok", None: "timed out"}.get(code, "failed")
    report: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - start, 1)}
    report["peak_gpu_mb"] = round(peak_mb[0])
    found = [line.removeprefix("result: ") for line in printed.splitlines() if line.startswith("result: ")]
    if found:
        report["results"] = [json.loads(line) for line in found]
    return report | {"tail": printed[-(TAIL if status != "ok" else TAIL // 8) :]}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@contextmanager
def gpu_memory(device: str) -> Iterator[list[float]]:
    """The most memory of the GPU that is in use, over what is when it begins, in MB; looked at ten times a second."""
    peak = [0.0]
    if device != "cuda":
        yield peak
        return

    def used_mb() -> float:
        free, total = torch.cuda.mem_get_info()
        return (total - free) / 2**20

    before, ended = used_mb(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max(peak[0], used_mb() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peak
    ended.set()
    watcher.join()


def small_plans() -> None:
    """nnU-Net's plans of the phantoms, narrowed for a CPU."""
    from fcas_nnunet.integration.dataset.folders import resolve_dataset
    from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
    from fcas_nnunet.integration.preprocessing.prepare import ensure_narrow_plans

    real = RawDataset.open(resolve_dataset("901"))
    ensure_narrow_plans(real, SMALL_PLANS, CONFIGURATION, features_per_stage=[4, 8, 16], patch_size=[24] * 3)


def costs(device: torch.device) -> None:
    """Print a line `result: {...}` for each thing that is measured, as it is measured."""
    from steps import autoencoder_step, coding, drawing_step, training_step

    from fcas_nnunet.config.presets import CPU, GPU, MAISI, TINY

    cuda = device.type == "cuda"
    presets = (TINY, CPU, GPU, MAISI) if cuda else (TINY, CPU)
    volume = (256, 512, 512) if cuda else (32, 32, 32)

    def step(name: str, config: Any, compiled: bool = False) -> None:
        crop, pairs = config.grid.crop_size, config.tcdm.optimisation.micro_batch_size or 1
        what = f"training step, {name}, {pairs} pairs of {crop}"
        measure(what, device, training_step(config.tcdm, crop, pairs, compiled))

    for config in presets:
        step(config.preset, config)
        crops = config.autoencoder.optimisation.batch_size
        measure(
            f"autoencoder step, {config.preset}, {crops} crops", device, autoencoder_step(config.autoencoder, crops)
        )
    largest = presets[-1]
    step("with gradient checkpointing", replace(largest, tcdm=replace(largest.tcdm, gradient_checkpointing=True)))
    for name in ("encode", "decode"):
        measure(f"{name} {volume}, {largest.preset}", device, coding(largest.autoencoder, volume, name))
    measure(f"a step of drawing {volume}, {largest.preset}", device, drawing_step(largest.tcdm, volume))
    if cuda:
        step("gpu, compiled", GPU, compiled=True)


def measure(name: str, device: torch.device, prepare: Callable[[torch.device], Callable[[], object]]) -> None:
    """Time the second call of what `prepare` gives, and say its peak memory; or what it ended with."""
    cuda = device.type == "cuda"
    result: dict[str, Any] = {"name": name}
    try:
        torch.manual_seed(0)
        call = prepare(device)
        for _ in range(2):
            if cuda:
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            start = time.monotonic()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cuda):
                call()
            if cuda:
                torch.cuda.synchronize()
            result["seconds"] = round(time.monotonic() - start, 4)
        if cuda:
            result["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        del call
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"[:500]
    if cuda:
        torch.cuda.empty_cache()
    print(f"result: {json.dumps(result)}", flush=True)


def about(device: str) -> dict[str, Any]:
    """Machine and versions."""
    card = {}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        card = {"card": properties.name, "card_mb": properties.total_memory // 2**20, "cuda": torch.version.cuda}
    versions = {name: metadata.version(name) for name in PACKAGES}
    return card | {"python": platform.python_version(), "cores": os.cpu_count(), "versions": versions}


def save(report: dict[str, Any], path: Path) -> None:
    """Write the report."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the check; exit code 1 when a part failed, not when time ran out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, default=Path("gpu_check.json"), help="report (gpu_check.json)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a rehearsal (cuda)")
    parser.add_argument("--minutes", type=float, default=8, help="for everything (8)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose names begin so")
    parser.add_argument("--child", choices=["small_plans", "costs"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "small_plans":
        return small_plans()
    if arguments.child == "costs":
        return costs(torch.device(arguments.device))
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("a CUDA device must be there, got none. Rehearse with --device cpu.")
    deadline = time.monotonic() + 60 * arguments.minutes - RESERVE_S
    report = about(arguments.device) | {"parts": {}}
    print(json.dumps(report), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in ("raw", "preprocessed", "results", "compiled"):
            (folder / kind).mkdir()
        names = [part.name for part in parts(folder, arguments.device)]
        begin = tuple(arguments.only or ("",))
        if strange := [word for word in begin if not any(name.startswith(word) for name in names)]:
            parser.error(f"--only: must begin names of parts, got {', '.join(strange)}. Take {'; '.join(names)}.")
        try:
            save(report, arguments.o)
        except OSError as error:
            parser.error(f"-o: must be a file that can be written, got {error}. Name another.")
        for name in (name for name in names if name.startswith(begin)):
            synthetic = finished_set(folder)
            report["synthetic"] = set_name(synthetic)
            part = next(part for part in parts(folder, arguments.device, synthetic) if part.name == name)
            found = run(part, arguments.device, deadline)
            report["parts"][name] = found
            save(report, arguments.o)
            print(f"{name}: {found['status']}, {found.get('seconds', 0)} s", flush=True)
            for result in found.get("results", []):
                print(f"    {result}", flush=True)
            if found["status"] == "failed":
                print(found["tail"][-1500:], flush=True)
    sys.exit(any(found["status"] == "failed" for found in report["parts"].values()))


if __name__ == "__main__":
    main()
