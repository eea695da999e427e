"""The survey reads each case once, and the cache's forecast is what training writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config

from fcas_nnunet.case import Case
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.options import TemplateRegistration
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator import cache_size
from fcas_nnunet.generator.autoencoder.latents import LOG_STD, MEAN, SUMS, cache_latents
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.cache_size import missing_cache_bytes
from fcas_nnunet.generator.data.grid import working_spacing
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import all_variants, make_variants, read_tensors, save_tensors
from fcas_nnunet.generator.survey import SurveyedCase, survey
from fcas_nnunet.generator.train import train_generator
from fcas_nnunet.known_files import KnownFiles
from fcas_nnunet.orientation import SPL

CASES = ["p0", "p1", "p2"]
#: A header of safetensors, and the sums of the latents.
MOST_BESIDE = 500


def data(folder: Path, read: list[str]) -> TrainingData:
    """Three cases, each with a file that stands for it; `read` gets the ids of those that are loaded."""

    def load(case_id: str) -> Case:
        read.append(case_id)
        return load_small_case(case_id)

    files = {case_id: [folder / case_id] for case_id in CASES}
    return TrainingData(
        CASES, load, LABELS, SURROUNDINGS, known=lambda settings: KnownFiles(folder / "known.json", files, settings)
    )


def test_cases_are_read_once_and_again_when_they_change(tmp_path: Path) -> None:
    read: list[str] = []
    first = survey(data(tmp_path, read), Accelerator(cpu=True), SPL)
    assert read == CASES
    again = survey(data(tmp_path, read), Accelerator(cpu=True), SPL)
    assert read == CASES
    assert again == first
    assert isinstance(again["p1"], SurveyedCase)
    (tmp_path / "p1").touch()
    survey(data(tmp_path, read), Accelerator(cpu=True), SPL)
    assert read[3:] == ["p1"]
    survey(data(tmp_path, read), Accelerator(cpu=True), "LPS")
    assert read[4:] == CASES


def few_variants() -> FCaSConfig:
    config = short_config()
    pairs = replace(config.tcdm.pairs, num_shapes=2, num_contrasts=1)
    return replace(config, tcdm=replace(config.tcdm, pairs=pairs))


def cached(folder: Path, config: FCaSConfig) -> tuple[TrainingData, dict[str, SurveyedCase], tuple[float, ...]]:
    known = data(folder, [])
    cases = survey(known, Accelerator(cpu=True), SPL)
    return known, cases, working_spacing([(case.shape, case.spacing_mm) for case in cases.values()], config.grid)


def test_the_forecast_is_the_size_of_the_files_and_counts_only_missing_ones(tmp_path: Path) -> None:
    config, cache = few_variants(), tmp_path / "cache"
    known, cases, spacing = cached(tmp_path, config)
    whole = missing_cache_bytes(known, cases, spacing, config, cache)
    for case_id in CASES:
        make_variants(known, case_id, cache, spacing, config)
    without_variants = missing_cache_bytes(known, cases, spacing, config, cache)
    autoencoder = Autoencoder(config.autoencoder).requires_grad_(False).eval()
    variants = all_variants(CASES, config.tcdm.pairs)
    cache_latents(autoencoder, variants, cache, Accelerator(cpu=True))
    sizes = [path.stat().st_size for path in cache.iterdir()]
    assert whole <= sum(sizes) <= whole + MOST_BESIDE * len(sizes)
    assert 0 < without_variants < whole
    assert missing_cache_bytes(known, cases, spacing, config, cache) == 0


def test_a_training_whose_cache_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_size, "free_disk_bytes", lambda folder: 10_000)
    folder = tmp_path / "model"
    with pytest.raises(InputError, match=r"model/cache: free disk space must be at least .* for the cache of 3 cases"):
        train_generator(data(tmp_path, []), short_config(), folder, Accelerator(cpu=True))
    assert not folder.exists()


def test_latents_are_not_read_again_for_their_scale(tmp_path: Path) -> None:
    """Sums are beside the latents; files of earlier versions, which hold none, give the same scale."""
    config = few_variants()
    known, _, spacing = cached(tmp_path, config)
    for case_id in CASES:
        make_variants(known, case_id, tmp_path, spacing, config)
    autoencoder = Autoencoder(config.autoencoder).requires_grad_(False).eval()
    variants = all_variants(CASES, config.tcdm.pairs)
    scale = cache_latents(autoencoder, variants, tmp_path, Accelerator(cpu=True))
    stored = {variant: read_tensors(tmp_path / variant.latents_file) for variant in variants}
    for variant, tensors in stored.items():
        save_tensors(
            {**tensors, MEAN: tensors[MEAN] * 0, LOG_STD: tensors[LOG_STD] * 0}, tmp_path / variant.latents_file
        )
    assert cache_latents(autoencoder, variants, tmp_path, Accelerator(cpu=True)) == scale
    for variant, tensors in stored.items():
        earlier = {name: tensor for name, tensor in tensors.items() if name != SUMS}
        save_tensors(earlier, tmp_path / variant.latents_file)
    assert cache_latents(autoencoder, variants, tmp_path, Accelerator(cpu=True)) == scale


def test_registered_templates_count(tmp_path: Path) -> None:
    config = short_config()
    known, cases, spacing = cached(tmp_path, config)
    plain = missing_cache_bytes(known, cases, spacing, config, tmp_path / "cache")
    registered = replace(config, tcdm=replace(config.tcdm, registration=TemplateRegistration.DEFORMABLE))
    assert missing_cache_bytes(known, cases, spacing, registered, tmp_path / "cache") > plain
