"""The lip-sync network finds by how much sound is late, and knows a mouth's own speech from that of somebody else."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gmtalker.assets import GENERIC, SPEECH, SPEECHES
from gmtalker.errors import UnusableInput
from gmtalker.face.landmarks import LIPS
from gmtalker.face.model import FaceModel
from gmtalker.measure import sync as measure_sync
from gmtalker.measure.sync import SpokenLips, sync_of, sync_of_clips
from gmtalker.models.lip_sync import LAG_MAX, LipSync, SyncBatch, read_correlation
from gmtalker.models.weights import load_strict, save_half
from gmtalker.pretrain import sync as pretrain
from gmtalker.pretrain.samples import VIEWS, PretrainOptions, TrackedSpeech
from gmtalker.pretrain.sync import SyncClip
from personalize import sound_sync
from personalize.check import check_clip
from personalize.check_sound import synchrony
from personalize.sound_sync import SpokenFootage, is_another_voice, sound_lag
from tests.conftest import FEATURES, perturbed
from tests.media import bundled_clip

LIP_DIM, FRAMES = 3 * len(LIPS), 200
TINY = {"feature_dim": FEATURES, "lip_dim": LIP_DIM, "num_components": 4, "width": 24, "embedding_dim": 8, "num_blocks": 1}


class Talk:
    """Made-up people: a mouth moves as its speech says, with a little noise."""

    def __init__(self, model: FaceModel):
        rng = np.random.default_rng(0)
        self.to_face = 3 * rng.normal(size=(4, model.coefficient_dim))
        self.to_speech = rng.normal(size=(4, FEATURES))
        self.lip_basis = model.lip_basis().numpy()

    def clip(self, seed: int, frames: int = FRAMES) -> tuple[torch.Tensor, np.ndarray]:
        """Speech features (frames, d), and expression coefficients (frames, n) that say the same."""
        rng = np.random.default_rng(seed)
        kernel = np.hanning(5) / np.linalg.norm(np.hanning(5))
        said = np.stack([np.convolve(rng.normal(size=frames + 4), kernel, "valid") for _ in range(4)], axis=1)
        features = np.tanh(said @ self.to_speech) + 0.1 * rng.normal(size=(frames, FEATURES))
        return torch.from_numpy(features).float(), (said + 0.1 * rng.normal(size=said.shape)) @ self.to_face

    def lips(self, coefficients: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(coefficients @ self.lip_basis).float()


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(GENERIC / "face_model")


@pytest.fixture(scope="module")
def talk(model) -> Talk:
    return Talk(model)


@pytest.fixture(scope="module")
def items(talk) -> list[SyncClip]:
    """Two clips of each of eight people; everything person_3 says is 4 frames late."""
    items = []
    for number in range(16):
        person = f"person_{number // 2}"
        features, coefficients = talk.clip(number)
        if person == "person_3":
            features = features.roll(4, 0)
        views = features.expand(VIEWS, -1, -1).half()
        items.append(SyncClip(person, views, np.zeros((VIEWS, FRAMES), bool), talk.lips(coefficients)))
    return items


@pytest.fixture(scope="module")
def trained(items, tmp_path_factory) -> LipSync:
    """A tiny network that a few seconds of training on made-up people taught."""
    torch.manual_seed(0)
    network = LipSync(**TINY)
    network.fit_inputs([item.features[0] for item in items], [item.lips for item in items])
    options = PretrainOptions(steps=60, device="cpu")
    train = [item for item in items if item.person != "person_3"]
    pretrain._fit(network, train, tmp_path_factory.mktemp("sync"), options, lambda progress: None)
    network.chance.fill_(pretrain.measure_agreements(network, items).chance)
    return network


# --- The network ---------------------------------------------------------------------------------------------------------------


def test_the_peak_of_a_parabola_between_two_lags_is_found():
    lags = torch.arange(-LAG_MAX, LAG_MAX + 1)
    agreement, lag = read_correlation(torch.where((lags - 9.7).abs() < 3, 0.6 - 0.02 * (lags - 9.7).square(), 0.1))
    assert lag == pytest.approx(9.7, abs=1e-4) and agreement == pytest.approx(0.5, abs=0.02)
    assert read_correlation(torch.full((2 * LAG_MAX + 1,), 0.4))[0] == pytest.approx(0, abs=1e-6)
    assert read_correlation(lags / LAG_MAX)[1] == LAG_MAX  # at the edge nothing is known of the other side


def test_a_mouth_that_moves_twice_as_widely_around_another_place_reads_the_same(talk, trained):
    lips = talk.lips(talk.clip(100)[1])
    wide = trained.lip_shape(2 * lips + torch.linspace(-1, 1, LIP_DIM))
    assert torch.allclose(wide, trained.lip_shape(lips), atol=0.2) and wide.std() > 0.5
    assert trained.lip_shape(1e-3 * lips).std() < 0.1  # a still mouth is not blown up to one that speaks


def test_padding_does_not_count():
    network = perturbed(LipSync(**TINY | {"kernel": 1}))
    speech, lips, mask = torch.randn(3, 40, FEATURES), torch.randn(3, 40, 8), torch.ones(3, 40, dtype=torch.bool)
    mask[:, 36:] = False
    losses = network.loss(SyncBatch(speech, lips, mask))
    speech[:, 36:], lips[:, 36:] = 5 * torch.randn(3, 4, FEATURES), 5 * torch.randn(3, 4, 8)
    again = network.loss(SyncBatch(speech, lips, mask))
    assert losses["total"].item() == pytest.approx(again["total"].item(), rel=1e-5)
    mask[:, 36:] = True
    assert losses["total"].item() != pytest.approx(network.loss(SyncBatch(speech, lips, mask))["total"].item(), rel=1e-5)


def test_speech_at_its_own_time_costs_less_than_late_speech(items, trained):
    shapes = torch.stack([trained.lip_shape(item.lips) for item in items[:6]])
    speech, mask = torch.stack([item.features[0].float() for item in items[:6]]), torch.ones(6, FRAMES, dtype=torch.bool)
    right = trained.loss(SyncBatch(speech, shapes, mask))
    wrong = trained.loss(SyncBatch(speech.roll(5, 1), shapes, mask))
    assert right["total"] + 1 < wrong["total"]


def test_neighbouring_moments_are_not_held_against_a_frame():
    """Three frames in a row that look and sound alike cost nothing; the same three far apart do."""
    network = perturbed(LipSync(**TINY | {"kernel": 1}))
    speech, lips, mask = torch.zeros(1, 9, FEATURES), torch.zeros(1, 9, 8), torch.zeros(1, 9, dtype=torch.bool)
    mask[0, :3] = True
    assert network.loss(SyncBatch(speech, lips, mask))["total"].item() == pytest.approx(0, abs=1e-5)
    mask[0] = torch.arange(9) % 4 == 0
    assert network.loss(SyncBatch(speech, lips, mask))["total"].item() == pytest.approx(np.log(3), abs=1e-4)


def test_what_was_fitted_is_saved_and_loaded_with_the_weights(trained, tmp_path):
    save_half(trained, tmp_path / "lip_sync")
    loaded = load_strict(LipSync, tmp_path / "lip_sync")
    assert loaded.chance.item() == pytest.approx(trained.chance.item(), rel=1e-2)
    assert torch.allclose(loaded.components, trained.components, rtol=1e-2, atol=1e-2)


# --- The measure ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [-12, -3, 0, 7, 10])
def test_the_lag_of_a_clip_that_was_never_trained_on_is_found(talk, trained, late):
    features, coefficients = talk.clip(200)
    found = sync_of(trained, features.roll(late, 0), talk.lips(coefficients))
    assert found.is_sure and found.lag_frames == pytest.approx(late, abs=0.5)
    assert found.lag_ms == pytest.approx(40 * found.lag_frames) and found.frames == FRAMES


def test_speech_of_somebody_else_agrees_no_better_than_chance(talk, trained):
    lips = talk.lips(talk.clip(300)[1])
    others = [sync_of(trained, talk.clip(301 + seed)[0], lips) for seed in range(10)]
    own = sync_of(trained, talk.clip(300)[0], lips)
    assert own.agreement > 3 * max(other.agreement for other in others)
    assert np.mean([other.confidence for other in others]) == pytest.approx(1, abs=0.4)
    assert not any(other.is_sure for other in others)


def test_frames_whose_lips_are_not_known_do_not_count(talk, trained):
    features, coefficients = talk.clip(400)
    lips, known = talk.lips(coefficients), np.arange(FRAMES) < FRAMES // 2
    lips[FRAMES // 2 :] = talk.lips(talk.clip(401)[1])[FRAMES // 2 :]
    half = sync_of(trained, features, lips, known)
    assert half.frames == FRAMES // 2 and half.agreement > 1.3 * sync_of(trained, features, lips).agreement


def test_clips_are_pooled_and_short_ones_left_out(talk, trained):
    pairs = [
        (features.roll(3, 0), talk.lips(rows)) for features, rows in (talk.clip(500, 60), talk.clip(501, 80), talk.clip(502, 20))
    ]
    pooled = sync_of_clips(trained, [SpokenLips(*pair) for pair in pairs])
    assert pooled.frames == 140 and pooled.lag_frames == pytest.approx(3, abs=0.7)
    assert sync_of(trained, *pairs[2]) is None
    assert set(pooled.figures()) == {"sync_agreement", "sync_lag_frames", "sync_lag_ms", "sync_confidence"}


def test_a_network_of_other_features_is_not_used(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_sync, "GENERIC", tmp_path)
    load = measure_sync.load_lip_sync.__wrapped__  # what it remembers is of the bundled stages
    assert load(FEATURES) is None
    save_half(trained, tmp_path / "lip_sync")
    assert load(FEATURES) is not None and load(FEATURES + 1) is None


# --- Training ------------------------------------------------------------------------------------------------------------------


def test_a_late_clip_of_the_training_is_corrected(items, trained):
    late = items[6]
    assert late.person == "person_3" and pretrain.clip_lag(trained, late) == 4
    moved = pretrain.move_sound(late, 4)
    assert torch.equal(moved.features[:, :-4], late.features[:, 4:]) and pretrain.clip_lag(trained, moved) == 0
    stranger = replace(late, features=items[0].features)
    assert pretrain.clip_lag(trained, stranger) == 0  # of speech that agrees with nothing, no lag is believed


@pytest.fixture
def tracked(items, monkeypatch) -> list[TrackedSpeech]:
    """The clips as pretraining reads them; a test may take some away."""
    tracked = []
    for item in items:
        clip = SimpleNamespace(lips=item.lips.numpy(), person=item.person, frames=FRAMES, has_usable_speech=True)
        tracked.append(TrackedSpeech(clip, item.features, item.silent, None))
    monkeypatch.setattr(pretrain, "read_speech_encoder", lambda output: None)
    monkeypatch.setattr(pretrain, "read_corpus", lambda *arguments: [item.clip for item in tracked])
    monkeypatch.setattr(pretrain, "encode_speech_views", lambda clips, *arguments, **options: tracked)
    return tracked


def test_pretrain_sync_writes_a_network_that_knows_chance(tracked, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "LipSync", lambda **dimensions: LipSync(**TINY))
    saved = []
    monkeypatch.setattr(pretrain, "save_stage", lambda *arguments: saved.extend(arguments))
    pretrain.pretrain_sync([], tmp_path, PretrainOptions(steps=80, device="cpu"))
    network, stage, figures = saved[0], saved[1], saved[-1]
    assert stage == "sync" and 0.5 < network.chance.item() < 6 and not network.training
    assert figures["other_half_agreement"] > 1.3 * figures["other_half_agreement_with_other_speech"]


def test_too_few_people_are_refused(tracked, tmp_path):
    del tracked[4:]
    with pytest.raises(UnusableInput, match="4 or more people"):
        pretrain.pretrain_sync([], tmp_path, PretrainOptions(steps=4, device="cpu"))


# --- A person's footage --------------------------------------------------------------------------------------------------------


def footage_of(features: torch.Tensor, coefficients: np.ndarray) -> SpokenFootage:
    frames = len(features)
    emotion = torch.eye(8)[:1].expand(frames, -1)
    return SpokenFootage(torch.from_numpy(coefficients).float(), features, np.ones(frames, bool), emotion, [0])


def test_sound_that_is_400_ms_late_is_found_and_another_voice_is_named(talk, model, trained, monkeypatch):
    monkeypatch.setattr(measure_sync, "load_lip_sync", lambda feature_dim: trained)
    features, coefficients = talk.clip(600)
    late = footage_of(features.roll(10, 0), coefficients)
    assert sound_lag(None, late, model) == pytest.approx(10, abs=0.5)
    assert not is_another_voice(sound_sync.footage_sync(late, model))
    dubbed = footage_of(talk.clip(601)[0], coefficients)
    assert sound_lag(None, dubbed, model) == 0.0 and is_another_voice(sound_sync.footage_sync(dubbed, model))
    short = footage_of(dubbed.features[:60], coefficients[:60])
    assert not is_another_voice(sound_sync.footage_sync(short, model))  # of two seconds nobody is accused


def test_the_report_says_that_the_sound_is_not_this_mouths(tiny_pipeline, monkeypatch):
    unsure = measure_sync.SyncMeasure(agreement=0.1, lag_frames=7.0, confidence=1.0, frames=125)
    monkeypatch.setattr("personalize.check_sound.footage_sync", lambda *arguments: unsure)
    report = check_clip(bundled_clip("preview.mp4"), in_step=partial(synchrony, stages=tiny_pipeline.stages))
    line = next(line for line in report.lines if line.name == "sound with lips")
    assert (line.status, line.value) == ("warn", "the sound is not this mouth's (agreement 1.0)") and "dubbed" in line.advice


# --- The bundled weights -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (GENERIC / "lip_sync").is_dir(), reason="the bundled lip-sync network is not trained yet")
def test_the_bundled_network_knows_the_bundled_persons_own_speech(model):
    from gmtalker.face.tracking import choose_crop, in_crop, measure_shape, track_points
    from gmtalker.media.audio import read_sound_or_none, read_speech
    from gmtalker.models.weights import load_speech_encoder

    clip = bundled_clip("preview.mp4")
    video, encoder = track_points(clip), load_speech_encoder(GENERIC / "speech_encoder")
    network = measure_sync.load_lip_sync(encoder.feature_dim)
    assert sum(path.stat().st_size for path in (GENERIC / "lip_sync").iterdir()) < 2e6
    points = in_crop(video.points, choose_crop(video.points, *video.source_size))
    track = model.track(points, measure_shape(model, points), 1.0, video.found)
    lips = track.expression.coefficients @ model.lip_basis()

    def heard(sound: np.ndarray) -> measure_sync.SyncMeasure:
        return sync_of(network, encoder.encode(torch.from_numpy(np.ascontiguousarray(sound))), lips)

    sound = read_sound_or_none(clip)
    own, late = heard(sound), heard(np.pad(sound, (10 * 640, 0))[: len(sound)])
    assert own.is_sure and abs(own.lag_frames) <= 1 and late.lag_frames == pytest.approx(own.lag_frames + 10, abs=1)
    other = next(path for path in sorted(SPEECHES.glob("*.flac")) if path != SPEECH)
    assert not heard(np.resize(read_speech(other), len(sound))).is_sure
