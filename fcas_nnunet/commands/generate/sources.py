"""Where the scans of a set come from: the arguments, and the shares that they stand for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence

from fcas_nnunet.commands.cli import Parser
from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.faults import InputError

SOURCE, SHARES = "--source", "--shares"
#: Sources of a single scan.
SOURCES = tuple(source for source in ScanSource if source != ScanSource.MIXED)
#: Source → the settings that every record of one of its scans tells besides those of the mask.
TOLD = {
    ScanSource.DRAWN: ("weights_sha256", "sampling", "confidence"),
    ScanSource.WARPED: ("warp",),
    ScanSource.REGISTERED: ("warp", "registration"),
    ScanSource.PAINTED: ("paint",),
}

_OF_THE_GENERATOR = (
    "--autoencoder", "--denoiser", "--controlnet", "--precision", "--solver", "--steps",
    "--strength", "--window", "--overlap", "--confidence", "--snapshots", "--box_margin",
)  # fmt: skip


def add_source_arguments(parser: Parser) -> None:
    """How the scans are made; to be added after all arguments that concern drawn scans alone."""
    parser.add_argument(
        SOURCE, type=ScanSource, choices=list(ScanSource), default=ScanSource.DRAWN,
        help="how the scan of each mask is made. drawn: by the generator; warped: the real scan under the deformation "
        "of its mask, in another contrast; registered: another patient's scan, brought onto the mask; painted: random "
        "contrast and texture for every structure and tissue; mixed: shares of each. Only drawn scans need a generator "
        "(default: drawn)",
    )  # fmt: skip
    parser.add_argument(
        SHARES, nargs="+", metavar="SOURCE=SHARE",
        help=f"of {SOURCE} mixed, in any unit; what is not named has none (default: {' '.join(_words(_EVEN))})",
    )  # fmt: skip
    parser.idle(SHARES, without=f"{SOURCE} {ScanSource.MIXED}")
    for source in SOURCES:
        if source != ScanSource.DRAWN:
            parser.idle(*_OF_THE_GENERATOR, beside=f"{SOURCE} {source}")
        if not source.has_template:
            parser.idle("--templates", beside=f"{SOURCE} {source}")


def shares_of(args: argparse.Namespace) -> dict[ScanSource, float]:
    """Source → its share, above 0.

    Raises:
        InputError: If the shares are malformed; every fault is named.
    """
    if args.source != ScanSource.MIXED:
        return {args.source: 1.0}
    shares, faults = {}, []
    for word in args.shares or _words(_EVEN):
        name, _, number = word.partition("=")
        share = _number(number)
        if name not in SOURCES or share is None:
            names = ", ".join(SOURCES)
            faults.append(
                f"{SHARES}: must be SOURCE=SHARE with a SOURCE of {names} and a SHARE of 0 or more, got {word}. "
                f"Write {SHARES} {' '.join(_words(_EVEN))}."
            )
        elif name in shares:
            faults.append(f"{SHARES}: must name a source once, got {name} twice. Leave one out.")
        else:
            shares[ScanSource(name)] = share
    if not faults and not any(shares.values()):
        faults.append(f"{SHARES}: must leave some source a share above 0, got none. Give it one.")
    if faults:
        raise InputError("\n".join(faults))
    return {source: shares[source] for source in SOURCES if shares.get(source)}


def shares_record(shares: Mapping[ScanSource, float]) -> dict[str, dict[str, float]]:
    """The shares as every record of a mixed set holds them; of other sets nothing."""
    return {"shares": {str(source): share for source, share in shares.items()}} if len(shares) > 1 else {}


def source_words(record: Mapping[str, dict[str, float]], sources: Sequence[ScanSource]) -> list[str]:
    """The arguments of a run, from a record of it and the sources of its scans."""
    if "shares" in record:
        return [SOURCE, str(ScanSource.MIXED), SHARES, *_words(record["shares"])]
    return [] if set(sources) == {ScanSource.DRAWN} else [SOURCE, str(sources[0])]


_EVEN = dict.fromkeys(map(str, SOURCES), 1.0)


def _words(shares: Mapping[str, float]) -> list[str]:
    return [f"{source}={share:g}" for source, share in shares.items()]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
