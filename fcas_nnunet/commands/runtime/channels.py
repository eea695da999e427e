"""The channels of a data set: the one that is looked at, and those that a generator draws."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

if TYPE_CHECKING:
    from fcas_nnunet.generator.checkpoint import GeneratorRecord

logger = logging.getLogger(__name__)


def showing(dataset: RawDataset, channel: int) -> RawDataset:
    """Return a data set with the channel to look at, and log which one that is where there are several.

    Raises:
        InputError: If the data set has no such channel.
    """
    shown = dataset.showing(channel)
    if shown.num_channels > 1:
        logger.info(f"{shown.name}: looking at channel {channel} ({shown.channel_name}) of {shown.num_channels}")
    return shown


def refuse_other_channels(dataset: RawDataset, real: RawDataset) -> None:
    """Refuse to compare data sets of different numbers of channels.

    Raises:
        InputError: If they differ; names both.
    """
    if dataset.num_channels != real.num_channels:
        raise InputError(
            f"{dataset.name}: channel_names must be those of {real.name}, {real.channel_names}, got "
            f"{dataset.channel_names}. Compare scans of the same channels."
        )


def generator_channel_faults(model: Path, record: GeneratorRecord, source: RawDataset) -> list[str]:
    """List the reason why a generator does not draw the channels of a data set; at most one sentence.

    Generators of earlier versions draw one channel, whose name they do not know.
    """
    ours, theirs = (
        [name.casefold() for name in names] for names in (source.channel_names.values(), record.channel_names)
    )
    if theirs == ours or (not theirs and len(ours) == record.tcdm.image_channels):
        return []
    wanted, known = ", ".join(source.channel_names.values()), ", ".join(record.channel_names) or "one channel"
    return [
        f"{model}: the generator's channels must be those of {source.name}, {wanted}, got {known}. Delete the folder "
        "to train it anew."
    ]
