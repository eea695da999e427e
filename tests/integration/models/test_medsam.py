"""MedSAM's training loop with the weighted loss: its layout, its loader's rules, a small network of its shape."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_cases import Prepared
from torch import Tensor, nn
from torch.nn import functional

from fcas_nnunet.integration.cal.losses import ConfidenceDiceBCELoss
from fcas_nnunet.integration.dataset.volumes import read_volume, write_volume
from fcas_nnunet.integration.models.export import SliceSettings, export_slices

SIZE, WIDTH, STRIDE = 64, 32, 8


class SmallSAM(nn.Module):
    """Image encoder, box prompt encoder and two-way mask decoder, as SAM has them, two hundred times smaller."""

    def __init__(self) -> None:
        super().__init__()
        grid = SIZE // STRIDE
        self.patches = nn.Conv2d(3, WIDTH, STRIDE, STRIDE)
        self.position = nn.Parameter(torch.randn(1, WIDTH, grid, grid) * 0.02)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, dropout=0)
        self.register_buffer("frequencies", torch.randn(2, WIDTH // 2))
        self.corners = nn.Embedding(2, WIDTH)
        self.mask_token = nn.Embedding(1, WIDTH)
        self.decoder = nn.TransformerDecoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, dropout=0)
        self.image_to_token = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.upscaling = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH // 2, 4, 4), nn.GELU(), nn.ConvTranspose2d(WIDTH // 2, WIDTH // 4, 2, 2)
        )
        self.hypernetwork = nn.Linear(WIDTH, WIDTH // 4)

    def forward(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Images [B, 3, H, W] and boxes [B, 4] => logits [B, 1, H, W]."""
        features = self.patches(image) + self.position
        batch, _, height, width = features.shape
        tokens = self.encoder(features.flatten(2).transpose(1, 2))
        angles = 2 * torch.pi * (boxes.view(batch, 2, 2) / SIZE) @ self.frequencies
        prompt = torch.cat([angles.sin(), angles.cos()], dim=-1) + self.corners.weight
        queries = self.decoder(torch.cat([self.mask_token.weight.expand(batch, 1, -1), prompt], dim=1), tokens)
        tokens = tokens + self.image_to_token(tokens, queries, queries)[0]
        embedding = self.upscaling(tokens.transpose(1, 2).view(batch, WIDTH, height, width))
        return torch.einsum("bc,bchw->bhw", self.hypernetwork(queries[:, 0]), embedding)[:, None]


def load_slices(root: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What MedSAM's loader makes of the files, for the largest label of each slice, and the confidence likewise."""
    rows = []
    for path in sorted((root / "gts").glob("*.npy"))[:24]:
        labels = np.load(path)
        label = int(np.bincount(labels[labels > 0]).argmax())
        mask = labels == label
        ys, xs = np.where(mask)
        rows.append((
            torch.from_numpy(np.load(root / "imgs" / path.name)).permute(2, 0, 1),
            torch.from_numpy(mask)[None].float(),
            torch.tensor([xs.min(), ys.min(), xs.max(), ys.max()]).float(),
            torch.from_numpy(np.load(root / "confidence" / path.name)).float()[None] / 255,
        ))  # fmt: skip
    images, masks, boxes, confidence = (torch.stack(column) for column in zip(*rows, strict=True))
    return images, masks, boxes, confidence


def test_a_network_of_sams_shape_learns_from_the_exported_slices(prepared: Prepared, tmp_path: Path) -> None:
    export_slices(prepared.synthetic, tmp_path, SliceSettings(size=SIZE))
    images, masks, boxes, confidence = load_slices(tmp_path)
    assert confidence.std() > 0.05
    torch.manual_seed(0)
    model, loss_function = SmallSAM(), ConfidenceDiceBCELoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = loss_function(model(images, boxes), masks, confidence)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    predicted = model(images, boxes) > 0
    dice = 2 * (predicted & (masks > 0)).sum() / (predicted.sum() + masks.sum())
    assert dice > 0.6


def test_untrusted_pixels_teach_nothing(prepared: Prepared, tmp_path: Path) -> None:
    export_slices(prepared.synthetic, tmp_path, SliceSettings(size=SIZE))
    images, masks, boxes, confidence = load_slices(tmp_path)
    torch.manual_seed(0)
    logits = SmallSAM()(images, boxes).detach().requires_grad_()
    confidence[:, :, :20] = 0
    ConfidenceDiceBCELoss()(logits, masks, confidence).backward()
    assert (logits.grad[:, :, :20] == 0).all()
    assert (logits.grad[:, :, 20:] != 0).any()


def test_full_confidence_is_the_unweighted_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 16, 16, generator=generator)
    masks = (torch.rand(3, 1, 16, 16, generator=generator) > 0.5).float()
    probability = logits.sigmoid()
    overlap = 2 * (probability * masks).sum((2, 3)) + 1e-5
    dice = overlap / (probability.sum((2, 3)) + masks.sum((2, 3)) + 1e-5)
    wanted = functional.binary_cross_entropy_with_logits(logits, masks) - dice.mean()
    ours = ConfidenceDiceBCELoss()(logits, masks, torch.ones_like(masks))
    assert ours.item() == pytest.approx(wanted.item(), abs=1e-6)


def test_weights_above_1_are_exported_in_the_same_steps(prepared: Prepared, tmp_path: Path) -> None:
    synthetic = prepared.synthetic.only(["syn_0"])
    allowed = replace(
        synthetic, folder=tmp_path / synthetic.name, dataset_json=synthetic.dataset_json | {"fcas_max_weight": 3}
    )
    shutil.copytree(synthetic.folder, allowed.folder)
    label = read_volume(allowed.mask_path("syn_0"))
    write_volume(allowed.confidence_path("syn_0"), np.where(label.array > 0, np.float32(3), 1), label.affine)
    export_slices(allowed, tmp_path / "npy", SliceSettings(size=SIZE))
    planes = [np.load(path) for path in sorted((tmp_path / "npy" / "confidence").glob("*.npy"))]
    assert {plane.dtype for plane in planes} == {np.dtype(np.uint16)}
    assert max(plane.max() for plane in planes) == 3 * 255
