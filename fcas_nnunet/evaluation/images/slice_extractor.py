"""Extract features of slices by a ResNet-50 with RadImageNet's or ImageNet's weights from a file, without fallback."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import torch
from torch import nn

from fcas_nnunet.evaluation.images.pretrained_weights import load_strictly, read_state_dict, weights_label

_BATCH = 8
_KERAS_EPS = 1.001e-5
#: Number of a child of torchvision's ResNet-50 → its name: RadImageNet's own file numbers them.
_NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


class FidExtractor(StrEnum):
    """Data set that the weights were trained on; the numbers of two do not compare."""

    RADIMAGENET = "radimagenet_resnet50"
    IMAGENET = "imagenet_resnet50"


class SliceExtractor:
    """ResNet-50 without its head.

    Attributes:
        name: Extractor, file of weights and its SHA-256.
    """

    def __init__(self, network: nn.Module, name: str, device: torch.device) -> None:
        self.name = name
        self._network = network.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def features(self, slices: torch.Tensor) -> torch.Tensor:
        """Compute the spatial mean of the last stage.

        Args:
            slices: float32 [N, 3, H, W].

        Returns:
            float32 [N, 2048] on the CPU.
        """
        batches = slices.split(_BATCH)
        return torch.cat([self._network(batch.to(self._device)).float().cpu() for batch in batches])


def open_slice_extractor(extractor: FidExtractor, path: Path, device: torch.device | None = None) -> SliceExtractor:
    """Open a ResNet-50 with weights from a file.

    RadImageNet's weights come in two kinds, distinguished by their names; both are accepted: those converted from
    Keras (`RadImageNet-ResNet50_notop.pth` of Warvito/radimagenet-models, which MAISI's FID uses: convolutions with
    bias, the stride in a block's first one), and RadImageNet's own for torch (`ResNet50.pt`, torchvision's layout).
    ImageNet's are torchvision's `resnet50-*.pth`.

    Args:
        extractor: Data set that the file's weights were trained on.
        path: File of weights.
        device: Device of the computation; None means the CPU.

    Raises:
        MissingFileError: when there is no such file.
        InputError: when it holds other weights; a name or shape that does not fit is enough.
    """
    state = read_state_dict(path)
    from torchvision.models import resnet50  # not at the top: a CPU build of torch may not carry it

    network = resnet50(weights=None)
    kind = "torchvision's layout"
    if extractor is FidExtractor.RADIMAGENET:
        network.fc = nn.Identity()
        state = {_plain_name(key): tensor for key, tensor in state.items()}
        if "conv1.bias" in state:
            kind = "Keras' layout"
            _make_keras_layout(network)
    load_strictly(network, state, path, f"{extractor} in {kind}")
    network.fc = nn.Identity()
    return SliceExtractor(network, f"{extractor}, {weights_label(path)}", device or torch.device("cpu"))


def _plain_name(key: str) -> str:
    """`backbone.4.0.conv1.weight` → `layer1.0.conv1.weight`; other names stay."""
    first, _, rest = key.removeprefix("backbone.").partition(".")
    return f"{_NUMBERED[first]}.{rest}" if key.startswith("backbone.") and first in _NUMBERED else key


def _make_keras_layout(network: nn.Module) -> None:
    """Change to Keras' ResNet-50: bias in every convolution, the first of a block strides, another ε."""
    from torchvision.models.resnet import Bottleneck

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = _KERAS_EPS
        elif isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
