"""Two processes take the step that one would, however differently the two are trusted (gloo on the CPU)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from process_group import leave
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from fcas_nnunet.integration.cal.log import ConfidenceTally
from fcas_nnunet.integration.cal.losses import weighted_twin

WORLD = 2
CASES = [(kind, batch_dice) for kind in ("labels", "regions") for batch_dice in (False, True)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1))


def data(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Two samples a rank; the first rank's are hardly trusted, the second's fully."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((4, 1, 5, 6, 7), generator=generator)
    if kind == "regions":
        target = torch.rand((4, 3, 5, 6, 7), generator=generator) > 0.6
    else:
        target = torch.randint(0, 3, (4, 1, 5, 6, 7), generator=generator).float()
    confidence = torch.rand((4, 1, 5, 6, 7), generator=generator)
    confidence[:2] *= 0.05
    confidence[2:] = 1
    return images, target, confidence


def loss_of(kind: str, batch_dice: bool, ddp: bool) -> nn.Module:
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": kind == "regions", "ddp": ddp}
    if kind == "regions":
        return weighted_twin(DC_and_BCE_loss({}, dice, dice_class=MemoryEfficientSoftDiceLoss))
    return weighted_twin(DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss))


def step(model: nn.Module, loss: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
    """Loss and gradients of one step."""
    images, target, confidence = batch
    value = loss(model(images), target, confidence)
    value.backward()
    return {"loss": value.detach(), "gradients": [parameter.grad.clone() for parameter in model.parameters()]}


def work(rank: int, folder: Path) -> None:
    """One of the two processes: every case in turn, a file each."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    part = slice(2 * rank, 2 * rank + 2)
    for kind, batch_dice in CASES:
        images, target, confidence = (tensor[part] for tensor in data(kind))
        model = DistributedDataParallel(network())
        result = step(model, loss_of(kind, batch_dice, ddp=True), (images, target, confidence))
        tally = ConfidenceTally(3 if kind == "regions" else 2, kind == "regions")
        tally.add(target, confidence)
        torch.save(result | {"tally": tally.close(is_ddp=True)}, folder / f"{kind}_{batch_dice}_{rank}.pt")
    leave()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two processes found."""
    folder = tmp_path_factory.mktemp("gloo")
    multiprocessing.start_processes(work, (folder,), nprocs=WORLD, start_method="spawn")
    return folder


@pytest.mark.parametrize(("kind", "batch_dice"), CASES)
def test_two_processes_take_the_step_of_one(results: Path, kind: str, batch_dice: bool) -> None:
    ranks = [torch.load(results / f"{kind}_{batch_dice}_{rank}.pt", weights_only=True) for rank in range(WORLD)]
    one = step(network(), loss_of(kind, batch_dice, ddp=False), data(kind))
    assert torch.stack([rank["loss"] for rank in ranks]).mean().item() == pytest.approx(one["loss"].item(), rel=1e-6)
    for rank in ranks:
        for gradient, expected in zip(rank["gradients"], one["gradients"], strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    images, target, confidence = data(kind)
    tally = ConfidenceTally(3 if kind == "regions" else 2, kind == "regions")
    tally.add(target, confidence)
    mean, shares = tally.close(is_ddp=False)
    for rank in ranks:
        assert rank["tally"][0] == pytest.approx(mean)
        assert rank["tally"][1] == pytest.approx(shares)
