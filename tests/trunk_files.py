"""Files of weights with the names and shapes of the published ones and seeded random values, for tests alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torchvision import models

from fcas_nnunet.evaluation.images.perceptual import Trunk


def seeded_state(network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """The network's own state with values that keep activations alive through all of its layers."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, tensor in network.state_dict().items():
        if tensor.dtype != torch.float32:
            state[key] = tensor.clone()
        elif key.endswith("running_var"):
            state[key] = torch.rand(tensor.shape, generator=generator) + 0.5
        elif tensor.ndim == 4:
            state[key] = torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        elif key.endswith("weight"):
            state[key] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            state[key] = 0.1 * torch.randn(tensor.shape, generator=generator)
    return state


def write_trunk(trunk: Trunk, path: Path, seed: int) -> Path:
    """A file as torchvision publishes it; the classifiers, which nothing here reads, are one row each."""
    build = {Trunk.ALEX: models.alexnet, Trunk.VGG: models.vgg16, Trunk.SQUEEZE: models.squeezenet1_1}[trunk]
    with torch.device("meta"):
        features = build(weights=None).features
    state = {f"features.{key}": tensor for key, tensor in seeded_state(features, seed).items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(1, 4), "classifier.1.bias": torch.zeros(1)}, path)
    return path


def write_torchvision_resnet50(path: Path, seed: int = 0) -> Path:
    """As torchvision publishes ImageNet's."""
    torch.save(seeded_state(models.resnet50(weights=None), seed), path)
    return path


def write_keras_resnet50(path: Path, seed: int = 0) -> Path:
    """As Warvito/radimagenet-models converted RadImageNet's from Keras: no head, a bias in every convolution."""
    network = models.resnet50(weights=None)
    network.fc = nn.Identity()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    torch.save(seeded_state(network, seed), path)
    return path
