"""Weights by reference: paths, the Hub, and what is said when it cannot be reached."""

import sys

import pytest

from fcas_nnunet.generator.hub import weights_file

REFERENCE = "hf:nvidia/NV-Generate-CT/models/autoencoder_v1.pt"


def test_a_path_is_itself(tmp_path):
    (tmp_path / "a.pt").touch()
    assert weights_file(str(tmp_path / "a.pt")) == tmp_path / "a.pt"
    with pytest.raises(FileNotFoundError, match=r"b\.pt: the weights must exist, got no file"):
        weights_file(str(tmp_path / "b.pt"))


def test_a_reference_names_repository_and_path(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(repository, path):
        asked.append((repository, path))
        return str(tmp_path / "cached.pt")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert weights_file(REFERENCE) == tmp_path / "cached.pt"
    assert asked == [("nvidia/NV-Generate-CT", "models/autoencoder_v1.pt")]


@pytest.mark.parametrize("reference", ["hf:nvidia/NV-Generate-CT", "hf:", "hf:nvidia//a.pt"])
def test_a_malformed_reference_is_refused(reference):
    with pytest.raises(ValueError, match=r"must be hf:<owner>/<repository>/<path>"):
        weights_file(reference)


def test_no_network_is_named(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def unreachable(repository, path):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find the file in the cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(FileNotFoundError, match=f"{REFERENCE}: must be reachable .* Check the reference"):
        weights_file(REFERENCE)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="Run pip install huggingface_hub"):
        weights_file(REFERENCE)
