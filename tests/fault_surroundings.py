"""Tables of what can be wrong around a command: variables, disks, rights, memory."""

from __future__ import annotations

from fault_world import GENERATOR, NETWORK, REAL, SYNTHETIC

#: Lines that only print without -o.
TO_FILE = ("segmentations", "compare", "images", "memorisation")
#: Commands that read no data set, beside those above.
FOLDERS = {
    "nnUNet_raw": "phantom convert merge train masks generate prepare confidence report medsam images memorisation "
    "fidelity",
    "nnUNet_preprocessed": "prepare_2d",
    "nnUNet_results": "train generate",
}
NUMBERS = [
    ("RANK", "report train generate masks phantom"),
    ("WORLD_SIZE", "train generate"),
    ("LOCAL_RANK", ""),
    ("LOCAL_WORLD_SIZE", "generate"),
    ("SLURM_STEP_NUM_TASKS", "generate"),
    ("SLURM_ARRAY_TASK_ID", "generate"),
    ("nnUNet_def_n_proc", "prepare segmentations images"),
    ("nnUNet_n_proc_DA", "prepare"),
]
#: What SLURM sets besides.
SLURM = {"SLURM_PROCID": "0", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "0"}
#: Lines that write, and the size from which on the disk is full: 0, or some kilobytes into the first file.
FULL = [
    *((name, 0) for name in "phantom convert merge train masks generate report medsam export reading results".split()),
    *((name, 0) for name in "segmentations compare images memorisation".split()),
    *((name, 3000) for name in "phantom train report medsam export reading".split()),
]
#: A file or folder, its rights, and the lines that need more of it.
RIGHTS = [
    ("nnUNet_raw", 0o555, "phantom convert merge generate"),
    ("nnUNet_results/Dataset901_Small", 0o555, "train"),
    ("nnUNet_preprocessed/Dataset901_Small", 0o555, "prepare_2d"),
    ("nnUNet_preprocessed/Dataset902_SmallFCaS", 0o555, "prepare_2d"),
    (".", 0o555, "masks report medsam export segmentations compare images memorisation reading results"),
    (f"{REAL}/labelsTr", 0o000, "train masks generate prepare segmentations images memorisation"),
    (f"{REAL}/labelsTr/p1.nii.gz", 0o000, "train masks generate prepare segmentations images memorisation"),
    (f"{REAL}/imagesTr/p1_0000.nii.gz", 0o000, "train prepare images memorisation"),
    (f"{REAL}/dataset.json", 0o000, "train masks generate prepare"),
    (f"{SYNTHETIC}/dataset.json", 0o000, "prepare report medsam confidence fidelity"),
    (f"{SYNTHETIC}/fcas_manifest.jsonl", 0o000, "prepare report confidence"),
    ("short.yaml", 0o000, "generate"),
    (f"{GENERATOR}/tcdm/config.yaml", 0o000, "generate"),
    (f"{GENERATOR}/tcdm/ema.safetensors", 0o000, "generate"),
    (f"{GENERATOR}/autoencoder/model.safetensors", 0o000, "generate"),
    (f"{NETWORK}/plans.json", 0o000, "export confidence fidelity"),
    (f"{NETWORK}/fold_0/checkpoint_final.pth", 0o000, "export confidence fidelity"),
    ("predictions/p1.nii.gz", 0o000, "segmentations merge"),
    ("a.json", 0o000, "compare"),
    ("ada.json", 0o000, "results"),
    ("reading/key.json", 0o000, "results"),
    ("public/training/patient001/patient001_frame01.nii.gz", 0o000, "convert"),
]
#: Lines that read volumes in their own process.
MEMORY = "masks report medsam segmentations images memorisation reading merge convert"
#: Values of a variable that should name a folder, and of one that should be a number.
NO_FOLDERS = ("", "gone", "note.txt", "gone/gone")
NO_NUMBERS = ("abc", "-1", "1e3", "9" * 30)
