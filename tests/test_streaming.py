"""A speech in pieces: the same frames as of the whole, soon, for as long as one likes."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from conftest import perturbed
from media import babble

from gmtalker.avatars.motion import MotionAmounts
from gmtalker.clock import FPS, SAMPLE_RATE, frames_for
from gmtalker.models.articulation import SPEAKING
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.streaming import Manner, TrackStream
from gmtalker.tracks import EmotionWeights, FaceTrack

LOOK_AHEAD_SECONDS = 0.2  # at most, beyond the end of a frame
HAPPY = EmotionWeights.from_mapping({"happy": 0.8})


@pytest.fixture
def pipeline(tiny_pipeline) -> GMTalkerPipeline:
    """The tiny stages with an encoder that hears closures and pauses come and go."""
    encoder = tiny_pipeline.speech_encoder
    perturbed(encoder.articulate, seed=4, size=1.5)
    encoder.articulate.bias.data.zero_()
    return tiny_pipeline


def said(seconds: float = 2.03, seed: int = 0) -> torch.Tensor:
    noise = 0.002 * torch.randn(round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(seed))
    return torch.from_numpy(babble(seconds, seed=seed)) + noise


def joined(tracks: list[FaceTrack]) -> tuple[torch.Tensor, torch.Tensor]:
    """Expression (frames, n) and motion (frames, 10) of tracks one after another."""
    return torch.cat([t.expression.coefficients for t in tracks]), torch.cat([t.motion.stacked() for t in tracks])


def in_pieces(stream: TrackStream, sound: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return joined([*(stream.push(piece) for piece in sound.split(size)), stream.finish()])


def held_bytes(thing: object, seen: set[int] | None = None) -> int:
    """Bytes of all tensors and numbers that a stream holds, but for networks and the avatar."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, torch.nn.Module) or type(thing).__name__ in {"ReadyAvatar", "Avatar", "LipGuard"}:
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        storage = thing.untyped_storage()
        known, _ = storage.data_ptr() in seen, seen.add(storage.data_ptr())
        return 0 if known else storage.nbytes()
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, (int, float)):
        return 8
    if isinstance(thing, dict):
        return sum(held_bytes(value, seen) for value in thing.values())
    if isinstance(thing, (list, tuple, deque)):
        return sum(held_bytes(value, seen) for value in thing)
    return held_bytes(vars(thing), seen) if hasattr(thing, "__dict__") else 0


# --- The same frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [800, 6_401, 100_000])
def test_pieces_give_the_frames_of_the_whole(pipeline, tiny_avatar, size):
    sound, manner = said(), Manner(seed=3, exaggeration=1.5, motion=MotionAmounts(head=1.2, manner="lively"))
    expression, motion = in_pieces(pipeline.open(tiny_avatar, HAPPY, manner), sound, size)
    features = pipeline.encode(sound)
    whole = pipeline.expression(features, HAPPY, tiny_avatar, seed=3, exaggeration=1.5).coefficients
    moved = pipeline.motion(features, tiny_avatar, seed=3, head=1.2, weights=HAPPY, manner="lively").stacked()
    assert len(whole) == len(moved) == len(expression) == frames_for(len(sound))
    torch.testing.assert_close(expression, whole, atol=1e-3, rtol=0)
    torch.testing.assert_close(motion, moved, atol=1e-4, rtol=0)
    assert whole.diff(dim=0).abs().max() > 1e-2 and moved.diff(dim=0).abs().max() > 1e-3  # they are not equal for being still


def test_a_track_is_that_of_a_performance(pipeline, tiny_avatar):
    sound = said(1.0)
    performance = pipeline(sound.numpy(), tiny_avatar, {"happy": 0.8}, seed=5)
    expression, motion = in_pieces(pipeline.open(tiny_avatar, HAPPY, Manner(seed=5)), sound, 1_600)
    torch.testing.assert_close(expression, performance.track.expression.coefficients, atol=1e-3, rtol=0)
    torch.testing.assert_close(motion, performance.track.motion.stacked(), atol=1e-4, rtol=0)


def test_frames_come_at_most_200_ms_behind_the_sound(pipeline, tiny_avatar):
    """A frame of 40 ms is there as soon as the sound 200 ms after its end is."""
    stream, sound, step = pipeline.open(tiny_avatar), said(1.0), 160
    given, first = 0, None
    for end in range(step, len(sound) + 1, step):
        given += len(stream.push(sound[end - step : end]))
        due = int((end / SAMPLE_RATE - LOOK_AHEAD_SECONDS) * FPS + 1e-9)
        assert given >= due
        first = end / SAMPLE_RATE if first is None and given else first
    assert first <= LOOK_AHEAD_SECONDS + 1 / FPS
    assert given + len(stream.finish()) == 25


def test_no_sound_after_the_look_ahead_changes_a_frame(pipeline, tiny_avatar):
    sound, frame = said(2.0), 20
    edge = round((LOOK_AHEAD_SECONDS + (frame + 1) / FPS) * SAMPLE_RATE)
    other = sound.clone()
    other[edge:] = said(2.0, seed=7)[edge:] * 3
    for one, two in zip(*(in_pieces(pipeline.open(tiny_avatar), x, 3_200) for x in (sound, other))):
        assert torch.equal(one[: frame + 1], two[: frame + 1]) and not torch.equal(one[frame + 2 :], two[frame + 2 :])


# --- Beginning, rest, end ------------------------------------------------------------------------------------------------------


def test_a_stream_that_was_reset_or_finished_begins_anew(pipeline, tiny_avatar):
    stream, sound = pipeline.open(tiny_avatar, HAPPY, Manner(seed=2)), said(0.8)
    first = in_pieces(stream, sound, 2_000)
    again = in_pieces(stream, sound, 2_000)  # after finish
    stream.push(said(0.5, seed=9))
    stream.reset()
    reset = in_pieces(stream, sound, 2_000)
    for one, two, three in zip(first, again, reset):
        assert torch.equal(one, two) and torch.equal(one, three)


def test_a_stream_without_sound_is_empty(pipeline, tiny_avatar):
    stream = pipeline.open(tiny_avatar)
    assert len(stream.push(torch.zeros(0))) == len(stream.push(torch.zeros(100))) == 0
    assert len(stream.finish()) == 1 and len(stream.finish()) == 0


def test_a_face_at_rest_goes_on_moving_with_its_lips_still(pipeline, tiny_avatar):
    encoder = pipeline.speech_encoder
    with torch.no_grad():
        encoder.articulate.weight.zero_()
        encoder.articulate.bias.copy_(torch.tensor([-4.0, -4.0, 4.0]))
        stream = pipeline.open(tiny_avatar, manner=Manner(motion=MotionAmounts(manner="lively")))
        spoken = stream.push(said(2.0))
        encoder.articulate.bias[SPEAKING] = -4.0  # from here on it hears nobody
    resting = stream.rest(100)
    assert len(spoken) + len(resting) >= 145 and len(resting) == 100
    lips = pipeline.lip_guard.openings(resting.expression.coefficients)
    assert pipeline.lip_guard.openings(spoken.expression.coefficients).std() > 1e-4
    assert lips[20:].abs().max() < 1e-5
    assert resting.motion.rotation.std(0).max() > 1e-4
    after = stream.push(said(1.0))
    assert len(after) == 25


def test_an_emotion_that_changes_changes_what_comes_after_it(pipeline, tiny_avatar):
    sound, sad = said(2.0), EmotionWeights.from_mapping({"sad": 1.0})
    stream = pipeline.open(tiny_avatar, HAPPY)
    pieces = [stream.push(sound[:16_000])]
    heard = len(pipeline.speech_encoder.open().push(sound[:16_000]))
    stream.weights = sad
    pieces += [stream.push(sound[16_000:]), stream.finish()]
    expression, _ = joined(pieces)
    over_time = EmotionWeights(torch.cat([HAPPY.at(heard), sad.at(50 - heard)]))
    features = pipeline.encode(sound)
    torch.testing.assert_close(expression, pipeline.expression(features, over_time, tiny_avatar).coefficients, atol=1e-3, rtol=0)
    happy = pipeline.expression(features, HAPPY, tiny_avatar).coefficients
    torch.testing.assert_close(expression[:heard], happy[:heard], atol=1e-3, rtol=0)
    assert (expression - happy)[heard:].abs().max() > 1e-2


def test_weights_over_time_are_followed_in_pieces(pipeline, tiny_avatar):
    share = torch.linspace(0, 1, 25)[:, None]
    rows = EmotionWeights((1 - share) * HAPPY.at(1) + share * EmotionWeights.from_mapping({"sad": 1.0}).at(1))
    sound = said(1.4)  # longer than the weights, whose last row stays
    expression, _ = in_pieces(pipeline.open(tiny_avatar, rows), sound, 1_000)
    whole = pipeline.expression(pipeline.encode(sound), rows, tiny_avatar).coefficients
    torch.testing.assert_close(expression, whole, atol=1e-3, rtol=0)
    assert torch.equal(rows.at(3, 23), torch.cat([rows.weights[23:], rows.weights[24:]]))


def test_a_long_stream_does_not_grow(pipeline, tiny_avatar):
    stream, sizes = pipeline.open(tiny_avatar, HAPPY), []
    for second in range(24):
        stream.push(said(1.0, seed=second % 2))
        sizes.append(held_bytes(stream))
    assert max(sizes[8:]) <= 1.01 * max(sizes[:8]) and sizes[0] > 1000


def test_a_manner_that_does_not_exist_is_named(pipeline, tiny_avatar):
    with pytest.raises(ValueError, match="own, still, lively"):
        MotionAmounts(manner="wild")
    still, own = (
        in_pieces(pipeline.open(tiny_avatar, manner=Manner(motion=MotionAmounts(manner=manner))), said(2.0), 32_000)[1]
        for manner in ("still", "own")
    )
    assert still[:, :3].std(0).max() < own[:, :3].std(0).max()


def test_an_encoder_that_reads_speech_as_a_whole_can_not_stream(pipeline, tiny_avatar):
    pipeline.speech_encoder = torch.nn.Identity()
    with pytest.raises(TypeError, match="Identity reads a speech as a whole"):
        pipeline.open(tiny_avatar)
