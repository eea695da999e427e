"""A line of every command that reads and writes, as the tests of faults run them in a `World`."""

from __future__ import annotations

from fault_world import NETWORK, REAL, SYNTHETIC

LINES = {
    "phantom": "phantom -d 905 -n 1 --shape 32 32 32 -np 1",
    "convert": "convert acdc public -d 905 -np 1",
    "merge": "merge -d 901 -o 905 --masks predictions -np 1",
    "train": "train -d 901 --config other.yaml",
    "masks": "masks -d 901 -o masks -n 2 -np 1",
    "fold": "masks -d 901 -o masks -n 2 --fold 0 -np 1",
    "generate": "generate -d 901 -o 903 -n 1 --config short.yaml -np 1",
    "more": "generate -d 901 -o 902 -n 5 --config short.yaml -np 1 --dry-run",
    "dry": "generate -d 901 -o 903 -n 1 --config short.yaml -np 1 --dry-run",
    "replay": f"generate --replay {SYNTHETIC}/fcas_manifest.jsonl -o 903 -np 1",
    "prepare": "prepare -d 902 --for 901 -np 1",
    "prepare_2d": "prepare -d 902 --for 901 -c 2d -np 1",
    "confidence": f"confidence -d 902 --network {NETWORK} -f 0 -device cpu -np 1",
    "report": "report -d 902 --against 901 -o page.html -np 1",
    "results_of": "report -d 902 --results a.json -o page.html -np 1",
    "medsam": "export medsam -d 902 -o slices --size 32",
    "export": f"export -i {NETWORK} -o plain",
    "segmentations": f"evaluate segmentations -r {REAL}/labelsTr -p predictions -np 1 --overlap_only",
    "compare": "evaluate compare -a a.json -b b.json",
    "images": "evaluate images -r 901 -s 902 -np 1",
    "fidelity": f"evaluate fidelity -d 902 -m {NETWORK} -f 0 -device cpu --overlap_only -np 1",
    "fidelity_of": f"evaluate fidelity -d 902 -m {NETWORK} -f 0 -device cpu --overlap_only -np 1 --real_scores a.json",
    "memorisation": "evaluate memorisation -d 902 --train 901 -np 1",
    "held_out": "evaluate confidence -d 901 --config short.yaml --held_out 902 -device cpu",
    "reading": "report reading prepare --methods m=901 n=901 --real 901 -o reading2 -np 1 --seed 1",
    "results": "report reading results ada.json bob.json -k reading/key.json -o results",
}
#: Lines that keep the whole cases which they finished before they met a fault; the same line goes on.
KEEPS = ("convert", "merge", "medsam")
