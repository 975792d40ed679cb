"""How much of a learned speaking style is used, what it is validated on, and how an accent is fitted."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from scipy.ndimage import uniform_filter1d

from gmtalker.avatars.speaking_style import WEIGHTS_FILE, save_speaking_style, with_speaking_style
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.tracks import sample_rows
from personalize import speaking_style
from personalize.sound_sync import SpokenFootage, shift_sound, sound_lag
from personalize.speaking_style import (
    FOLDS,
    RIDGE_ALPHAS,
    _accent_windows,
    _best_strength,
    _LipsOnValidation,
    _scale,
    _train_and_validation,
    adapt_style,
    fit_ridge,
    learn_accent,
)


def footage(frames: int, clip_starts=(0,)) -> SpokenFootage:
    emotion = torch.eye(8)[:1].expand(frames, -1)
    return SpokenFootage(torch.zeros(frames, 3), torch.zeros(frames, 4), np.ones(frames, bool), emotion, list(clip_starts))


def test_the_last_part_is_for_validation_and_never_trained_on():
    train, validation = _train_and_validation(footage(1000, (0, 850)))
    assert not train.usable[800:].any() and train.usable[:800].all()
    assert [len(features) for _, features in validation] == [50, 150]
    train, validation = _train_and_validation(footage(200))
    assert train.usable.all() and validation == []


def spoken(pipeline, frames: int) -> SpokenFootage:
    """Random speech, and a face that follows it in a way that the random generator does not know."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(frames, pipeline.expression_generator.config.feature_dim, generator=random)
    coefficients = features @ torch.randn(features.shape[1], pipeline.face_model.coefficient_dim, generator=random)
    return SpokenFootage(coefficients, features, np.ones(frames, bool), torch.eye(8)[:1].expand(frames, -1), [0])


def test_a_style_is_trained_validated_and_saved_and_the_same_call_resumes(tiny_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(speaking_style, "LORA_FRAMES_MIN", 100)
    reports, footage = [], spoken(tiny_pipeline, 500)
    report = adapt_style(footage, tiny_pipeline, tmp_path / "work", 0.02, tmp_path / "avatar", reports.append)
    assert max(progress.stage_percent for progress in reports) == 100 and reports[-1].message == str(report)
    assert reports[-2].figures["step"] > 0
    assert "accent" in report.parts and report.lips_after > report.lips_before  # the face follows the speech linearly
    adapted = with_speaking_style(tiny_pipeline.expression_generator, tmp_path / "avatar" / "speaking_style")
    assert adapted.accent is not None and tiny_pipeline.expression_generator.accent is None
    again = []
    assert adapt_style(footage, tiny_pipeline, tmp_path / "work", 0.02, tmp_path / "again", again.append) == report
    assert len(again) == 1  # the time was over, so there was no other step
    for file in sorted((tmp_path / "avatar" / "speaking_style").glob("*.safetensors")):
        first, second = load_file(file), load_file(tmp_path / "again" / "speaking_style" / file.name)
        assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    short = replace(footage, usable=np.arange(500) % 50 > 0)
    with pytest.raises(UnusableInput, match="two seconds"):
        adapt_style(short, tiny_pipeline, tmp_path / "other", 0.02, tmp_path / "none")


def test_of_little_speech_an_embedding_is_inferred_and_nothing_trained(tiny_pipeline, tmp_path):
    report = adapt_style(spoken(tiny_pipeline, 150), tiny_pipeline, tmp_path / "work", 0.02, tmp_path / "avatar")
    assert "embedding" in report.parts and "lora" not in report.parts and report.lips_after is None
    assert not (tmp_path / "avatar" / "speaking_style" / WEIGHTS_FILE).exists()
    assert with_speaking_style(tiny_pipeline.expression_generator, tmp_path / "avatar" / "speaking_style").style.abs().max() > 0


def test_a_style_of_other_stages_is_left_out_with_a_warning(tiny_pipeline, tmp_path):
    generic = tiny_pipeline.expression_generator
    other = copy.deepcopy(generic)
    other.style = torch.ones(generic.config.style_dim)
    with torch.no_grad():
        other.embed_z.weight.add_(0.5)
    save_speaking_style(other, tmp_path / "Ann" / "speaking_style")
    with pytest.warns(UserWarning, match="speaking style of Ann .* other generic stages"):
        assert with_speaking_style(generic, tmp_path / "Ann" / "speaking_style").style is None


@pytest.fixture
def styled(tiny_pipeline):
    """A generator with a LoRA that moves its lips somewhere."""
    generator = type(tiny_pipeline.expression_generator)(
        **{name: value for name, value in tiny_pipeline.expression_generator.config.items() if not name.startswith("_")}
    )
    generator.load_state_dict(tiny_pipeline.expression_generator.state_dict())
    generator.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["decoder.project"]))
    with torch.no_grad():
        for name, weight in generator.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    return generator.eval()


def test_a_style_that_harms_is_not_used_and_one_that_helps_is(styled, tiny_pipeline, tmp_path):
    generic, model = tiny_pipeline.expression_generator, tiny_pipeline.face_model
    features = torch.randn(120, generic.config.feature_dim, generator=torch.Generator().manual_seed(0))
    latent = generic.latent(torch.eye(8)[:1].expand(120, -1), seed=0)
    plain, own = generic.generate(features, latent), styled.generate(features, latent)
    assert not torch.allclose(plain, own, atol=0.05)

    def strength(*validation):
        lips = _LipsOnValidation(validation, model)
        return _best_strength(styled, lips, lips(generic))

    assert strength((plain, features)) == 0.0
    assert strength((own, features)) == 1.0
    _scale(styled, 1.0)
    torch.testing.assert_close(styled.generate(features, latent), own)
    save_speaking_style(styled, tmp_path / "whole")
    save_speaking_style(styled, tmp_path / "none", 0.0)
    again = with_speaking_style(generic, tmp_path / "whole").generate(features, latent)
    torch.testing.assert_close(again, own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(with_speaking_style(generic, tmp_path / "none").generate(features, latent), plain)


def test_an_accent_is_what_the_speech_foretells_and_nothing_else(tiny_pipeline, tmp_path):
    generator, model = tiny_pipeline.expression_generator, tiny_pipeline.face_model
    random = torch.Generator().manual_seed(0)
    frames, emotion = 600, torch.eye(8)[:1].expand(600, -1)
    features = torch.randn(frames, generator.config.feature_dim, generator=random)
    plain = generator.generate(features, generator.latent(emotion, seed=0, temperature=0.0))
    true = 0.3 * torch.randn(features.shape[1], plain.shape[1], generator=random)
    noise = torch.randn(plain.shape, generator=random)
    usable = np.arange(frames) < 500

    def learned(coefficients):
        return learn_accent(generator, SpokenFootage(coefficients, features, usable, emotion, [0, 350]), model.lip_basis())

    assert learned(plain + noise) is None
    accent = learned(plain + features @ true + 0.1 * noise)
    windows, centred = _accent_windows(features), features[500:] - features[:500].mean(0)
    assert torch.corrcoef(torch.stack([accent(windows[500:]).flatten(), (centred @ true).flatten()]))[0, 1] > 0.95

    person = copy.deepcopy(generator)
    person.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["decoder.project"]))
    person.accent = accent
    save_speaking_style(person, tmp_path / "style")
    again = with_speaking_style(generator, tmp_path / "style")
    said = again.generate(features, generator.latent(emotion, seed=0, temperature=0.0))
    torch.testing.assert_close(said, plain + accent(windows), atol=1e-4, rtol=1e-4)
    assert generator.accent is None
    save_file({"weight": torch.zeros(3, 3), "bias": torch.zeros(3)}, str(tmp_path / "style" / "accent.safetensors"))
    with pytest.raises(UnusableAvatar):
        with_speaking_style(generator, tmp_path / "style")


def ridge_in_closed_form(inputs, targets, projection):
    """The place of the best alpha, and the weights (d, n) by the normal equations; None where the last alpha is best."""

    def solve(rows, alpha):
        middle, x = targets[rows].mean(0), inputs[rows]
        return np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ (targets[rows] - middle)), middle

    folds, errors = np.array_split(np.arange(len(inputs)), FOLDS), []
    for alpha in RIDGE_ALPHAS:
        error = 0.0
        for fold in folds:
            weight, middle = solve(np.setdiff1d(np.arange(len(inputs)), fold), alpha)
            error += np.square((targets[fold] - middle - inputs[fold] @ weight) @ projection).sum()
        errors.append(error)
    best = int(np.argmin(errors))
    return best, None if best == len(RIDGE_ALPHAS) - 1 else solve(np.arange(len(inputs)), RIDGE_ALPHAS[best])[0]


def test_ridge_regression_agrees_with_the_closed_form():
    random, chosen = np.random.default_rng(0), set()
    for rows, noise in ((501, 1.0), (502, 25.0), (503, 30.0), (502, 35.0), (401, 40.0), (403, 1000.0)):
        inputs = random.normal(size=(rows, 40)) + np.linspace(-1, 1, rows)[:, None]  # the folds differ in their means
        inputs = (inputs - inputs.mean(0)) / inputs.std(0, ddof=1)
        targets = 2 + inputs @ random.normal(size=(40, 5)) + noise * random.normal(size=(rows, 5))
        projection = random.normal(size=(5, 9))
        best, expected = ridge_in_closed_form(inputs, targets, projection)
        found = fit_ridge(inputs, targets, projection)
        assert (found is None) == (expected is None)
        if expected is not None:
            np.testing.assert_allclose(found, expected, atol=1e-5)
        chosen.add(best)
    assert len(chosen) > 2 and len(RIDGE_ALPHAS) - 1 in chosen  # or it would not show that the choice agrees


def test_sound_that_lags_is_found_and_brought_in_time(tiny_pipeline):
    generator, model = tiny_pipeline.expression_generator, tiny_pipeline.face_model
    frames, emotion = 400, torch.eye(8)[:1].expand(400, -1)
    noise = np.random.default_rng(0).normal(size=(420, generator.config.feature_dim))
    speech = uniform_filter1d(noise, 5, axis=0).astype(np.float32)
    clock = np.arange(frames)
    real = generator.generate(torch.from_numpy(speech[10:410]), generator.latent(emotion, seed=0))
    for lag in (-2.0, 0.0, 1.5, 3.0):  # the sound of frame t is heard at frame t + lag
        heard = torch.from_numpy(sample_rows(speech, 10 + clock - lag))
        footage = SpokenFootage(real, heard, np.ones(frames, bool), emotion, [0])
        found = sound_lag(generator, footage, model)
        assert found == pytest.approx(lag, abs=0.4)
        moved = shift_sound(footage, lag).features[20:-20]
        assert (moved - torch.from_numpy(speech[30:390])).abs().mean() < 0.5 * np.abs(speech).mean()
    noise = SpokenFootage(torch.randn_like(real), footage.features, footage.usable, emotion, [0])
    assert sound_lag(generator, noise, model) == 0.0
