"""What a merge will do, and all that can be refused without reading a volume."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcas_nnunet.commands.merge.finishing import Stage
from fcas_nnunet.commands.merge.jobs import CaseJob, case_layers
from fcas_nnunet.commands.merge.scans import Target, plan_target
from fcas_nnunet.commands.merge.sources import Source
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import IMAGES, LABELS, SURROUNDINGS
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.labels.merging import Part, name_faults
from fcas_nnunet.listing import listed

REFUSE, SKIP, AS_BACKGROUND = "refuse", "skip", "background"


@dataclass(frozen=True)
class MergePlan:
    """What is to be done.

    Attributes:
        target: data set that is written.
        stage: where cases wait.
        jobs: case id → its job; cases that are left alone have none.
    """

    target: Target
    stage: Stage
    jobs: Mapping[str, CaseJob]


def plan_merge(
    scans: RawDataset, folder: Path, sources: Sequence[Source], args: argparse.Namespace, *, final: bool
) -> MergePlan:
    """See what is to be done, by names, ids, and which files there are.

    Args:
        scans: data set of the scans.
        folder: of the raw data set that is written.
        sources: in the user's order.
        args: of the command.
        final: whether no further source is to come.

    Raises:
        InputError: listing what is wrong.
    """
    given = [(source.name, structure) for source in sources for structure in source.structures()]
    names = {part: [structure.name for _, structure in given if structure.part == part] for part in Part}
    faults = name_faults(given)
    if final and not given:
        faults.append("--masks: sources must give a structure, got none that is not ignored. Change the maps.")
    elif final and folder != scans.folder and not names[Part.LABELS]:
        faults.append(
            f"-o {folder.name}: a new data set must get labels, got sources of surroundings alone. Name the folder of "
            f"its labels with --masks, too: {scans.folder / f'{LABELS}Tr'} say."
        )
    if faults:
        raise InputError("\n".join(faults))
    target, stage = plan_target(scans, folder, names, anew=args.overwrite), Stage(folder)
    foreign = stage.foreign(target, scans.case_ids)
    kept = foreign if args.keep else {}
    faults = _read_and_written(target, sources) + _new_names_beside_kept(target, kept)
    if not args.keep and not args.overwrite:
        faults += [
            f"{case_id}: {part} must be new, got a file that this command did not write, "
            f"{target.path(case_id, part)}. Replace such files (--overwrite), leave such cases alone (--keep), or "
            "write a new data set (-o ID)."
            for case_id, parts in foreign.items()
            for part in parts
        ]
    jobs = {}
    for case_id in scans.case_ids:
        parts = [part for part in target.parts if part not in kept.get(case_id, ())]
        lacks = [what for source in sources if _gives(source, parts) for what in source.lacks(case_id)]
        if lacks and args.missing == REFUSE:
            faults.append(
                f"{case_id}: every source must have the case, got no {listed(lacks)}. Add it, or say what becomes of "
                f"such cases: --missing {SKIP} (no labels) or {AS_BACKGROUND}."
            )
        elif parts and not (lacks and args.missing == SKIP):
            jobs[case_id] = _job(target, stage, sources, case_id, parts, args.resample)
    if args.overwrite:
        faults += _left_behind(target, jobs)
    if final and not jobs and not faults:
        faults.append(f"{scans.name}: a case must be there to be written, got none. Look at --missing and --keep.")
    if faults:
        raise InputError("\n".join(faults))
    return MergePlan(target, stage, jobs)


def _job(
    target: Target, stage: Stage, sources: Sequence[Source], case_id: str, parts: Sequence[Part], resample: bool
) -> CaseJob:
    labels, ending = target.path(case_id, Part.LABELS), target.scans.file_ending
    images = target.scans.image_paths(case_id)
    return CaseJob(
        case_id=case_id,
        image=images[0],
        copies={
            path: target.folder / f"{IMAGES}Tr" / f"{case_id}_{channel:04d}{ending}"
            for channel, path in enumerate(images if target.is_new else ())
        },
        layers={part: case_layers(sources, case_id, part, target.ids[part]) for part in parts},
        names={part: {i: name for name, i in ids.items()} for part, ids in target.ids.items()},
        labels=labels if Part.LABELS not in parts and labels.is_file() else None,
        staged={part: stage.path(case_id, part, ending) for part in parts},
        resample=resample,
    )


def _gives(source: Source, parts: Collection[Part]) -> bool:
    return any(structure.part in parts for structure in source.structures())


def _read_and_written(target: Target, sources: Sequence[Source]) -> list[str]:
    """Label maps that would be replaced while they are read."""
    written = {(target.folder / f"{name}Tr").resolve() for name in (LABELS, SURROUNDINGS)}
    return [
        f"{source.name}: a source must be another folder than those that are written, got one of them. Write a new "
        "data set: -o ID."
        for source in sources
        if Path(source.name).resolve() in written
    ]


def _new_names_beside_kept(target: Target, kept: Mapping[str, Sequence[Part]]) -> list[str]:
    """A file that stays knows nothing of structures that other cases get: there they would be background."""
    faults = []
    for part, before in ((Part.LABELS, target.scans.labels), (Part.SURROUNDINGS, target.scans.surroundings)):
        new = [name for name in target.ids[part] if name not in before]
        cases = [case_id for case_id, parts in kept.items() if part in parts]
        if new and cases:
            faults.append(
                f"--keep: {part} that stay must know every structure, got {listed(cases)} without {listed(new)}. Leave "
                "these structures out, or write a new data set (-o ID) with the old ones as a source, too."
            )
    return faults


def _left_behind(target: Target, jobs: Mapping[str, CaseJob]) -> list[str]:
    """With new ids, old files that nothing replaces would mean something else."""
    return [
        f"{case_id}: {part} must be replaced, since ids are given anew, got no source for "
        f"{target.path(case_id, part)}. Move it away, or add the source."
        for case_id in target.scans.case_ids
        for part in target.parts
        if (case_id not in jobs or part not in jobs[case_id].layers) and target.path(case_id, part).is_file()
    ]
