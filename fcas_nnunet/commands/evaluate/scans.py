"""Open the scans that a flag names: a data set, or a bare folder of scans; and one channel of them to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fcas_nnunet.commands.runtime.case_files import case_files
from fcas_nnunet.commands.runtime.channels import showing
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, bare_folder, is_dataset, open_dataset
from fcas_nnunet.intensities import CT
from fcas_nnunet.listing import listed


@dataclass(frozen=True)
class Scans:
    """Scans to compare.

    Attributes:
        name: Name of the data set, or the folder.
        files: Case id → the channel of the scan that is looked at.
        channel_name: Says what its values are.
        channels: Case id → all channels of the scan.
        channel_names: Names of all channels.
        dataset: The data set they are the training cases of; None for a bare folder.
    """

    name: str
    files: dict[str, Path]
    channel_name: str
    channels: dict[str, list[Path]]
    channel_names: list[str]
    dataset: RawDataset | None = None


def open_scans(argument: str, by: str, channel: int = 0) -> Scans:
    """The scans that a flag names: a data set's id, name or folder, or a bare folder of scans; and one channel of them.

    What their channels are says the data set, also that which a bare folder lies in; others hold one channel of CT.
    """
    folder = bare_folder(argument)
    if folder is not None:
        above = folder.absolute().parent
        names = [CT]
        if is_dataset(above):
            within = showing(RawDataset.open(above, any_kind=True), channel)
            names = list(within.channel_names.values())
        elif channel:
            raise InputError(
                f"{folder}: channels must be named by a data set, got a folder without. Leave out --channel."
            )
        by_channel = [case_files(folder, number, len(names)) for number in range(len(names))]
        lacking = sorted({case_id for files in by_channel for case_id in by_channel[0].keys() ^ files.keys()})
        if lacking:
            raise InputError(
                f"{folder}: scans must have {len(names)} channels, got fewer of {listed(lacking)}. Add them."
            )
        channels = {case_id: [files[case_id] for files in by_channel] for case_id in by_channel[0]}
        return Scans(str(folder), by_channel[channel], names[channel], channels, names)
    dataset = showing(open_dataset(argument, by=by), channel)
    files = {case_id: dataset.image_path(case_id) for case_id in dataset.case_ids}
    channels = {case_id: dataset.image_paths(case_id) for case_id in dataset.case_ids}
    names = list(dataset.channel_names.values())
    return Scans(dataset.name, files, dataset.channel_name, channels, names, dataset)
