"""FID 2.5D against MAISI's recipe written out, and the extractors' layouts against a forward pass by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, Spacing
from scipy import ndimage
from torch.nn import functional as F
from torchvision.models import resnet50
from trunk_files import seeded_state, write_keras_resnet50, write_torchvision_resnet50

from fcas_nnunet.evaluation.images.fid_2p5d import fid_2p5d, plane_features, prepared_slices, prepared_volume
from fcas_nnunet.evaluation.images.slice_extractor import FidExtractor, SliceExtractor, open_slice_extractor

SIZE = 32


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keras_resnet50(tmp_path_factory.mktemp("weights") / "RadImageNet-ResNet50_notop.pth")


@pytest.fixture(scope="module")
def extractor(keras_file: Path) -> SliceExtractor:
    return open_slice_extractor(FidExtractor.RADIMAGENET, keras_file)


def scan(seed: int, shape: tuple[int, int, int] = (30, 44, 50)) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return (100 + 8000 * field).astype(np.int16)


def affine(spacing_mm: tuple[float, float, float], flips: tuple[int, int, int]) -> np.ndarray:
    """(d, h, w) → LPS, d along z, h along y, w along x."""
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for column, row in enumerate((2, 1, 0)):
        matrix[row, column] = flips[column] * spacing_mm[column]
    matrix[:3, 3] = (-30.0, 12.0, 7.0)
    return matrix


def test_a_scan_of_1_mm_by_hand() -> None:
    """Nothing is resampled: turned to RAS, air around it, cropped, clipped."""
    image = scan(0)
    found = prepared_volume(image, affine((1, 1, 1), (1, 1, 1)), SIZE).numpy()
    ras = image.transpose(2, 1, 0)[::-1, ::-1].astype(np.float32)  # LPS → RAS: x and y are turned
    ras = ras[9:41, 6:38]  # 50 → 32, 44 → 32
    ras = np.pad(ras, ((0, 0), (0, 0), (1, 1)), constant_values=-1000)  # 30 → 32
    np.testing.assert_allclose(found, np.clip(ras, -1000, 1000), atol=1e-3)
    assert found.min() == -1000
    assert np.abs(image).max() > 1000


def test_slices_by_hand() -> None:
    volume = np.random.default_rng(0).uniform(-1000, 700, size=(20, 30, 40)).astype(np.float32)
    for axis, (start, stop) in enumerate(((6, 14), (9, 21), (12, 28))):
        found = prepared_slices(torch.from_numpy(volume), axis).numpy()
        middle = np.moveaxis(volume, axis, 0)[start:stop]
        scaled = (middle - middle.min()) / (middle.max() - middle.min())
        for channel, mean in enumerate((0.406, 0.456, 0.485)):
            np.testing.assert_allclose(found[:, channel], scaled - mean, atol=1e-6)


def test_slices_of_padding_alone_are_left_out() -> None:
    """A scan of 10 slices of 1 mm in a padded volume of 32: its middle 12 slices hold two of padding."""
    volume = prepared_volume(scan(0, (10, 40, 40)), affine((1, 1, 1), (1, 1, 1)), SIZE)
    assert [len(prepared_slices(volume, axis)) for axis in range(3)] == [13, 13, 10]
    empty = torch.full((SIZE, SIZE, SIZE), -1000.0)
    assert len(prepared_slices(empty, 2)) == 13  # a scan without anything counts as it is


def recipe(path: Path, forward: torch.nn.Module) -> Iterator[np.ndarray]:
    """MAISI's steps in its order, from the file, with its indices into [1, 3, H, W, D]: XY, YZ, ZX."""
    load = Compose([LoadImage(image_only=True), EnsureChannelFirst(),
                    Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
                    Spacing((1.0, 1.0, 1.0), mode="bilinear")])  # fmt: skip
    volume = load(path).as_tensor()[0].numpy()
    for axis in range(3):  # pad at both ends, the longer half at the end; crop about the centre
        lack = max(SIZE - volume.shape[axis], 0)
        widths = [(0, 0)] * 3
        widths[axis] = (lack // 2, lack - lack // 2)
        volume = np.pad(volume, widths, constant_values=-1000)
        start = volume.shape[axis] // 2 - SIZE // 2
        volume = volume.take(range(start, start + SIZE), axis)
    image = torch.from_numpy(np.clip(volume, -1000, 1000)).float()[None, None].repeat(1, 3, 1, 1, 1)[:, [2, 1, 0]]
    start, stop = int((1.0 - 0.4) / 2.0 * SIZE), int((1.0 + 0.4) / 2.0 * SIZE)
    for dim in (4, 2, 3):
        slices = torch.cat(torch.unbind(image, dim=dim)[start:stop])
        slices = (slices - slices.min()) / (slices.max() - slices.min() + 1e-10)
        slices -= torch.tensor([0.406, 0.456, 0.485])[:, None, None]
        with torch.no_grad():
            yield forward(slices).mean(dim=(2, 3)).numpy()


class KerasResNet50(torch.nn.Module):
    """The forward pass of Keras' ResNet-50 from a state dict, without torchvision."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.state = state

    def layer(self, x: torch.Tensor, conv: str, norm: str, stride: int, padding: int) -> torch.Tensor:
        s = self.state
        x = F.conv2d(x, s[f"{conv}.weight"], s[f"{conv}.bias"], stride, padding)
        names = (f"{norm}.{name}" for name in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *[s[name] for name in names], eps=1.001e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.layer(x, "conv1", "bn1", 2, 3).relu(), 3, 2, 1)
        for stage, blocks in enumerate((3, 4, 6, 3), start=1):
            for block in range(blocks):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                out = self.layer(x, f"{name}.conv1", f"{name}.bn1", stride, 0).relu()
                out = self.layer(out, f"{name}.conv2", f"{name}.bn2", 1, 1).relu()
                out = self.layer(out, f"{name}.conv3", f"{name}.bn3", 1, 0)
                if block == 0:
                    x = self.layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride, 0)
                x = (x + out).relu()
        return x


def test_the_recipe_from_file_to_fid(extractor: SliceExtractor, keras_file: Path, tmp_path: Path) -> None:
    """A set of two scans and one of one, of odd orientation and spacing."""
    forward = KerasResNet50(torch.load(keras_file, weights_only=True))
    geometry = affine((1.4, 0.8, 0.7), (-1, 1, -1))
    ras_affine = np.diag([-1.0, -1, 1, 1]) @ geometry[:, [2, 1, 0, 3]]
    found: list[list[dict[str, np.ndarray]]] = [[], []]
    wanted: list[list[list[np.ndarray]]] = [[], []]
    for seed in range(3):
        image, path = scan(seed), tmp_path / f"{seed}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image.T, ras_affine), path)
        found[seed % 2].append(plane_features(image, geometry, extractor, SIZE))
        wanted[seed % 2].append(list(recipe(path, forward)))
    for mine, theirs in zip(found[0], wanted[0], strict=True):
        for plane, features in zip(("xy", "yz", "zx"), theirs, strict=True):
            assert mine[plane].shape == features.shape == (13, 2048)
            np.testing.assert_allclose(mine[plane], features, rtol=1e-3, atol=1e-3 * features.std())
    result = fid_2p5d(found[0], found[1])
    stacked = [[np.concatenate([one[plane] for one in scans]) for plane in range(3)] for scans in wanted]
    few = [[{plane: features[:, :8] for plane, features in one.items()} for one in scans] for scans in found]
    mine = fid_2p5d(*few)  # MONAI's root fails where there are more channels than slices
    for plane, real, synthetic in zip(("xy", "yz", "zx"), *stacked, strict=True):
        pair = [torch.from_numpy(features[:, :8]) for features in (synthetic, real)]
        assert mine.planes[plane] == pytest.approx(FIDMetric()(*pair).item(), rel=1e-3)
    assert result.fid == pytest.approx(np.mean(list(result.planes.values())))
    assert (result.real_slices, result.synthetic_slices) == (26, 13)
    assert fid_2p5d(found[0], found[0]).fid == pytest.approx(0, abs=1e-6 * result.fid)


def test_torchvision_layouts(tmp_path: Path) -> None:
    path = write_torchvision_resnet50(tmp_path / "resnet50-11ad3fa6.pth")
    network = resnet50(weights=None)
    network.load_state_dict(torch.load(path, weights_only=True))
    network.fc = torch.nn.Identity()
    slices = torch.randn(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = network.eval()(slices)
    imagenet = open_slice_extractor(FidExtractor.IMAGENET, path)
    assert torch.allclose(imagenet.features(slices), wanted, rtol=1e-4, atol=1e-4)
    assert imagenet.name.startswith("imagenet_resnet50, resnet50-11ad3fa6.pth, sha256 ")
    with pytest.raises(ValueError, match=r"radimagenet_resnet50 in torchvision's layout, got fc\.weight besides, fc\."):
        open_slice_extractor(FidExtractor.RADIMAGENET, path)
    children = torch.nn.Sequential(*list(network.children())[:-1])  # RadImageNet's own file is named so
    numbered = tmp_path / "ResNet50.pt"
    torch.save({f"backbone.{key}": tensor for key, tensor in children.state_dict().items()}, numbered)
    radimagenet = open_slice_extractor(FidExtractor.RADIMAGENET, numbered)
    assert torch.allclose(radimagenet.features(slices), wanted, rtol=1e-4, atol=1e-4)
    assert radimagenet.name.startswith("radimagenet_resnet50, ResNet50.pt, sha256 ")


def test_keras_layout_is_not_taken_for_another(keras_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be those of imagenet_resnet50 .*, got no fc\.weight.* and \d+ more"):
        open_slice_extractor(FidExtractor.IMAGENET, keras_file)
    state = torch.load(keras_file, weights_only=True)
    del state["layer3.4.conv2.bias"]
    torch.save(state, tmp_path / "partly.pth")
    with pytest.raises(ValueError, match=r"got no layer3\.4\.conv2\.bias\. Name another file"):
        open_slice_extractor(FidExtractor.RADIMAGENET, tmp_path / "partly.pth")
    torch.save(seeded_state(torch.nn.Conv2d(1, 1, 3), 0), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"got no conv1\.weight"):
        open_slice_extractor(FidExtractor.RADIMAGENET, tmp_path / "other.pth")


def test_an_empty_set_is_named() -> None:
    with pytest.raises(ValueError, match="the real set must have at least one scan, got none"):
        fid_2p5d([], [])
