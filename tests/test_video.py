"""Any video comes in upright, square and on the 25 fps clock, or is refused in a sentence; what goes out is whole or absent."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media import (
    babble,
    beep,
    bundled_clip,
    corners,
    ffmpeg,
    number_of,
    numbered,
    onset,
    quadrants,
    real_clip,
    write_clip,
    write_wav,
)

from gmtalker.clock import frames_for
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.media.audio import read_speech
from gmtalker.media.video import SIDE_MAX, read_frames, read_info
from gmtalker.media.video_writer import VideoWriter

ODD_NAMES = ["two words", "-dash", 'it\'s "so"', "видео 影片", "a:b", "100%d", "$(touch made); x"]
NTSC_FILM, NTSC = Fraction(24_000, 1001), Fraction(30_000, 1001)


def numbers(path, fps=25):
    return np.array([number_of(frame) for frame in read_frames(path, fps)])


def counted(count):
    return (numbered(index) for index in range(count))


@pytest.mark.parametrize("rate", [NTSC_FILM, 24, 25, NTSC, 30, 50, Fraction(60_000, 1001), 60, 12, 120])
def test_every_rate_lands_on_the_25_fps_clock(tmp_path, rate):
    count = round(4 * rate)
    path = write_clip(tmp_path / "clip.mp4", counted(count), rate)
    read = numbers(path)
    assert len(read) in (99, 100, 101)
    drift = read / float(rate) - np.arange(len(read)) / 25  # seconds by which the frame on the screen is early
    assert drift.max() <= 0.0101 and drift.min() > -1 / min(float(rate), 25) - 1e-6
    assert read_info(path).fps == pytest.approx(float(rate), rel=1e-3)


def test_25_fps_is_given_frame_by_frame(tmp_path):
    for suffix in ("mp4", "mkv", "avi", "ts"):
        path = write_clip(tmp_path / f"clip.{suffix}", counted(60))
        assert numbers(path).tolist() == list(range(60)), suffix


def test_ten_minutes_drift_by_less_than_a_frame(tmp_path):
    path = write_clip(tmp_path / "long.mp4", counted(round(600 * NTSC)), NTSC, keyframes=250)
    read = numbers(path)
    drift = read / float(NTSC) - np.arange(len(read)) / 25
    assert abs(len(read) - 15_000) <= 1
    assert np.abs(drift).max() < 1 / float(NTSC)
    assert abs(drift[-1000:].mean() - drift[:1000].mean()) < 0.002


def test_a_phones_changing_rate_is_read_by_its_timestamps(tmp_path):
    steps = np.random.default_rng(0).choice([16, 17, 33, 34, 50], 300)
    steps[120] = 1700  # the phone held its breath
    times = [0, *np.cumsum(steps)[:-1].tolist()]
    read = numbers(write_clip(tmp_path / "phone.mp4", counted(300), times=times))
    shown = np.searchsorted(times, np.arange(len(read)) * 40 + 10, side="right") - 1
    assert np.abs(read - shown).max() <= 1
    assert (read == 120).sum() >= 42
    assert len(read) == pytest.approx(times[-1] / 40, abs=2)


@pytest.mark.parametrize("turn,want", [(0, "rgbw"), (90, "gwrb"), (-90, "brwg"), (180, "wbgr")])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_turned_phone_is_read_upright(tmp_path, turn, want, suffix):
    """`want` says where a counter-clockwise turn moves the corners of "rgbw"; ffmpeg's own reading must agree."""
    source = write_clip(tmp_path / "flat.mp4", [quadrants()] * 5)
    turned, upright = tmp_path / f"turned.{suffix}", tmp_path / "upright.mp4"
    ffmpeg("-display_rotation", turn, "-i", source, "-c", "copy", turned)
    ffmpeg("-i", turned, "-c:v", "libx264", upright)
    frame = next(read_frames(turned))
    assert corners(frame) == corners(next(read_frames(upright))) == want
    assert frame.flags.c_contiguous
    info = read_info(turned)
    assert frame.shape == (info.height, info.width, 3) == ((64, 48, 3) if turn in (90, -90) else (48, 64, 3))


MIRRORED = [(0, "-display_hflip", "grwb"), (90, "-display_hflip", "wgbr"), (90, "-display_vflip", "rbgw")]


@pytest.mark.parametrize("turn,mirror,want", MIRRORED)
def test_a_mirrored_phone_is_read_as_players_show_it(tmp_path, turn, mirror, want):
    source = write_clip(tmp_path / "flat.mp4", [quadrants()] * 5)
    ffmpeg("-display_rotation", turn, mirror, "-i", source, "-c", "copy", tmp_path / "turned.mp4")
    ffmpeg("-i", tmp_path / "turned.mp4", tmp_path / "upright.mp4")
    read, players = (corners(next(read_frames(tmp_path / f"{name}.mp4"))) for name in ("turned", "upright"))
    assert read == players == want


def test_pixels_are_made_square(tmp_path):
    source = write_clip(tmp_path / "flat.mp4", [quadrants(90, 72)] * 5)
    ffmpeg("-i", source, "-vf", "setsar=16/15", tmp_path / "pal.mp4")
    frame, info = next(read_frames(tmp_path / "pal.mp4")), read_info(tmp_path / "pal.mp4")
    assert frame.shape == (72, 96, 3) and (info.width, info.height) == (96, 72) and corners(frame) == "rgbw"
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "pal.mp4", "-c", "copy", tmp_path / "turned.mp4")
    assert next(read_frames(tmp_path / "turned.mp4")).shape == (96, 72, 3)


@pytest.mark.parametrize("width,height", [(33, 47), (64, 200), (201, 31)])
def test_odd_sizes(tmp_path, width, height):
    source = tmp_path / "odd.mkv"
    ffmpeg("-f", "lavfi", "-i", f"testsrc=size={width}x{height}:duration=0.4:rate=25", "-c:v", "libvpx-vp9", source)
    frames = list(read_frames(source))
    assert len(frames) == 10 and frames[0].shape == (height, width, 3)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_in_and_out(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    speech = write_wav(tmp_path / f"{name}.wav", babble(0.4))
    with VideoWriter(f"{name}.mp4", 32, 32, speech) as writer:
        for frame in counted(10):
            writer.write(frame)
    assert numbers(f"{name}.mp4").tolist() == list(range(10))
    assert read_info(f"{name}.mp4").has_sound
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([f"{name}.wav", f"{name}.mp4"])


def test_a_clip_that_changes_size_and_restarts_its_clock(tmp_path):
    """Two recordings glued together, as some cameras and meeting programs do."""
    write_clip(tmp_path / "one.ts", counted(30))
    write_clip(tmp_path / "two.ts", [quadrants(64, 64)] * 30)
    (tmp_path / "glued.ts").write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    frames = list(read_frames(tmp_path / "glued.ts"))
    assert len(frames) == pytest.approx(60, abs=2)
    assert {frame.shape for frame in frames} == {(32, 32, 3)} and corners(frames[-1]) == "rgbw"


def test_a_browsers_recording_without_a_length(tmp_path):
    source = write_clip(tmp_path / "in.mp4", counted(50))
    ffmpeg("-i", source, "-c:v", "libvpx", "-live", "1", "-f", "webm", "-flush_packets", "1", tmp_path / "live.webm")
    with av.open(str(tmp_path / "live.webm")) as container:
        assert container.duration is None  # else this is not the file we mean to test
    assert numbers(tmp_path / "live.webm").tolist() == list(range(50))
    assert read_info(tmp_path / "live.webm").seconds == pytest.approx(2.0, abs=0.1)


def test_info(tmp_path):
    info = read_info(write_clip(tmp_path / "clip.mp4", counted(75), speech=babble(3.0)))
    assert (info.width, info.height, info.fps, info.has_sound) == (32, 32, 25.0, True)
    assert info.seconds == pytest.approx(3.0, abs=0.05)
    assert not read_info(write_clip(tmp_path / "mute.mp4", counted(5))).has_sound


def refused(path, reader=lambda path: list(read_frames(path))):
    with pytest.raises(UnusableVideo) as caught:
        reader(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and "Errno" not in message
    return message


def test_what_is_no_video_says_so_in_one_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video " * 500)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    write_wav(tmp_path / "speech.wav", babble(1.0))
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64:duration=0.1", "-frames:v", "1", tmp_path / "cover.png")
    ffmpeg("-i", tmp_path / "speech.wav", "-i", tmp_path / "cover.png", "-map", "0:a", "-map", "1:v",
           "-disposition:v:0", "attached_pic", tmp_path / "song.mp3")  # fmt: skip
    for name in ("text.mp4", "empty.mp4", "noise.mp4", "speech.wav", "song.mp3", "cover.png", "missing.mp4", ""):
        path = tmp_path / name
        assert path.name in refused(path) and path.name in refused(path, read_info)
    assert "sound file" in refused(tmp_path / "song.mp3")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "mov"])
@pytest.mark.parametrize("sound", [False, True])
def test_a_video_cut_short_is_refused_after_its_frames(tmp_path, suffix, sound):
    whole = write_clip(tmp_path / "whole.mp4", counted(250), speech=babble(10.0) if sound else None)
    codec = ["-c:v", "libvpx", "-c:a", "libopus"] if suffix == "webm" else ["-c", "copy", "-movflags", "+faststart"]
    ffmpeg("-i", whole, *codec, tmp_path / f"in.{suffix}")
    data = (tmp_path / f"in.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) * 6 // 10])
    assert len(numbers(tmp_path / f"in.{suffix}")) == 250
    frames = read_frames(tmp_path / f"cut.{suffix}")
    assert number_of(next(frames)) == 0
    assert "breaks off" in refused(frames, list)


def test_an_mp4_whose_index_is_lost(tmp_path):
    data = write_clip(tmp_path / "whole.mp4", counted(100)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    assert "damaged" in refused(tmp_path / "cut.mp4")


def test_a_transport_stream_cut_short_is_a_shorter_video(tmp_path):
    """It promises no length, so nothing is missing that was promised."""
    data = write_clip(tmp_path / "whole.ts", counted(250)).read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[: len(data) // 2])
    assert 50 < len(numbers(tmp_path / "cut.ts")) < 200


def test_a_video_damaged_in_the_middle(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (100, 64, 64, 3), dtype=np.uint8)
    data = bytearray(write_clip(tmp_path / "whole.mp4", noise, keyframes=1).read_bytes())
    first, last = len(data) // 4, len(data) * 3 // 4
    data[first:last] = bytes(last - first)
    (tmp_path / "holed.mp4").write_bytes(data)
    assert "damaged" in refused(tmp_path / "holed.mp4")


def test_sound_longer_than_the_picture_is_not_a_cut(tmp_path):
    source = write_clip(tmp_path / "in.mp4", counted(50), speech=babble(9.0))
    for suffix in ("mp4", "mkv", "mov", "flv"):  # flv tells only the length of the whole
        path = tmp_path / f"clip.{suffix}"
        ffmpeg("-i", source, "-c", "copy", path)
        assert len(numbers(path)) == 50


def test_giant_pictures_are_refused_before_they_are_decoded(tmp_path):
    ffmpeg("-f", "lavfi", "-i", f"color=size={SIDE_MAX + 16}x16:duration=0.08:rate=25", tmp_path / "wide.mp4")
    message = refused(tmp_path / "wide.mp4")
    assert "8208 x 16" in message and "8192" in message and message == refused(tmp_path / "wide.mp4", read_info)


def test_a_playlist_reads_no_other_file(tmp_path):
    write_clip(tmp_path / "secret.ts", counted(50))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.ts\n")
    (tmp_path / "hls.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.ts\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "hls.mp4"):
        assert "can't be read" in refused(tmp_path / name)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.03, 1.0, 2.51])
def test_a_written_video_is_as_long_as_its_speech(tmp_path, seconds, rate):
    path = write_wav(tmp_path / "speech.wav", babble(seconds, rate), rate)
    speech = read_speech(path)
    frames = frames_for(len(speech))
    for source in (speech, path):
        with VideoWriter(tmp_path / "out.mp4", 32, 32, source) as writer:
            for frame in counted(frames):
                writer.write(frame)
        assert numbers(tmp_path / "out.mp4").tolist() == list(range(frames))
        assert lengths(tmp_path / "out.mp4") == pytest.approx((frames / 25, frames / 25), abs=0.001)


def lengths(path):
    """Seconds of picture and of sound, as the container tells them to a player."""
    with av.open(str(path)) as container:
        streams = container.streams.video[0], container.streams.audio[0]
        return tuple(float(stream.duration * stream.time_base) for stream in streams)


@pytest.mark.parametrize("frames", [10, 75])
def test_sound_follows_the_number_of_frames(tmp_path, frames):
    with VideoWriter(tmp_path / "out.mp4", 32, 32, babble(2.0)) as writer:
        for frame in counted(frames):
            writer.write(frame)
    assert lengths(tmp_path / "out.mp4") == pytest.approx((frames / 25, frames / 25), abs=0.001)


def test_written_picture_and_sound_are_in_sync(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 32, 32, beep(3.0, 1.0)) as writer:
        for frame in counted(75):
            writer.write(frame)
    assert onset(read_speech(tmp_path / "out.mp4")) == pytest.approx(1.0, abs=0.005)
    assert numbers(tmp_path / "out.mp4")[25] == 25


def test_written_files_play_everywhere_and_keep_their_colours(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 65, 49, babble(0.4)) as writer:
        for _ in range(10):
            writer.write(quadrants(65, 49))
    frame = next(read_frames(tmp_path / "out.mp4"))
    assert frame.shape == (50, 66, 3)  # grown by one, the edge repeated rather than a black line
    for y, x in ((4, 4), (4, 60), (44, 4), (44, 60)):
        assert np.abs(frame[y, x].astype(int) - quadrants(65, 49)[y, x]).max() <= 6
    assert np.abs(frame[-1].astype(int) - frame[-3]).max() < 30 and np.abs(frame[:, -1].astype(int) - frame[:, -3]).max() < 30
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a player can begin before the end has arrived
    with av.open(str(tmp_path / "out.mp4")) as container:
        video, audio = container.streams.video[0].codec_context, container.streams.audio[0].codec_context
        assert (video.name, video.pix_fmt, audio.name, audio.sample_rate) == ("h264", "yuv420p", "aac", 48_000)


def test_an_error_leaves_the_file_from_before_and_nothing_else(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"from before")
    with pytest.raises(RuntimeError, match="renderer"), VideoWriter(path, 32, 32, babble(1.0)) as writer:
        writer.write(numbered(1))
        raise RuntimeError("renderer")
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(path, 32, 32):
        pass
    with pytest.raises(ValueError, match="must be"), VideoWriter(path, 32, 32) as writer:
        writer.write(numbered(1)[:16])
    with pytest.raises(UnusableInput, match="nothing.wav"), VideoWriter(path, 32, 32, tmp_path / "nothing.wav"):
        pass
    with pytest.raises(UnusableInput, match="out.mp4 can't be written"), VideoWriter(path, 32, 32) as writer:
        writer._process.kill()
        for number in range(10_000):
            writer.write(numbered(number))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"] and path.read_bytes() == b"from before"


def test_an_impossible_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UnusableInput, match="out.mp4 can't be written"), VideoWriter(tmp_path / "file" / "out.mp4", 32, 32):
        pass
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(UnusableInput, match="taken.mp4"), VideoWriter(tmp_path / "taken.mp4", 32, 32) as writer:
        writer.write(numbered(0))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "taken.mp4"]


@pytest.mark.parametrize("name", ["idle.mp4", "preview.mp4", "av/andrew1.mp4", "av/wda60.mp4"])
def test_real_clips_are_as_long_as_they_say(name):
    path = real_clip(name) if "/" in name else bundled_clip(name)
    info = read_info(path)
    shapes = [frame.shape for frame in read_frames(path)]
    assert set(shapes) == {(info.height, info.width, 3)} and len(shapes) == round(info.seconds * 25)
