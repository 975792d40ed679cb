"""Speech + emotion + avatar -> frames and a video, with tiny networks."""

import copy
import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import SIZE, write_speech

from gmtalker.__main__ import _parser, request_of
from gmtalker.avatars.motion import retarget
from gmtalker.avatars.ready import AVATARS_KEPT, load_avatar
from gmtalker.avatars.speaking_style import save_speaking_style
from gmtalker.clock import EMOTIONS, frames_for
from gmtalker.errors import UnusableAvatar, UnusableInput, UnusableSpeech
from gmtalker.face.person import PersonFace
from gmtalker.media.audio import read_speech
from gmtalker.performance import Performance
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import Progress, Stopped
from gmtalker.request import SpeakRequest, request_file
from gmtalker.tracks import BLINK, GAZE, POSE, EmotionKey, EmotionWeights, ExpressionTrack, FaceTrack, MotionTrack


@pytest.fixture
def speech(tmp_path):
    return write_speech(tmp_path / 'spéech\'s "1".wav', seconds=1.03)


def frames_of(performance: Performance) -> np.ndarray:
    return np.stack(list(performance))


def test_a_performance_has_a_frame_for_every_40_ms_begun(tiny_pipeline, tiny_avatar, speech):
    performance = tiny_pipeline(speech, tiny_avatar)
    frames = frames_of(performance)
    assert len(performance) == len(frames) == len(performance.track) == frames_for(len(read_speech(speech))) == 26
    assert frames.shape[1:] == (SIZE, SIZE, 3) and frames.dtype == np.uint8


def test_the_same_request_gives_the_same_frames_and_another_seed_others(tiny_pipeline, tiny_generic, tiny_avatar, speech):
    first = tiny_pipeline(speech, tiny_avatar, emotion={"happy": 0.5}, seed=7)
    again = GMTalkerPipeline.from_pretrained(tiny_generic, device="cpu")(speech, tiny_avatar, emotion={"happy": 0.5}, seed=7)
    drawn = frames_of(first)
    assert np.array_equal(drawn, frames_of(again)) and np.array_equal(drawn, frames_of(first))
    other = tiny_pipeline(speech, tiny_avatar, emotion={"happy": 0.5}, seed=8)
    assert not torch.equal(first.track.expression.coefficients, other.track.expression.coefficients)
    assert not torch.equal(first.track.motion.stacked(), other.track.motion.stacked())
    assert not np.array_equal(drawn, frames_of(other))


def test_other_avatars_in_between_change_nothing(tiny_pipeline, tiny_avatar, avatar_folder, speech):
    before = frames_of(tiny_pipeline(speech, tiny_avatar))
    frames_of(tiny_pipeline(speech, avatar_folder, emotion={"sad": 1.0}))
    assert np.array_equal(before, frames_of(tiny_pipeline(speech, tiny_avatar)))


def test_every_emotion_changes_the_picture_and_the_expression_but_not_the_motion(tiny_pipeline, tiny_avatar, speech):
    takes = {emotion: tiny_pipeline(speech, tiny_avatar, emotion={emotion: 1.0}) for emotion in EMOTIONS}
    drawn = {emotion: frames_of(take) for emotion, take in takes.items()}
    for emotion in EMOTIONS[1:]:
        assert not torch.equal(takes[emotion].track.expression.coefficients, takes["neutral"].track.expression.coefficients)
        assert torch.equal(takes[emotion].track.motion.stacked(), takes["neutral"].track.motion.stacked())
        assert not np.array_equal(drawn[emotion], drawn["neutral"])
    none = frames_of(tiny_pipeline(speech, tiny_avatar, emotion={"happy": 1.0}, intensity=0.0))
    assert np.array_equal(none, drawn["neutral"])


def test_an_exaggerated_emotion_goes_farther_the_same_way(tiny_pipeline, tiny_avatar, speech):
    neutral, happy, beaming = (
        tiny_pipeline(speech, tiny_avatar, emotion={"happy": 1.0}, intensity=intensity).track.expression.coefficients
        for intensity in (0.0, 1.0, 2.0)
    )
    once, twice = (happy - neutral).flatten(), (beaming - neutral).flatten()
    assert twice.norm() > 1.3 * once.norm() and torch.cosine_similarity(once, twice, dim=0) > 0.8


def test_the_style_alone_changes_the_picture(tiny_pipeline, tiny_avatar, speech):
    track = tiny_pipeline(speech, tiny_avatar).track
    weights = [EmotionWeights.from_mapping({name: 1.0}) for name in ("neutral", "happy")]
    neutral, happy = (np.stack(list(tiny_pipeline.draw(track, tiny_avatar, omega))) for omega in weights)
    assert not np.array_equal(neutral, happy)


def test_a_timeline_begins_as_its_first_key_and_ends_as_its_last(tiny_pipeline, tiny_avatar, speech):
    keys = [{"time": 0.3, "emotion": {"happy": 1.0}}, {"time": 0.7, "emotion": {"sad": 1.0}}]
    performance = tiny_pipeline(speech, tiny_avatar, timeline=keys)
    weights = performance.weights.at(len(performance))
    happy, sad = (weights[:, EMOTIONS.index(name)] for name in ("happy", "sad"))
    assert happy[0] == 1 and sad[-1] == 1 and 0.3 < happy[12] < 0.7
    early = tiny_pipeline(speech, tiny_avatar, emotion={"happy": 1.0}).track.expression.coefficients[:5]
    assert torch.allclose(performance.track.expression.coefficients[:5], early)
    again = tiny_pipeline(speech, tiny_avatar, timeline=[EmotionKey(0.7, {"sad": 1.0}), EmotionKey(0.3, {"happy": 1.0})])
    assert torch.equal(again.weights.weights, performance.weights.weights)  # keys themselves, in any order


def test_amounts_scale_each_movement_around_the_persons_mean(tiny_pipeline, tiny_avatar, speech):
    mean = torch.tensor(tiny_pipeline(speech, tiny_avatar).avatar.face.motion_mean)
    full = tiny_pipeline(speech, tiny_avatar).track.motion.stacked()
    still = tiny_pipeline(speech, tiny_avatar, head=0.0, blink=0.0, gaze=0.0).track.motion.stacked()
    assert torch.allclose(still, mean.expand_as(still))
    half = tiny_pipeline(speech, tiny_avatar, head=0.5, gaze=2.0).track.motion.stacked()
    assert torch.allclose(half[:, POSE] - mean[POSE], 0.5 * (full[:, POSE] - mean[POSE]), atol=1e-6)
    assert torch.allclose(half[:, GAZE] - mean[GAZE], 2 * (full[:, GAZE] - mean[GAZE]), atol=1e-6)
    assert torch.equal(half[:, BLINK], full[:, BLINK])


def test_the_video_is_h264_and_aac_of_the_speechs_length(tiny_pipeline, tiny_avatar, speech, tmp_path):
    seen: list[Progress] = []
    output = tmp_path / "ein „Video“ 1.mp4"
    tracks = tmp_path / "tracks.safetensors"
    tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), output, seen.append, tracks=tracks)
    with av.open(str(output)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.average_rate == 25 and sum(1 for _ in container.decode(video)) == 26
    assert len(FaceTrack.load(tracks)) == 26
    assert [stage for stage in dict.fromkeys(progress.stage for progress in seen)] == ["listening", "expression", "drawing"]
    assert (seen[-1].done, seen[-1].total) == (26, 26)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_stopping_leaves_nothing(tiny_pipeline, tiny_avatar, speech, tmp_path):
    output, seen = tmp_path / "stopped.mp4", []
    with pytest.raises(Stopped):
        tiny_pipeline.speak(
            SpeakRequest(speech, tiny_avatar), output, seen.append, stop=lambda: bool(seen) and seen[-1].stage == "drawing"
        )
    assert seen[-1].stage == "drawing" and [path.name for path in tmp_path.iterdir() if path.suffix != ".wav"] == ["work space"]


def test_silence_is_refused_and_leaves_nothing(tiny_pipeline, tiny_avatar, tmp_path):
    with pytest.raises(UnusableSpeech):
        tiny_pipeline.speak(SpeakRequest(write_speech(tmp_path / "s.wav", loudness=0.0), tiny_avatar), tmp_path / "v.mp4")
    assert not (tmp_path / "v.mp4").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"emotion": {"joy": 1.0}},
        {"emotion": {"happy": -0.1}},
        {"emotion": {"happy": float("nan")}},
        {"emotion": {"happy": 0.5}, "timeline": [{"time": 0, "emotion": {}}]},
        {"emotion": {"happy": 10**400}},
        {"emotion": {"happy": [1]}},
        {"timeline": [{"time": "soon", "emotion": {}}]},
        {"timeline": [{"time": float("nan"), "emotion": {}}]},
        {"timeline": [{"time": 10**400, "emotion": {}}]},
        {"timeline": [{"time": 0}]},
        {"timeline": [{"emotion": {"happy": 1.0}}]},
        {"timeline": [{"time": 0, "emotion": {"joy": 1.0}}]},
        {"timeline": [{"time": 0, "emotion": "happy"}]},
        {"timeline": ["happy"]},
        {"timeline": "happy"},
        {"timeline": {}},
        {"intensity": 2.5},
        {"intensity": -0.1},
        {"intensity": "much"},
        {"seed": -1},
        {"seed": 0.5},
        {"head": -1.0},
        {"gaze": float("inf")},
        {"motion": "wild"},
    ],
)
def test_a_wrong_request_is_a_value_error_before_any_work(wrong, tmp_path):
    with pytest.raises(ValueError):
        SpeakRequest(tmp_path / "none.wav", **wrong)


def test_a_still_follows_the_emotion_and_repeats(tiny_pipeline, tiny_avatar):
    neutral, happy = (tiny_pipeline.still(tiny_avatar, {"happy": weight}) for weight in (0.0, 0.8))
    assert neutral.shape == (SIZE, SIZE, 3) and not np.array_equal(neutral, happy)
    assert np.array_equal(happy, tiny_pipeline.still(tiny_avatar, {"happy": 0.8}))


def test_a_retrained_avatar_is_loaded_again(tiny_pipeline, tiny_avatar, home):
    before = tiny_pipeline.still(tiny_avatar)
    folder = home / "avatars" / "tiny"
    face = PersonFace.load(folder / "face.safetensors")
    face.reference[:] = 255 - face.reference
    face.save(folder / "face.safetensors")
    card = folder / "avatar.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"measures": {"psnr": 1.0}}))
    assert not np.array_equal(before, tiny_pipeline.still(tiny_avatar))


def test_avatars_are_kept_in_memory_the_last_used_ones(tiny_pipeline, tiny_avatar, avatar_folder, home, tmp_path):
    avatars = tiny_pipeline.avatars
    ready = avatars.get(tiny_avatar)
    assert avatars.get(home / "avatars" / "tiny") is ready and avatars.get(ready) is ready
    assert avatars.get(ready.avatar) is ready  # loaded, and the one that is in memory already
    loaded = load_avatar(tiny_avatar)
    assert avatars.get(loaded) is not ready and avatars.get(loaded) is avatars.get(loaded)
    for number in range(AVATARS_KEPT):
        shutil.copytree(avatar_folder, tmp_path / str(number))
        avatars.get(tmp_path / str(number))
    assert avatars.get(tiny_avatar) is not ready


def walking(frames: int, coefficients: int) -> FaceTrack:
    clock = torch.linspace(0, 3, frames)
    rotation = torch.stack([clock.sin(), clock.cos(), 0 * clock], -1) * 0.1 + 0.3
    blink = torch.rand(frames, 2, generator=torch.Generator().manual_seed(0))
    motion = MotionTrack(rotation, rotation * 0.2, blink, rotation[:, :2])
    return FaceTrack(ExpressionTrack(torch.zeros(frames, coefficients)), motion, torch.ones(frames, dtype=torch.bool))


def test_reenacting_moves_around_the_avatars_mean(tiny_pipeline, tiny_avatar, speech):
    driver = walking(60, tiny_pipeline.face_model.coefficient_dim)
    performance = tiny_pipeline.reenact(driver, tiny_avatar, speech=read_speech(speech))
    moved, given = performance.track.motion.stacked(), driver.motion.stacked()
    keep = [0, 1, 2, 3, 4, 5, 8, 9]
    mean = torch.tensor(performance.avatar.face.motion_mean)
    assert torch.allclose(moved[:, keep].mean(0), mean[keep], atol=1e-5)
    assert torch.allclose(moved[:, keep].diff(dim=0), given[:, keep].diff(dim=0), atol=1e-6)
    assert torch.equal(moved[:, BLINK], given[:, BLINK])
    assert performance.weights.weights.shape == (60, 8)
    assert len(frames_of(performance)) == 60
    same = tiny_pipeline.reenact(driver, tiny_avatar, absolute=True)
    assert torch.equal(same.track.motion.stacked(), given)


def test_a_film_leads_in_its_own_emotion_or_in_another(tiny_pipeline, tiny_avatar, monkeypatch, tmp_path, speech):
    """Another emotion is in the face, with the lips where the film's sounds need them, and the head moves as before."""
    driver = walking(60, tiny_pipeline.face_model.coefficient_dim)
    monkeypatch.setattr("gmtalker.pipeline.track_video", lambda path, model: driver)
    sound = read_speech(speech)

    def led(**options) -> Performance:
        return tiny_pipeline.perform(SpeakRequest(video=tmp_path / "film.mp4", avatar=tiny_avatar, **options), sound)

    own, angry = led(), led(emotion={"angry": 1.0})
    assert own.led and own.inputs == (tmp_path / "film.mp4",)
    assert torch.equal(own.track.expression.coefficients, driver.expression.coefficients)
    assert (angry.track.expression.coefficients - driver.expression.coefficients).abs().max() > 1e-3
    assert torch.equal(own.track.motion.stacked(), angry.track.motion.stacked())
    assert angry.weights.at(60)[:, EMOTIONS.index("angry")].min() == 1
    silent = tiny_pipeline.perform(SpeakRequest(video=tmp_path / "film.mp4", avatar=tiny_avatar, emotion={"sad": 1}), None)
    assert len(silent) == 60 and silent.speech is None
    twice = led(emotion={"angry": 1.0}, intensity=2.0).track.expression.coefficients
    assert (twice - driver.expression.coefficients).norm() > (
        angry.track.expression.coefficients - driver.expression.coefficients
    ).norm()


@pytest.mark.parametrize("options", [{"seed": 3}, {"head": 0.5}, {"motion": "still"}, {"speech": "a.wav"}, {"voice": "heart"}])
def test_what_a_film_decides_is_not_asked_for_beside_it(options):
    with pytest.raises(ValueError, match="leave out|only one of them|A voice says"):
        SpeakRequest(video="film.mp4", **options)


def test_a_request_with_a_film_is_saved_and_repeated(tmp_path):
    request = SpeakRequest(video="film.mp4", emotion={"happy": 0.5})
    request.save(tmp_path / "r.json")
    assert SpeakRequest.load(tmp_path / "r.json") == replace(request, video=os.path.abspath("film.mp4"))
    assert request.command() == "python -m gmtalker reenact --video film.mp4 --output video.mp4 --emotion happy=0.5"


def test_frames_without_a_face_do_not_move_the_drivers_mean(tiny_pipeline, tiny_avatar):
    driver = walking(40, tiny_pipeline.face_model.coefficient_dim)
    found = torch.arange(40) < 20
    moved = retarget(FaceTrack(driver.expression, driver.motion, found), load_avatar(tiny_avatar))
    assert torch.allclose(moved.motion.rotation[:20].mean(0), torch.zeros(3), atol=1e-5)


def test_a_speaking_style_changes_its_avatar_only(tiny_pipeline, tiny_avatar, avatar_folder, home, speech):
    from peft import LoraConfig  # late: it takes seconds to import

    plain = tiny_pipeline(speech, tiny_avatar).track.expression.coefficients
    person = copy.deepcopy(tiny_pipeline.expression_generator)
    person.add_adapter(LoraConfig(r=2, target_modules=["query", "key", "value"], init_lora_weights=False))
    save_speaking_style(person, home / "avatars" / "tiny" / "speaking_style")
    (home / "avatars" / "tiny" / "avatar.json").touch()
    styled = tiny_pipeline(speech, tiny_avatar).track.expression.coefficients
    assert not torch.allclose(styled, plain, atol=1e-3)
    features = tiny_pipeline.encode(read_speech(speech))
    latent = person.latent(EmotionWeights.from_mapping(None).at(len(features)), seed=0, temperature=1.0)
    assert torch.allclose(styled, person.eval().generate(features, latent), atol=1e-4)
    assert torch.equal(tiny_pipeline(speech, avatar_folder).track.expression.coefficients, plain)
    (home / "avatars" / "tiny" / "speaking_style" / "pytorch_lora_weights.safetensors").write_bytes(b"broken")
    (home / "avatars" / "tiny" / "avatar.json").touch()
    with pytest.raises(UnusableAvatar, match="speaking style"):
        tiny_pipeline(speech, tiny_avatar)


def test_generic_stages_that_are_not_there_are_one_sentence(tmp_path, tiny_generic):
    with pytest.raises(UnusableInput, match="model_index.json"):
        GMTalkerPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UnusableInput, match="speech_encoder"):
        GMTalkerPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="choose"):
        GMTalkerPipeline.from_pretrained(tiny_generic, device="toaster")


def test_frames_are_drawn_only_a_few_batches_ahead(tiny_pipeline, tiny_avatar, monkeypatch):
    rendered = []
    render = GMTalkerPipeline.render
    monkeypatch.setattr(GMTalkerPipeline, "render", lambda self, *place: rendered.append(place[2]) or render(self, *place))
    monkeypatch.setattr("gmtalker.pipeline.usable_cores", lambda: 2)
    long = walking(2000, tiny_pipeline.face_model.coefficient_dim)
    frames = tiny_pipeline.draw(long, tiny_avatar, EmotionWeights.from_mapping(None))
    next(frames)
    frames.close()
    assert 1 <= len(rendered) <= 5


def test_the_number_of_cores_changes_no_frame(tiny_pipeline, tiny_avatar, speech, monkeypatch):
    performance = tiny_pipeline(speech, tiny_avatar)
    drawn = []
    for cores in (1, 3):
        monkeypatch.setattr("gmtalker.pipeline.usable_cores", lambda cores=cores: cores)
        drawn.append(frames_of(performance))
    assert np.array_equal(*drawn)


def test_an_unlabelled_track_is_recognised_as_weights(tiny_pipeline):
    coefficients = tiny_pipeline.face_model.coefficient_dim
    for frames in (1, 99, 260):
        weights = tiny_pipeline.recognise(walking(frames, coefficients)).weights
        assert weights.shape == (frames, len(EMOTIONS)) and torch.allclose(weights.sum(-1), torch.ones(frames), atol=1e-5)


def test_the_label_is_for_videos_and_frames_are_bare(tiny_pipeline, tiny_avatar, speech):
    with pytest.raises(TypeError, match="speak"):
        tiny_pipeline(speech, tiny_avatar, label=True)


# --- Requests ------------------------------------------------------------------------------------------------------------------


def parsed(command: str) -> SpeakRequest:
    """What the command line's own parser makes of the command."""
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "gmtalker", "speak"]
    return request_of(_parser().parse_args(words[3:]))


def test_the_shown_command_repeats_the_request(home):
    """Names and files may hold anything."""
    request = SpeakRequest(
        Path("it's me.wav"), 'my "best" one', {"happy": 0.7, "sad": 0.0, "fear": 0.1},
        intensity=0.5, seed=3, blink=0.2, full_frame=True, motion="still",
    )  # fmt: skip
    assert parsed(request.command()) == replace(request, emotion={"happy": 0.7, "fear": 0.1})
    plain = SpeakRequest(Path("a.wav"))
    assert parsed(plain.command()) == plain
    keys = [EmotionKey(0.0, {"happy": 0.8}), EmotionKey(1.5, {})]
    timed = SpeakRequest(Path("a.wav"), "-x", timeline=keys, label=True)
    assert parsed(timed.command()) == timed
    saved = SpeakRequest.from_json(json.loads(json.dumps(timed.to_json())))
    assert saved == replace(timed, speech=os.path.abspath("a.wav"))


def test_a_loaded_avatar_is_named_so_that_it_is_found_again(tiny_avatar, avatar_folder, home, monkeypatch):
    def lasting(avatar) -> str:
        request = SpeakRequest(Path("a.wav"), avatar)
        assert parsed(request.command()).avatar in (request.to_json()["avatar"], str(avatar))
        return request.to_json()["avatar"]

    assert lasting(load_avatar(tiny_avatar)) == tiny_avatar and lasting(tiny_avatar) == tiny_avatar
    assert lasting(load_avatar(avatar_folder)) == str(avatar_folder)  # its name would lead to the workspace's
    monkeypatch.chdir(avatar_folder.parent)
    assert lasting("./tiny") == lasting(Path("tiny")) == str(avatar_folder)
    assert lasting("tiny") == "tiny"  # a name counts before a folder of that name
    assert lasting("owner/name") == "owner/name" and SpeakRequest("a.wav").to_json()["avatar"] is None


def test_a_request_is_saved_beside_its_video(tiny_pipeline, tiny_avatar, speech, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = SpeakRequest(Path(speech.name), tiny_avatar, {"happy": np.float32(0.5)}, seed=4)
    saved = request_file(tiny_pipeline.speak(request, tmp_path / "v.1.mp4"))
    assert saved.name == "v.1.request.json" and SpeakRequest.load(saved) == replace(request, speech=str(speech))
    values = json.loads(saved.read_text(encoding="utf-8"))
    assert values["request"] == "speak" and values["seed"] == 4 and values["emotion"] == {"happy": 0.5}


REQUEST = {"request": "speak", "speech": "/a.wav"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[" * 100_000, "recursion"),
        (json.dumps([]), "begin with"),
        (json.dumps({"speech": "/a.wav"}), "begin with"),
        (json.dumps(REQUEST | {"request": "train"}), "begin with"),
        (json.dumps(REQUEST | {"volume": 3}), "'volume'"),
        (json.dumps({"request": "speak"}), "does not name the file"),
        (json.dumps(REQUEST | {"speech": None}), "does not name the file"),
        (json.dumps(REQUEST | {"speech": 3}), "its speech can't be 3"),
        (json.dumps(REQUEST | {"avatar": ["tiny"]}), "its avatar can't be"),
        (json.dumps(REQUEST | {"emotion": ["happy"]}), "its emotion can't be"),
        (json.dumps(REQUEST | {"emotion": {"joy": 1}}), "'joy'"),
        (json.dumps(REQUEST | {"emotion": {"happy": None}}), "happy must be a number"),
        (json.dumps(REQUEST | {"full_frame": "no"}), "its full_frame can't be"),
        (json.dumps(REQUEST | {"label": 1}), "its label can't be"),
        (json.dumps(REQUEST | {"timeline": {"time": 0}}), "timeline is a list"),
        (json.dumps(REQUEST | {"seed": 1.5}), "seed must be"),
        (json.dumps(REQUEST | {"head": None}), "head must be"),
        (json.dumps(REQUEST | {"intensity": "1"}), "intensity must be"),
    ],
)
def test_what_is_no_saved_request_is_one_sentence(tmp_path, text, said):
    (tmp_path / "a.request.json").write_text(text, encoding="utf-8")
    with pytest.raises(UnusableInput, match=said) as caught:
        SpeakRequest.load(tmp_path / "a.request.json")
    sentence = str(caught.value)
    assert sentence.startswith("a.request.json is not a saved request (") and sentence.endswith(").") and "\n" not in sentence


def test_samples_are_no_file_to_speak_again_from(tmp_path):
    request = SpeakRequest(np.zeros(16_000, np.float32), "tiny")
    assert request.to_json()["speech"] is None
    request.save(tmp_path / "samples.json")
    for name, reason in (("samples.json", "not a saved request"), ("missing.json", "no file"), (".", "not a saved request")):
        with pytest.raises(UnusableInput, match=reason):
            SpeakRequest.load(tmp_path / name)
