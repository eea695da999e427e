"""Ways in which a file can be broken, each under its name, by the kind of the file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import yaml
from fault_world import write
from hostile_files import Payload
from safetensors.torch import load_file, save

Damage = Callable[[Path], None]


def cut(path: Path) -> None:
    content = path.read_bytes()
    write(path, content[: len(content) // 2])


def empty(path: Path) -> None:
    write(path, b"")


def garbage(path: Path) -> None:
    write(path, np.random.default_rng(0).bytes(600))


def missing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    """A folder of that name instead."""
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    """A link to nothing."""
    path.unlink()
    path.symlink_to("nowhere")


def text(content: str) -> Damage:
    return lambda path: write(path, content)


def json_with(*keys: str | int, value: Any) -> Damage:
    """Replace a value within a JSON file; an ellipsis removes it."""
    return lambda path: write(path, json.dumps(_changed(json.loads(path.read_text()), keys, value)))


def yaml_with(*keys: str, value: Any) -> Damage:
    """Replace a value within a YAML file; an ellipsis removes it."""
    return lambda path: write(
        path, yaml.safe_dump(_changed(yaml.safe_load(path.read_text()), keys, value), sort_keys=False)
    )


def _changed(content: Any, keys: Sequence[str | int], value: Any) -> Any:
    """Content with another value at a place; without the place if the value is an ellipsis."""
    found = content
    for key in keys[:-1]:
        found = found[key]
    if value is ...:
        del found[keys[-1]]
    else:
        found[keys[-1]] = value
    return content


def line_with(key: str, value: Any) -> Damage:
    """Replace a value in every line of a manifest."""

    def damage(path: Path) -> None:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        write(path, "".join(json.dumps({**record, key: value}) + "\n" for record in records))

    return damage


def volume(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Damage:
    """Change voxels [X, Y, Z] and affine of a NIfTI file."""

    def damage(path: Path) -> None:
        image = nibabel.load(path)
        array, affine = change(np.asarray(image.dataobj).copy(), image.affine.copy())
        path.unlink()
        nibabel.save(nibabel.Nifti1Image(array, affine), path)

    return damage


def weights(value: float) -> Damage:
    """Fill every tensor of a safetensors file."""

    def damage(path: Path) -> None:
        state = {name: tensor.fill_(value) if tensor.is_floating_point() else tensor
                 for name, tensor in load_file(path).items()}  # fmt: skip
        write(path, save({name: tensor.clone() for name, tensor in state.items()}))

    return damage


def other_tensors(path: Path) -> None:
    write(path, save({"a": torch.zeros(2)}))


def hostile_checkpoint(path: Path) -> None:
    """A checkpoint that makes a folder when it is unpickled."""
    path.unlink()
    torch.save({"network_weights": {}, "evil": Payload("unpickled"), "trainer_name": "x", "init_args": {}}, path)


def hostile_pickle(path: Path) -> None:
    write(path, pickle.dumps(Payload("unpickled")))


def scaled(factor: float) -> Damage:
    """Another spacing."""
    return volume(lambda array, affine: (array, affine @ np.diag([factor, factor, factor, 1])))


#: Any file at all.
ANY: dict[str, Damage] = {"empty": empty, "cut": cut, "garbage": garbage, "a folder": folder}
GONE: dict[str, Damage] = {"missing": missing, "a link to nothing": dangling}
JSON: dict[str, Damage] = ANY | {"a list": text("[1]"), "null": text("null"), "text": text('"a"')}
#: The same without a folder of that name, where a file of that name is one of several that are looked for.
CONTENT = {name: damage for name, damage in JSON.items() if damage is not folder}
FOLDS: dict[str, Damage] = JSON | {
    "an unknown case": json_with(0, "val", value=["nobody"]),
    "a case twice": json_with(0, "train", value=["p0", "p1", "p0"]),
    "a case in both lists": json_with(0, "val", value=["p1"]),
}
YAML: dict[str, Damage] = {
    "empty": empty, "garbage": garbage, "a folder": folder, "a list": text("- a\n- b\n"), "null": text("null\n"),
    "not YAML": text("a: [1,\nb: }"), "an object to build": text("a: !!python/object/apply:os.mkdir [unpickled]\n"),
}  # fmt: skip
SCAN: dict[str, Damage] = ANY | {
    "NaN": volume(lambda array, affine: (np.full(array.shape, np.nan, np.float32), affine)),
    "complex": volume(lambda array, affine: (array.astype(np.complex64) * 1j, affine)),
    "four axes": volume(lambda array, affine: (np.stack([array, array], -1), affine)),
    "another shape": volume(lambda array, affine: (array[:-3], affine)),
    "elsewhere": volume(lambda array, affine: (array, affine + 90 * np.eye(4, k=3))),
}
LABEL: dict[str, Damage] = {name: SCAN[name] for name in ("empty", "cut", "garbage", "a folder", "another shape")} | {
    "fractions": volume(lambda array, affine: (array.astype(np.float32) + 0.5, affine)),
    "unknown ids": volume(lambda array, affine: (np.where(array == 1, 77, array).astype(np.uint8), affine)),
    "negative": volume(lambda array, affine: (-array.astype(np.int16), affine)),
}  # fmt: skip
WEIGHTS: dict[str, Damage] = ANY | {
    "NaN": weights(float("nan")), "infinite": weights(float("inf")), "other tensors": other_tensors,
}  # fmt: skip
CHECKPOINT: dict[str, Damage] = ANY | {"hostile": hostile_checkpoint}
