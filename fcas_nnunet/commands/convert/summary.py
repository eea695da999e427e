"""What was converted, what was skipped and why, and what is doubtful, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fcas_nnunet.commands.convert.cases import (
    DTYPE,
    IMAGE_HASH,
    LABEL_HASH,
    LOWEST,
    MISPRINTS,
    OTHERS,
    OUTSIDE,
    RESAMPLED,
)
from fcas_nnunet.datasets.layout import CT, TEST, Layout, PublicSet
from fcas_nnunet.listing import listed

_LUNG_HU = -200

Records = Mapping[str, Mapping[str, Any]]


def summary_lines(public: PublicSet, layout: Layout, records: Records, folds: str) -> list[str]:
    """The summary of a conversion.

    Args:
        public: The set.
        layout: What was found.
        records: Case id → manifest record, of the cases of this conversion.
        folds: A sentence on the splits.
    """
    test = [record for record in records.values() if record["split"] == TEST]
    labelled = sum(record["label"] is not None for record in test)
    lines = [f"converted: {len(records) - len(test)} cases into imagesTr and labelsTr"]
    if test:
        lines.append(f"           {len(test)} cases into imagesTs, {labelled} of them with labels in labelsTs")
    lines += [f"skipped:   {len(names)} {reason}: {listed(names)}" for reason, names in layout.skipped.items()]
    lines += _changes(public, records)
    lines += [f"note:      {note}" for note in layout.notes]
    lines += [f"splits:    {folds}"]
    lines += [f"doubtful:  {doubt}" for doubt in (*public.doubts, *_doubts(public, records))]
    return lines


def _changes(public: PublicSet, records: Records) -> list[str]:
    """What became of intensities, voxel sizes and labels."""
    resampled = [case_id for case_id, record in records.items() if record.get(RESAMPLED)]
    lines = [f"labels:    {len(resampled)} resampled onto their scan, whose header differs" + _named(resampled)]
    if cut := [case_id for case_id in resampled if records[case_id][OUTSIDE]]:
        most = max(records[case_id][OUTSIDE] for case_id in cut)
        lines.append(f"labels:    up to {most:.1%} of a label lay outside its scan" + _named(cut))
    for key, what in ((MISPRINTS, "misprinted values corrected"), (OTHERS, "unknown values became background")):
        cases = {case_id: record[key] for case_id, record in records.items() if record.get(key)}
        voxels: Counter[str] = Counter()
        for counts in cases.values():
            voxels.update(counts)
        if cases:
            shown = listed([f"{value} ({count:,} voxels)" for value, count in voxels.items()])
            lines.append(f"labels:    {what}: {shown}" + _named(list(cases)))
    offsets = sorted({record["offset"] for record in records.values() if record["offset"]})
    if offsets:
        lines.append(f"HU:        stored values less {', '.join(map(str, offsets))}")
    corrected = [case_id for case_id, record in records.items() if record["spacing_mm"]]
    if corrected:
        lines.append(f"spacing:   corrected as --spacing says in {len(corrected)} cases")
    kinds = Counter(record[DTYPE] for record in records.values())
    lines.append(f"data type: {', '.join(f'{kind} ({count} cases)' for kind, count in sorted(kinds.items()))}")
    return lines


def _doubts(public: PublicSet, records: Records) -> list[str]:
    """What the files themselves make doubtful."""
    doubts = []
    if public.channel == CT:
        airless = [case_id for case_id, record in records.items() if record[LOWEST] > _LUNG_HU]
        if airless:
            doubts.append(
                f"{len(airless)} scans hold no value below {_LUNG_HU} HU, as air and lung have: are they in HU?"
                + _named(airless)
            )
    for key, what in ((IMAGE_HASH, "scan"), (LABEL_HASH, "label map")):
        same: dict[str, list[str]] = defaultdict(list)
        for case_id, record in records.items():
            if key in record:
                same[record[key]].append(case_id)
        doubts += [
            f"{listed(ids, separator=' and ')} have the same {what}: keep them on one side of every split."
            for ids in same.values()
            if len(ids) > 1
        ]
    return doubts


def _named(case_ids: Sequence[str]) -> str:
    return f" ({listed(case_ids)})" if case_ids else ""
