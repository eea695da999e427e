"""Find weights by reference: a path, or `hf:<owner>/<repository>/<path>` on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from fcas_nnunet.faults import InputError, MissingFileError

PREFIX = "hf:"


def weights_file(reference: str) -> Path:
    """Return the file that a reference names; one on the Hub is downloaded once, into the Hub's cache.

    Raises:
        InputError: If the reference is malformed, or `huggingface_hub` is not installed.
        MissingFileError: If there is no such file, or it cannot be fetched.
    """
    if not reference.startswith(PREFIX):
        path = Path(reference)
        if not path.is_file():
            raise MissingFileError(f"{path}: the weights must exist, got no file. Check the path.")
        return path
    parts = reference.removeprefix(PREFIX).split("/")
    if len(parts) < 3 or not all(parts):
        raise InputError(
            f"{reference}: must be hf:<owner>/<repository>/<path>, got {len(parts)} parts. Write it like "
            "hf:nvidia/NV-Generate-CT/models/autoencoder_v1.pt."
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(
            f"{reference}: huggingface_hub must be installed to fetch weights, got none. Run "
            "pip install huggingface_hub, or fetch the file yourself and give its path."
        ) from error
    try:
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except Exception as error:  # huggingface_hub's, httpx's or the system's: no network, no such file, no access
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".")
        raise MissingFileError(
            f"{reference}: must be reachable on huggingface.co or in its cache, got {reason}. "
            "Check the reference and the network, or fetch the file on another machine and give its path."
        ) from error
