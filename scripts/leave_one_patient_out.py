"""Data sets that leave one patient out, for every patient of a small data set.

For patient i, `Dataset<first + 2 i>` holds the others, to train a generator on, and `Dataset<first + 2 i + 1>` the
patient, to judge it by. Where too few others are left for pairs of training cases, copies of them in new shapes,
image and mask deformed alike, fill up to `--at_least` cases; their anatomy and contrast are no other patient's.

    python scripts/leave_one_patient_out.py -d 920 --first 930
    for i in 930 932; do
        fcas_train -d $i --preset cpu
        fcas_evaluate confidence -d $i --preset cpu --held_out $((i + 1)) -o confidence_$i.json
        python scripts/measure_confidence.py -d $i --preset cpu --held_out $((i + 1))
    done
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from fcas_nnunet.case import Case
from fcas_nnunet.config.generator import MaskConfig
from fcas_nnunet.generator.data.variants import in_new_shape, new_shape_of
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.folders import Root, resolve_dataset, root_folder
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.labels.anatomy import label_roles
from fcas_nnunet.seeds import derive_seed


def main() -> None:
    """Write the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set to split, a case per patient")
    parser.add_argument("--first", type=int, required=True, help="id of the first data set to write")
    parser.add_argument("--at_least", type=int, default=3, help="training cases, copies included (3)")
    args = parser.parse_args()
    dataset = RawDataset.open(resolve_dataset(args.d))
    check_dataset(dataset, min_cases=2)
    for place, held_out in enumerate(dataset.case_ids):
        others = [dataset.load_case(case_id) for case_id in dataset.case_ids if case_id != held_out]
        copies = [
            in_another_shape(others[number % len(others)], dataset, number)
            for number in range(max(0, args.at_least - len(others)))
        ]
        write(dataset, args.first + 2 * place, f"Without_{held_out}", others + copies)
        write(dataset, args.first + 2 * place + 1, f"Only_{held_out}", [dataset.load_case(held_out)])


def in_another_shape(case: Case, dataset: RawDataset, number: int) -> Case:
    """The case, deformed as a whole."""
    assert case.image is not None, "a checked data set has images"
    seed = derive_seed(0, "leave one patient out", case.case_id, number)
    image, mask, around = in_new_shape(
        case.image.astype(np.float32), case.mask, case.surroundings,
        new_shape_of(case.mask, case.spacing_mm, MaskConfig(), seed), case.spacing_mm,
        label_roles(dataset.labels, dataset.roles),
    )  # fmt: skip
    return replace(case, case_id=f"{case.case_id}_copy{number + 1}", image=image, mask=mask, surroundings=around)


def write(dataset: RawDataset, dataset_id: int, name: str, cases: list[Case]) -> None:
    """Write a data set, labelled like the one it comes from."""
    folder = root_folder(Root.RAW) / f"Dataset{dataset_id:03d}_{name}"
    for case in cases:
        write_case(folder, case)
    write_dataset_json(
        folder, dataset.labels, len(cases), channel_names=dataset.channel_names, surroundings=dataset.surroundings
    )
    print(f"{folder.name}: {', '.join(case.case_id for case in cases)}")


if __name__ == "__main__":
    main()
