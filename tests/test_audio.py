"""Speech comes in from any file, aligned with the picture, and its length in frames follows one rule."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from media import babble, beep, bundled_clip, ffmpeg, numbered, onset, real_clip, write_clip, write_wav

from gmtalker.clock import SAMPLE_RATE, frames_for
from gmtalker.errors import UnusableSpeech, UnusableVideo
from gmtalker.media.audio import read_sound_or_none, read_speech, stream_sound
from gmtalker.models.mel import log_mel, mel_filters, speech_to_mel

ODD_NAMES = ["two words", "-dash", 'it\'s "so"', "речь 말 声音", "a:b", "100%d", "http:x", "$(touch made); x", "a\\b"]


@pytest.mark.parametrize("suffix", ["wav", "mp3", "m4a", "flac", "ogg", "webm", "mov"])
def test_every_kind_of_file_gives_16_khz_mono(tmp_path, suffix):
    speech = babble(2.0, 44_100)
    source = write_wav(tmp_path / "in.wav", np.stack([speech, speech], axis=1), 44_100)
    codec = {"webm": ["-c:a", "libopus"], "ogg": ["-c:a", "libvorbis"]}.get(suffix, [])
    path = source if suffix == "wav" else tmp_path / f"out.{suffix}"
    if suffix != "wav":
        ffmpeg("-i", source, *codec, path)
    read, want = read_speech(path), babble(2.0)
    assert read.dtype == np.float32 and read.ndim == 1
    exact = suffix in ("wav", "flac", "m4a", "mov")  # the others end with a whole packet
    assert abs(len(read) - len(want)) <= (2 if exact else 0.06 * SAMPLE_RATE)
    # The best shift is that of the codec's padding, and at it the sound is the same: same pitch, same loudness.
    spectrum = np.fft.rfft(read[:30_000], 65_536) * np.conj(np.fft.rfft(want[:30_000], 65_536))
    assert np.fft.irfft(spectrum).max() / np.square(want[:30_000]).sum() == pytest.approx(1, abs=0.1)


def test_equal_channels_keep_their_loudness(tmp_path):
    speech = np.clip(9 * babble(1.0), -0.95, 0.95)
    read = read_speech(write_wav(tmp_path / "loud.wav", np.stack([speech, speech], axis=1)))
    np.testing.assert_allclose(read, speech, atol=1e-3)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / f"{name}.wav", babble(0.5))
    assert len(read_speech(f"{name}.wav")) == 8000
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_length_follows_from_the_seconds(tmp_path, rate):
    read = read_speech(write_wav(tmp_path / "speech.wav", babble(3.0, rate), rate))
    assert abs(len(read) - 48_000) <= 2 and frames_for(len(read)) in (75, 76)


@pytest.mark.parametrize("delay", [-0.4, 0.0, 0.48])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_sound_is_aligned_with_the_first_picture(tmp_path, delay, suffix):
    """A flash and a beep at second 1; then the container starts its sound earlier or later than its picture."""
    frames = (numbered(65_535 if index >= 25 else 0) for index in range(75))
    source = write_clip(tmp_path / "flash.mp4", frames, speech=beep(3.0, 1.0))
    moved = tmp_path / f"moved.{suffix}"
    ffmpeg("-i", source, "-itsoffset", delay, "-i", source, "-map", "0:v", "-map", "1:a", "-c", "copy", moved)
    assert onset(read_speech(moved)) == pytest.approx(1.0 + delay, abs=0.03)


def test_a_hole_in_the_sound_stays_a_hole(tmp_path):
    write_wav(tmp_path / "in.wav", beep(2.0, 1.2))
    ffmpeg("-i", tmp_path / "in.wav", "-af", "asetpts='PTS+gte(T,1)*2/TB'", "-c:a", "pcm_s16le", tmp_path / "hole.mkv")
    speech = read_speech(tmp_path / "hole.mkv")
    assert len(speech) == pytest.approx(4 * SAMPLE_RATE, abs=16)
    assert onset(speech) == pytest.approx(3.2, abs=0.002)


def test_stream_sound_keeps_the_upper_half_of_the_voice(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 12_000 * np.arange(48_000) / 48_000)
    path = write_wav(tmp_path / "high.wav", tone, 48_000)
    assert np.abs(np.concatenate(list(stream_sound(path, rate=48_000)))).max() > 0.4
    assert np.abs(np.concatenate(list(stream_sound(path)))[400:-400]).max() < 0.01


def test_what_is_no_speech_says_so_in_one_sentence(tmp_path):
    text, empty, silent, nothing = (tmp_path / name for name in ("text.wav", "empty.mp3", "silent.wav", "nothing.wav"))
    text.write_text("not sound " * 500)
    empty.touch()
    write_wav(silent, np.random.default_rng(0).normal(0, 1e-4, 16_000))
    write_wav(nothing, np.zeros(0))
    mute = write_clip(tmp_path / "mute.mp4", (numbered(index) for index in range(5)))
    for path in (text, empty, silent, nothing, mute, tmp_path, tmp_path / "missing.wav"):
        with pytest.raises(UnusableSpeech, match=path.name) as caught:
            read_speech(path)
        message = str(caught.value)
        assert "\n" not in message and message.endswith(".") and "Errno" not in message
    assert read_sound_or_none(mute) is None and read_sound_or_none(silent) is None


def test_a_recording_cut_short_is_refused(tmp_path):
    write_wav(tmp_path / "in.wav", babble(6.0))
    ffmpeg("-i", tmp_path / "in.wav", "-movflags", "+faststart", tmp_path / "whole.m4a")
    ffmpeg("-i", tmp_path / "in.wav", tmp_path / "whole.flac")
    for suffix in ("m4a", "flac"):
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[: len(data) // 2])
        with pytest.raises(UnusableSpeech, match="breaks off"):
            read_speech(cut)
    with pytest.raises(UnusableVideo):
        read_sound_or_none(tmp_path / "cut.m4a")


def test_a_playlist_reads_no_other_file(tmp_path):
    write_wav(tmp_path / "secret.wav", babble(1.0))
    (tmp_path / "list.wav").write_text("ffconcat version 1.0\nfile secret.wav\n")
    (tmp_path / "hls.wav").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n")
    for name in ("list.wav", "hls.wav"):
        with pytest.raises(UnusableSpeech, match="can't be read"):
            read_speech(tmp_path / name)


def test_mel_filters_are_those_of_librosa():
    librosa_filters = pytest.importorskip("librosa").filters
    np.testing.assert_allclose(mel_filters().numpy(), librosa_filters.mel(sr=16_000, n_fft=512, n_mels=80), atol=1e-8)


def test_log_mel_is_librosas():
    librosa = pytest.importorskip("librosa")
    speech = babble(1.5)
    power = librosa.feature.melspectrogram(y=speech, sr=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=80)
    np.testing.assert_allclose(log_mel(torch.from_numpy(speech)).numpy(), np.log(np.maximum(power, 1e-6)).T, atol=1e-3)


def test_log_mel_in_blocks_is_log_mel_at_once():
    long = torch.from_numpy(babble(130.0))  # more than two blocks
    middle = log_mel(long)[5900:6100]
    torch.testing.assert_close(middle[2:-2], log_mel(long[5900 * 160 : 6100 * 160])[2:-3], atol=1e-4, rtol=1e-4)
    assert log_mel(long).shape == (13_001, 80)


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 16_000, 16_001])
def test_four_mel_frames_to_a_video_frame(samples):
    assert frames_for(samples) == -(-Fraction(samples * 25, 16_000) // 1)
    waveform = torch.from_numpy(babble(2.0)[:samples])
    assert speech_to_mel(waveform).shape == (4 * frames_for(samples), 80)
    batch = speech_to_mel(torch.stack([waveform, 0.5 * waveform]))
    assert batch.shape == (2, 4 * frames_for(samples), 80) and batch.dtype == torch.float32
    torch.testing.assert_close(batch[0], speech_to_mel(waveform))


@pytest.mark.parametrize(("name", "frames"), [("preview.mp4", 125), ("grid_s1/bbaf2n.mp4", 75)])
def test_the_sound_of_a_real_clip_is_as_long_as_its_picture(name, frames):
    assert frames_for(len(read_speech(real_clip(name) if "/" in name else bundled_clip(name)))) == frames
