"""LPIPS: lpips' own numbers for the same weights, over the slices that are named; other weights are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from scipy import ndimage
from trunk_files import write_trunk

from fcas_nnunet.evaluation.images.perceptual import (
    TRUNK_FILES,
    Trunk,
    find_trunk_weights,
    middle_slices,
    open_perceptual_distance,
)
from fcas_nnunet.evaluation.images.quality import IntensityRange

RANGE = IntensityRange(-200, 600, "stated")


def scan(seed: int, shape: tuple[int, int, int] = (40, 36, 44)) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (200 + 3000 * field).astype(np.int16)


def plain_lpips(trunk: Trunk, path: Path) -> lpips.LPIPS:
    """lpips as its users build it, its trunk filled by hand from the file, slice by slice."""
    network = lpips.LPIPS(net=str(trunk), pnet_rand=True, verbose=False)
    state = torch.load(path, weights_only=True)
    for slice_ in network.net.children():
        for number, layer in slice_.named_modules():
            for kind, parameter in layer.named_parameters(recurse=False):
                parameter.data.copy_(state[f"features.{number}.{kind}"])
    return network.eval()


@pytest.mark.parametrize("trunk", list(Trunk))
def test_slices_get_lpips_own_numbers(trunk: Trunk, tmp_path: Path) -> None:
    path = write_trunk(trunk, tmp_path / TRUNK_FILES[trunk], seed=1)
    distance = open_perceptual_distance(trunk, path)
    first, second = (2 * RANGE.normalise(scan(seed))[:3] - 1 for seed in (0, 1))
    found = distance.distances(first, second)
    tensors = [torch.from_numpy(slices)[:, None].repeat(1, 3, 1, 1) for slices in (first, second)]
    with torch.no_grad():
        wanted = plain_lpips(trunk, path)(*tensors).flatten().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found.min() > 1e-3
    assert distance.name.startswith(f"LPIPS 0.1, {trunk}, {TRUNK_FILES[trunk]}, sha256 ")


@pytest.fixture
def alex(tmp_path: Path) -> Path:
    return write_trunk(Trunk.ALEX, tmp_path / TRUNK_FILES[Trunk.ALEX], seed=0)


def test_a_pair_is_the_mean_over_slices_of_three_planes(alex: Path) -> None:
    distance = open_perceptual_distance(Trunk.ALEX, alex)
    real, synthetic = scan(0), scan(1)
    score = distance.score(real, synthetic, RANGE, slices_per_plane=4)
    assert score.slices == {"along_d": 4, "along_h": 4, "along_w": 4}
    network = plain_lpips(Trunk.ALEX, alex)
    for axis, plane in enumerate(score.planes):
        values = []
        for number in middle_slices(real.shape[axis], 4):
            pair = [np.take(volume, number, axis) for volume in (real, synthetic)]
            pair = [2 * np.clip((image.astype(np.float32) + 200) / 800, 0, 1) - 1 for image in pair]
            with torch.no_grad():
                values.append(network(*[torch.from_numpy(image).expand(1, 3, -1, -1) for image in pair]).item())
        assert score.planes[plane] == pytest.approx(np.mean(values), rel=1e-4)
    assert score.lpips == pytest.approx(np.mean(list(score.planes.values())))


def test_equal_scans_have_no_distance_and_order_does_not_matter(alex: Path) -> None:
    distance = open_perceptual_distance(Trunk.ALEX, alex)
    assert distance.score(scan(0), scan(0), RANGE, 4).lpips == 0
    forth, back = distance.score(scan(0), scan(1), RANGE, 4), distance.score(scan(1), scan(0), RANGE, 4)
    assert forth.lpips == pytest.approx(back.lpips, rel=1e-6)
    near = distance.score(scan(0), scan(0) + np.int16(20), RANGE, 4)
    assert 0 < near.lpips < forth.lpips
    outside = np.where(scan(0) > 100, 2000, -900)  # clipped to the range before it is seen
    assert distance.score(outside, np.clip(outside, -200, 600), RANGE, 4).lpips == 0


def test_middle_slices() -> None:
    assert middle_slices(10, 32) == [3, 4, 5, 6]
    assert middle_slices(100, 5) == [30, 40, 50, 59, 69]
    assert middle_slices(1, 5) == [0]
    assert len(set(middle_slices(512, 32))) == 32


def test_what_cannot_be_scored_is_named(alex: Path) -> None:
    distance = open_perceptual_distance(Trunk.ALEX, alex)
    with pytest.raises(ValueError, match=r"every side must be at least 32 voxels for LPIPS, got \(31, 40, 40\)"):
        distance.score(scan(0, (31, 40, 40)), scan(1, (31, 40, 40)), RANGE)
    with pytest.raises(ValueError, match=r"shape must be the real one's \(40, 36, 44\), got \(40, 36, 45\)"):
        distance.score(scan(0), scan(1, (40, 36, 45)), RANGE)


def test_weights_are_found_where_torch_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_trunk_weights() is None
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = write_trunk(Trunk.SQUEEZE, folder / TRUNK_FILES[Trunk.SQUEEZE], seed=0)
    assert find_trunk_weights() == (Trunk.SQUEEZE, path)
    assert find_trunk_weights([Trunk.ALEX]) is None


def test_other_weights_are_refused(alex: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth: file of weights must exist"):
        open_perceptual_distance(Trunk.ALEX, tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"weights must be those of torchvision's vgg16-397923af\.pth, got no "):
        open_perceptual_distance(Trunk.VGG, alex)
    state = torch.load(alex, weights_only=True)
    del state["features.3.bias"]
    torch.save(state, tmp_path / "partly.pth")
    with pytest.raises(ValueError, match=r"got no slice2\.3\.bias\. Name another file"):
        open_perceptual_distance(Trunk.ALEX, tmp_path / "partly.pth")
    (tmp_path / "text.pth").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="file must hold torch weights alone"):
        open_perceptual_distance(Trunk.ALEX, tmp_path / "text.pth")
    (tmp_path / "half.pth").write_bytes(alex.read_bytes()[:1000])
    with pytest.raises(ValueError, match="file must hold torch weights alone"):
        open_perceptual_distance(Trunk.ALEX, tmp_path / "half.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="file must hold torch weights alone"):
        open_perceptual_distance(Trunk.ALEX, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="file must be a state dict of tensors, got list"):
        open_perceptual_distance(Trunk.ALEX, tmp_path / "list.pth")
