"""Weights by reference: paths, the Hub, and what is said when it cannot be reached."""

import os
import subprocess
import sys

import pytest

from fcas_nnunet.generator.data.hub import weights_file

REFERENCE = "hf:nvidia/NV-Generate-CT/models/autoencoder_v1.pt"


def test_a_path_is_itself(tmp_path):
    (tmp_path / "a.pt").touch()
    assert weights_file(str(tmp_path / "a.pt")) == tmp_path / "a.pt"
    with pytest.raises(FileNotFoundError, match=r"b\.pt: the weights must exist, got no file"):
        weights_file(str(tmp_path / "b.pt"))


@pytest.mark.parametrize("reference", ["hf:nvidia/NV-Generate-CT", "hf:", "hf:nvidia//a.pt"])
def test_a_malformed_reference_is_refused(reference):
    with pytest.raises(ValueError, match=r"must be hf:<owner>/<repository>/<path>"):
        weights_file(reference)


def test_a_file_of_the_hub_is_taken_from_its_cache_and_a_missing_one_named(tmp_path):
    """huggingface_hub itself, off line: one file lies in its cache as a download leaves it, another does not."""
    pytest.importorskip("huggingface_hub")
    repository = tmp_path / "hub" / "models--nvidia--NV-Generate-CT"
    cached = repository / "snapshots" / "abc" / "models" / "autoencoder_v1.pt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"weights")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    code = (
        "from fcas_nnunet.generator.data.hub import weights_file\n"
        f"print(weights_file({REFERENCE!r}).read_bytes())\n"
        "try:\n    weights_file('hf:nvidia/NV-Generate-CT/models/other.pt')\n"
        "except FileNotFoundError as error:\n    print(error)\n"
    )
    offline = dict(os.environ) | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    offline.pop("HF_HUB_CACHE", None)
    printed = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    taken, missing = printed.stdout.splitlines()
    assert taken == "b'weights'"
    assert missing.startswith("hf:nvidia/NV-Generate-CT/models/other.pt: must be reachable on huggingface.co")
    assert "Check the reference and the network" in missing


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="Run pip install huggingface_hub"):
        weights_file(REFERENCE)
