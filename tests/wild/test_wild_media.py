"""What people bring: inputs of the kinds that public bug reports of this field tell of, made here, and what is right for each."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from media import babble, beep, bundled_clip, ffmpeg, number_of, numbered, onset, write_clip, write_wav

from gmtalker.clock import SAMPLE_RATE
from gmtalker.errors import UnusableSpeech, UnusableVideo
from gmtalker.media.audio import heard_clearly, read_speech, stream_sound, voice_level, what_was_heard
from gmtalker.media.container import recordings_in
from gmtalker.media.video import read_frames, read_info


def whole(path: Path) -> np.ndarray:
    """The samples of a file as they are, 16 kHz."""
    return np.concatenate(list(stream_sound(path)))


def two_tracks(path: Path, first: Path, second: Path, default: int | None) -> Path:
    marks = ["-disposition:a:0", "default" if default == 0 else "0", "-disposition:a:1", "default" if default == 1 else "0"]
    clip = write_clip(path.with_name("pictures.mp4"), (numbered(index) for index in range(75)))
    inputs = ["-i", clip, "-i", first, "-i", second, "-map", "0:v", "-map", "1:a", "-map", "2:a"]
    ffmpeg(*inputs, "-c:v", "copy", "-c:a", "flac", *marks, path)
    return path


# --- Which track, which channels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("default", "heard"), [(None, 1), (0, 1), (1, 1)])
def test_of_several_tracks_the_default_one_is_heard_unless_it_is_silent(tmp_path, default, heard):
    quiet, speech = write_wav(tmp_path / "q.wav", np.zeros(48_000)), write_wav(tmp_path / "s.wav", babble(3.0))
    path = two_tracks(tmp_path / "obs.mkv", quiet, speech, default)
    assert np.abs(read_speech(path)).max() > 0.05
    assert what_was_heard(path) == [f"obs.mkv holds 2 sound tracks; number {heard + 1} is heard."]


def test_of_two_tracks_that_speak_the_default_one_is_heard(tmp_path):
    early, late = write_wav(tmp_path / "e.wav", beep(3.0, 0.5)), write_wav(tmp_path / "l.wav", beep(3.0, 2.0))
    path = two_tracks(tmp_path / "two.mkv", early, late, 1)
    assert onset(whole(path)) == pytest.approx(2.0, abs=0.03)


def surround(tmp_path: Path, channel: int, layout: str, channels: int) -> Path:
    samples = np.zeros((48_000, channels), np.float32)
    samples[:, channel] = babble(3.0)
    write_wav(tmp_path / "in.wav", samples)
    ffmpeg("-channel_layout", layout, "-i", tmp_path / "in.wav", "-c:a", "flac", tmp_path / "out.flac")
    return tmp_path / "out.flac"


@pytest.mark.parametrize(
    ("layout", "channels", "channel"), [("5.1", 6, 2), ("5.1", 6, 0), ("7.1", 8, 2), ("stereo", 2, 1), ("stereo", 2, 0)]
)
def test_one_channel_that_speaks_is_as_loud_as_it_was(tmp_path, layout, channels, channel):
    path = surround(tmp_path, channel, layout, channels)
    assert voice_level(whole(path)) == pytest.approx(voice_level(babble(3.0)), abs=1.0)


def test_channels_that_cancel_are_heard_by_one_of_them(tmp_path):
    speech = babble(3.0)
    path = write_wav(tmp_path / "inverted.wav", np.stack([speech, -speech], axis=1))
    assert np.abs(whole(path)) == pytest.approx(np.abs(speech), abs=1e-3)


def test_two_people_left_and_right_are_both_heard(tmp_path):
    left, right = np.zeros(48_000, np.float32), np.zeros(48_000, np.float32)
    left[:24_000], right[24_000:] = babble(1.5), babble(1.5)
    sound = whole(write_wav(tmp_path / "talk.wav", np.stack([left, right], axis=1)))
    assert voice_level(sound[:24_000]) == pytest.approx(voice_level(sound[24_000:]), abs=0.5)


# --- Loud, quiet, offset, hum --------------------------------------------------------------------------------------------------


def test_float_samples_over_full_scale_keep_their_shape(tmp_path):
    speech = babble(2.0)
    (tmp_path / "raw").write_bytes((speech * 4 / np.abs(speech).max()).astype("<f4").tobytes())
    ffmpeg("-f", "f32le", "-ar", 16_000, "-ac", 1, "-i", tmp_path / "raw", "-c:a", "pcm_f32le", tmp_path / "loud.wav")
    sound = whole(tmp_path / "loud.wav")
    assert sound == pytest.approx(speech / np.abs(speech).max(), abs=1e-3)


def test_a_whisper_far_away_is_raised_for_the_encoder_alone(tmp_path):
    speech = babble(3.0) * 10 ** (-45 / 20)
    path = write_wav(tmp_path / "quiet.wav", speech)
    assert voice_level(read_speech(path)) == pytest.approx(-32, abs=0.5)
    assert voice_level(whole(path)) < -55, "the film keeps it as it was recorded"
    assert what_was_heard(path)[0].startswith("quiet.wav is too quiet: -")


def test_a_sound_at_a_usual_level_is_not_touched(tmp_path):
    speech = babble(2.0)
    assert heard_clearly(speech) is speech and not what_was_heard(write_wav(tmp_path / "plain.wav", speech))


@pytest.mark.parametrize("kind", ["offset", "hum"])
def test_offset_and_hum_do_not_fill_the_pauses(kind):
    time = np.arange(48_000) / SAMPLE_RATE
    pause = np.where((time > 1) & (time < 2), 0, 1)
    speech = (babble(3.0) * pause).astype(np.float32)
    dirty = speech + (0.3 if kind == "offset" else 0.05 * np.sin(2 * np.pi * 50 * time))
    clean = heard_clearly(dirty.astype(np.float32))
    assert np.sqrt(np.square(clean[20_000:28_000]).mean()) < 0.15 * np.sqrt(np.square(dirty[20_000:28_000]).mean())
    assert voice_level(clean) == pytest.approx(voice_level(speech), abs=1.5)


def test_nothing_but_an_offset_is_no_speech(tmp_path):
    with pytest.raises(UnusableSpeech, match="holds no sound"):
        read_speech(write_wav(tmp_path / "offset.wav", np.full(32_000, 0.3)))


# --- Recordings one after another ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "ogg", "flac", "m4a", "mp3", "webm"])
def test_glued_recordings_are_heard_whole(tmp_path, suffix):
    codec = {"ogg": ["-c:a", "libvorbis"], "webm": ["-c:a", "libopus"]}.get(suffix, [])
    ffmpeg("-i", write_wav(tmp_path / "in.wav", beep(2.0, 1.0)), *codec, tmp_path / f"one.{suffix}")
    one = (tmp_path / f"one.{suffix}").read_bytes()
    glued = tmp_path / f"glued.{suffix}"
    glued.write_bytes(one * 3)
    sound = whole(glued)
    assert len(sound) == pytest.approx(6 * SAMPLE_RATE, rel=0.05 if suffix == "mp3" else 0.03)  # mp3 fills its ends up
    loud = np.abs(sound.reshape(-1)[: 6 * SAMPLE_RATE // 1600 * 1600]).reshape(-1, 1600).max(1) > 0.2
    assert (np.diff(loud.astype(int)) == 1).sum() == 3, "every beep is there"
    if suffix != "mp3":  # whose frames need no file around them
        assert len(recordings_in(glued, UnusableSpeech)) == 3


def test_glued_films_are_refused_and_how_much_would_be_seen_is_told(tmp_path):
    clip = write_clip(tmp_path / "one.mp4", (numbered(index) for index in range(50)))
    (tmp_path / "two.mp4").write_bytes(clip.read_bytes() * 2)
    with pytest.raises(UnusableVideo, match="holds 2 recordings .* first 2.0 seconds"):
        list(read_frames(tmp_path / "two.mp4"))


# --- A film's clock ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [["-c:v", "mpeg4", "-bf", "2"], ["-c:v", "libx264", "-bf", "3"]])
def test_pictures_of_an_avi_come_in_order_and_at_their_time(tmp_path, codec):
    clip = write_clip(tmp_path / "in.mp4", (numbered(index) for index in range(250)))
    ffmpeg("-i", clip, *codec, "-q:v", "2", tmp_path / "out.avi")
    numbers = [number_of(frame) for frame in read_frames(tmp_path / "out.avi")]
    assert abs(len(numbers) - 250) <= 3 and numbers == sorted(numbers)
    assert len(set(numbers)) >= 247, "each is shown once"


# --- Which way up, colour, fields ----------------------------------------------------------------------------------------------


def mean_colour(path: Path) -> np.ndarray:
    return np.mean([frame.mean((0, 1)) for frame in read_frames(path)], axis=0)


def flat(tmp_path: Path, colour: tuple[int, int, int], size: int = 128) -> Path:
    picture = np.full((size, size, 3), colour, np.uint8)
    return write_clip(tmp_path / "flat.mp4", (picture for _ in range(10)))


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
@pytest.mark.parametrize("level", [0.25, 0.5, 0.75])
def test_high_dynamic_range_is_as_bright_as_the_ordinary_film(tmp_path, transfer, level):
    """A grey of an ordinary screen, written as HLG or PQ at the 100 nits that such a screen has."""
    nits = 100 * level**2.4
    if transfer == "smpte2084":
        y = (nits / 10_000) ** 0.1593017578125
        written = ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    else:
        scene = (nits / 1000) ** (1 / 1.2)
        written = (3 * scene) ** 0.5 if scene <= 1 / 12 else 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073
    values = np.full((64, 64), round(64 + written * 876), "<u2")  # 10 bits, limited range
    chroma = np.full((32, 32), 512, "<u2")
    (tmp_path / "raw").write_bytes((values.tobytes() + 2 * chroma.tobytes()) * 5)
    tags = ["-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc", "-color_range", "tv"]
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "64x64", "-r", 25, *tags, "-i", tmp_path / "raw"]
    ffmpeg(*raw, "-c:v", "libx265", "-x265-params", "log-level=none:lossless=1", *tags, tmp_path / "hdr.mp4")
    assert mean_colour(tmp_path / "hdr.mp4") == pytest.approx(np.full(3, 255 * level), abs=8)


@pytest.mark.parametrize("space", ["bt709", "smpte170m"])
@pytest.mark.parametrize("full", [False, True])
def test_matrix_and_range_are_those_that_the_file_names(tmp_path, space, full):
    colour = (180, 60, 40)
    picture = np.full((128, 128, 3), colour, np.uint8)
    cv2.imwrite(str(tmp_path / "flat.png"), picture[..., ::-1])
    out = f"scale=out_color_matrix={'bt709' if space == 'bt709' else 'bt601'}:out_range={'pc' if full else 'tv'},format=yuv420p"
    tags = ["-colorspace", space, "-color_range", "pc" if full else "tv", "-color_primaries", "bt709", "-color_trc", "bt709"]
    ffmpeg(
        "-loop",
        1,
        "-i",
        tmp_path / "flat.png",
        "-frames:v",
        5,
        "-vf",
        out,
        *tags,
        "-c:v",
        "libx264",
        "-crf",
        5,
        tmp_path / "c.mp4",
    )
    assert mean_colour(tmp_path / "c.mp4") == pytest.approx(np.array(colour), abs=4)


def test_an_untagged_high_definition_film_is_bt709(tmp_path):
    colour = (180, 60, 40)
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((720, 1280, 3), colour, np.uint8)[..., ::-1])
    out = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
    ffmpeg("-loop", 1, "-i", tmp_path / "flat.png", "-frames:v", 3, "-vf", out, "-c:v", "mpeg4", "-q:v", 1, tmp_path / "hd.avi")
    assert mean_colour(tmp_path / "hd.avi") == pytest.approx(np.array(colour), abs=5)


def test_half_pictures_of_a_camcorder_leave_no_combs(tmp_path):
    """A bar that moves 8 pixels from one half picture to the next."""
    fields = []
    for number in range(50):
        field = np.full((128, 128, 3), 40, np.uint8)
        field[:, 8 * (number % 12) : 8 * (number % 12) + 24] = 220
        fields.append(field)
    clip = write_clip(tmp_path / "fields.mp4", fields, rate=50)
    ffmpeg(
        "-i",
        clip,
        "-vf",
        "tinterlace=interleave_top",
        "-flags",
        "+ilme+ildct",
        "-c:v",
        "mpeg2video",
        "-q:v",
        2,
        tmp_path / "tape.mpg",
    )
    frames = list(read_frames(tmp_path / "tape.mpg"))
    assert len(frames) == pytest.approx(25, abs=1)
    combs = [np.abs(np.diff(frame[..., 0].astype(int), axis=0)).mean() for frame in frames[3:-3]]
    assert np.mean(combs) < 4, "lines that alternate would differ by 60 in the mean"


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_that_lies_on_its_side_or_its_head_is_turned(tmp_path, turns):
    from gmtalker.face.tracking import track_points

    turned = {1: "transpose=1", 2: "hflip,vflip", 3: "transpose=2"}[turns]
    ffmpeg("-i", bundled_clip("idle.mp4"), "-t", 2, "-vf", turned, "-c:v", "libx264", "-crf", 14, "-an", tmp_path / "turned.mp4")
    ffmpeg("-i", bundled_clip("idle.mp4"), "-t", 2, "-c:v", "libx264", "-crf", 14, "-an", tmp_path / "upright.mp4")
    upright, found = track_points(tmp_path / "upright.mp4"), track_points(tmp_path / "turned.mp4")
    assert (upright.turns, found.turns) == (0, turns) and found.source_size == upright.source_size
    assert np.abs(found.points - upright.points)[..., :2].mean() < 2


def test_a_small_face_in_the_corner_is_found_and_its_size_told(tmp_path):
    from personalize.check import check_clip

    scene = "[0:v]scale=150:-2[p];color=c=0x335577:s=1280x720:r=25[w];[w][p]overlay=1100:540:shortest=1"
    ffmpeg(
        "-i", bundled_clip("idle.mp4"), "-t", 4, "-filter_complex", scene, "-c:v", "libx264", "-crf", 14, tmp_path / "corner.mp4"
    )
    report = check_clip(tmp_path / "corner.mp4")
    line = next(line for line in report.lines if line.name == "face size")
    assert line.status in ("fail", "warn") and 30 < report.face_height < 120 and "closer" in line.advice


def test_what_a_file_declares_is_known_of_every_kind(tmp_path):
    info = read_info(write_clip(tmp_path / "clip.mp4", (numbered(index) for index in range(50))))
    assert (info.seconds, info.fps, info.has_sound) == (2.0, 25.0, False)
