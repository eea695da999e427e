"""Tables of what files from strangers may try: code, paths and links out of the tree, bombs, markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from damages import hostile_checkpoint, hostile_pickle, json_with, line_with, text, yaml_with
from fault_world import GENERATOR, NETWORK, PLANS, REAL, SYNTHETIC, write

UP = "../../../evil"
EVIL = "</script><img src=x onerror=alert(1)>"
#: Each level holds the one before nine times: 10^9 entries from some hundred bytes.
_LEVELS = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10))
BOMB = f"preset: other\nl0: &l0 [x]\n{_LEVELS}\n"
DEEP = "[" * 100_000


def add(line: str) -> Callable[[Path], None]:
    return lambda path: write(path, path.read_text() + line + "\n")


def renamed(name: str) -> Callable[[Path], None]:
    return lambda path: write(path.with_name(name), path.read_bytes())


#: Line, file, what a stranger has done to it, and what the sentence names.
HOSTILE: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("train", "other.yaml", text(BOMB), "other.yaml"),
    ("train", "other.yaml", text("a: " + DEEP), "other.yaml"),
    ("train", "other.yaml", yaml_with("preset", value=UP), "preset"),
    ("train", "other.yaml", yaml_with("preset", value="/tmp/evil"), "preset"),
    ("train", "other.yaml", text("!!python/name:os.system\n"), "other.yaml"),
    ("train", f"{REAL}/dataset.json", text(DEEP), "dataset.json"),
    ("train", f"{REAL}/dataset.json", json_with("dataset", value={UP: {"images": ["a"], "label": "b"}}), "evil"),
    ("train", f"{REAL}/labelsTr/p1.nii.gz", renamed("p\n1.nii.gz"), r"'p\\n1'"),
    ("medsam", f"{SYNTHETIC}/imagesTr/fcas_00001_0000.nii.gz", renamed("a\u2028b_0000.nii.gz"), r"'a\\u2028b'"),
    ("masks", f"{REAL}/dataset.json", json_with("dataset", value={"a": {"images": [5], "label": {}}}), "dataset.json"),
    ("medsam", f"{SYNTHETIC}/dataset.json", json_with("dataset", value={UP: {"images": ["a"], "label": "b"}}), "evil"),
    ("report", f"{SYNTHETIC}/fcas_manifest.jsonl", add(json.dumps({"case_id": UP})), "fcas_manifest.jsonl"),
    ("report", f"{SYNTHETIC}/fcas_manifest.jsonl", line_with("case_id", UP), "fcas_manifest.jsonl"),
    ("report", f"{SYNTHETIC}/fcas_manifest.jsonl", add(DEEP), "fcas_manifest.jsonl"),
    ("confidence", f"{SYNTHETIC}/fcas_manifest.jsonl", line_with("case_id", UP), "fcas_manifest.jsonl"),
    ("prepare", PLANS, json_with("plans_name", value=UP), "plans_name"),
    ("prepare", PLANS, json_with("configurations", "3d_fullres", "data_identifier", value=UP), "data_identifier"),
    ("prepare", PLANS, text(DEEP), "nnUNetPlans.json"),
    ("generate", f"{GENERATOR}/tcdm/config.yaml", text(BOMB), "config.yaml"),
    ("generate", f"{GENERATOR}/tcdm/ema.safetensors", hostile_pickle, "ema.safetensors"),
    ("export", f"{NETWORK}/fold_0/checkpoint_final.pth", hostile_checkpoint, "checkpoint_final.pth"),
    ("export", f"{NETWORK}/fold_0/checkpoint_final.pth", hostile_pickle, "checkpoint_final.pth"),
    ("confidence", f"{NETWORK}/fold_0/checkpoint_final.pth", hostile_pickle, "checkpoint_final.pth"),
    ("confidence", f"{NETWORK}/plans.json", text(DEEP), "plans.json"),
    ("results", "ada.json", text(DEEP), "ada.json"),
    ("results", "reading/key.json", text(DEEP), "key.json"),
    ("compare", "a.json", text(DEEP), "a.json"),
    ("merge", "predictions/dataset.json", text(DEEP), "dataset.json"),
    ("merge", "predictions/dataset.json", json_with("labels", value={UP: "x"}), "dataset.json"),
    ("segmentations", "predictions/dataset.json", json_with("labels", value={"a": UP}), "dataset.json"),
]

#: A folder that a line writes into, what is a link in it, and whether to a file or to a folder.
LINKS = [
    ("more", SYNTHETIC, "fcas_manifest.jsonl", "note.txt"),
    ("more", SYNTHETIC, "imagesTr", "predictions"),
    ("more", SYNTHETIC, ".fcas_unfinished", "predictions"),
    ("generate", "nnUNet_raw/Dataset903_SmallFCaS", "imagesTr", "predictions"),
    ("generate", "nnUNet_raw/Dataset903_SmallFCaS", "fcas_manifest.jsonl", "gone"),
    ("masks", "masks", "fcas_manifest.jsonl", "note.txt"),
    ("masks", "masks", "fcas_manifest.jsonl", "gone"),
    ("phantom", "nnUNet_raw/Dataset905_Phantom", "fcas_manifest.jsonl", "note.txt"),
    ("phantom", "nnUNet_raw/Dataset905_Phantom", "imagesTr", "predictions"),
    ("convert", "nnUNet_raw/Dataset905_ACDC", "imagesTr", "predictions"),
    ("merge", "nnUNet_raw/Dataset905_SmallMerged", ".fcas_unfinished", "predictions"),
    ("medsam", "slices", "imgs", "predictions"),
    ("train", "nnUNet_results/Dataset901_Small/fcas__other", "autoencoder", "predictions"),
    ("train", "nnUNet_results/Dataset901_Small/fcas__other", ".fcas_unfinished", "predictions"),
]
