"""Networks that cannot be built are named before anything is trained."""

import pytest

from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.generator import networks
from fcas_nnunet.generator.networks import check_networks


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_presets_can_be_built(name):
    check_networks(PRESETS[name])


def test_every_network_is_built_on_the_meta_device(monkeypatch):
    built = []
    for name in ("Autoencoder", "TCDM", "ErrorModel"):
        real = getattr(networks, name)
        monkeypatch.setattr(networks, name, lambda *args, real=real: built.append(real(*args)))
    check_networks(PRESETS["tiny"])
    assert len(built) == 3
    assert {tensor.device.type for network in built for tensor in network.state_dict().values()} == {"meta"}


def test_every_network_that_cannot_be_built_is_named(monkeypatch):
    """What MONAI alone knows of its networks, whatever it raises."""

    def broken(*_, **__):
        raise ZeroDivisionError("integer modulo by zero")

    monkeypatch.setattr("fcas_nnunet.generator.autoencoder.network.AutoencoderKlMaisi", broken)
    monkeypatch.setattr("fcas_nnunet.generator.tcdm.network.Denoiser", broken)
    with pytest.raises(ValueError, match="networks must be ones that can be built") as error:
        check_networks(PRESETS["tiny"])
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["autoencoder", "tcdm"]
