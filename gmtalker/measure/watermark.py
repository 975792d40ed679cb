"""Measure the marks of pictures and sound: what they survive and cost, whether one is found where none is: `bench --marks`."""

from __future__ import annotations

import subprocess
import tempfile
import time
import wave
from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from skimage.metrics import peak_signal_noise_ratio

from gmtalker.assets import SPEECHES
from gmtalker.avatars.consent import avatar_id
from gmtalker.avatars.storage import list_avatars
from gmtalker.clock import EMOTIONS, SAMPLE_RATE
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.media.audio import read_speech, stream_sound
from gmtalker.media.video import read_frames
from gmtalker.media.video_writer import VideoWriter
from gmtalker.performance import Performance
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import OnProgress, Progress, ignore_progress
from gmtalker.provenance.sound_mark import READ_SECONDS_MAX, find_sound_mark, marked_sound
from gmtalker.provenance.watermark import PAYLOAD, Watermark, coded_payload, find_mark
from gmtalker.request import SpeakRequest

VIDEOS, SECONDS = 20, 4  # that are marked, and of each
EVEN = "scale=trunc(iw/2)*2:trunc(ih/2)*2"
# What is done to each video, as options of ffmpeg.
ATTACKS = {
    "encoded again at crf 28": ["-crf", "28"],
    "half the size": ["-vf", f"scale=iw/2:ih/2,{EVEN}"],
    "a tenth cut off, left and top": ["-vf", f"crop=iw*0.9:ih*0.9:iw*0.1:ih*0.1,{EVEN}"],
    "a tenth cut off, right and bottom": ["-vf", f"crop=iw*0.9:ih*0.9:0:0,{EVEN}"],
    "a tenth cut off, around": ["-vf", f"crop=iw*0.9:ih*0.9,{EVEN}"],
}
CUT, AS_WRITTEN = "cut off", "as it is written"
SOUNDS, SOUND_SECONDS, SOUND_HERTZ = 20, 8, 48_000  # that are marked, of each what is attacked, and its rate
LENGTHS = (4, 6, 8, 12, 20)  # seconds of sound that is read after the attack of LENGTHS_ATTACK, in files of that length
LENGTHS_ATTACK = "AAC at 64 kbit/s"
# What is done to each sound: how the file's name ends, and the options of ffmpeg.
SOUND_ATTACKS = {
    LENGTHS_ATTACK: (".m4a", ["-c:a", "aac", "-b:a", "64k"]),
    "MP3 at 64 kbit/s": (".mp3", ["-c:a", "libmp3lame", "-b:a", "64k"]),
    "MP3 at 128 kbit/s": (".mp3", ["-c:a", "libmp3lame", "-b:a", "128k"]),
    "at 16 kHz and back": (".wav", ["-af", "aresample=16000,aresample=48000"]),
    "at 44.1 kHz and back": (".wav", ["-af", "aresample=44100,aresample=48000"]),
    "half as loud": (".wav", ["-af", "volume=0.5"]),
    "1.2 s cut off at the start": (".wav", ["-af", "atrim=start=1.2345,asetpts=PTS-STARTPTS"]),
}


def measure_mark(pipeline: GMTalkerPipeline, clips: Sequence[Path], on_progress: OnProgress = ignore_progress) -> dict:
    """Measure the watermark on videos of all avatars at hand, each with its own speech, emotion and seed.

    clips: real videos without a mark.
    Returns: "wrong_bits_of_64", of payload and check after correction, by attack, alone and two in turn, and of how many the
        mark is not even found where its payload is known, as that of every avatar at hand is to `verify`;
        "real_clips_said_to_be_marked", false positives; "psnr_beside_the_unmarked", of marked against unmarked frames in dB;
        "cpu_ms_a_frame", CPU milliseconds per frame that marking takes.
    Errors: UnusableVideo for a clip that can't be read.
    Source: docs/method.md section 13.
    """
    entries = list_avatars()
    found, quality, seconds, frames = _Read(), [], 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(VIDEOS):
            entry, emotion = entries[number % len(entries)], EMOTIONS[number % len(EMOTIONS)]
            on_progress(Progress(f"marking {entry.name}, {emotion}", number, VIDEOS))
            performance = _perform(pipeline, entry.folder, emotion, number)
            payload, plain = bytes.fromhex(avatar_id(performance.avatar.card)), list(performance)
            mark, began = Watermark(payload), time.process_time()
            marked = [mark(frame) for frame in plain]
            seconds, frames = seconds + time.process_time() - began, frames + len(plain)
            quality.append(float(peak_signal_noise_ratio(np.stack(plain), np.stack(marked), data_range=255)))
            found.attack(_write(marked, Path(folder) / "written.mp4"), payload)
    alarms, known = [], [bytes.fromhex(avatar_id(entry.card)) for entry in entries]
    for number, clip in enumerate(clips):
        on_progress(Progress(f"reading {clip.name}", number, len(clips)))
        alarms.append(find_mark(read_frames(clip), known) is not None)
    return {
        "outputs": VIDEOS,
        "avatars": [entry.name for entry in entries],
        "wrong_bits_of_64": found.figures(),
        "real_clips": len(alarms),
        "real_clips_said_to_be_marked": sum(alarms),
        "psnr_beside_the_unmarked": {"least": round(min(quality), 2), "mean": round(float(np.mean(quality)), 2)},
        "cpu_ms_a_frame": round(1000 * seconds / frames, 3),
    }


class _Read:
    """How the mark is read after each attack, alone and two in turn, in either order."""

    def __init__(self) -> None:
        pairs = (pair for pair in permutations(ATTACKS, 2) if not all(CUT in name for name in pair))
        self.attacks = [(), *combinations(ATTACKS, 1), *pairs]
        self.wrong: dict[str, list[int]] = {", then ".join(attack) or AS_WRITTEN: [] for attack in self.attacks}
        self.missed = dict.fromkeys(self.wrong, 0)

    def attack(self, video: Path, payload: bytes) -> None:
        """Read one marked video after all of them."""
        for name, attack in zip(self.wrong, self.attacks, strict=True):
            attacked = _attacked(video, attack)
            self.wrong[name].append(_wrong_bits(payload, attacked))
            if self.wrong[name][-1]:
                self.missed[name] += find_mark(read_frames(attacked), [payload]) != payload

    def figures(self) -> dict[str, dict[str, int]]:
        """Of each attack: the most wrong bits, videos with any, and videos whose mark is not found even where it is known."""
        return {
            name: {"most": max(bits), "videos_with_any": sum(map(bool, bits)), "missed_though_known": self.missed[name]}
            for name, bits in self.wrong.items()
        }


def measure_sound_mark(clips: Sequence[Path], on_progress: OnProgress = ignore_progress) -> dict:
    """Measure the mark in sound: on the clips that have enough of it, and on the bundled speeches.

    clips: real videos or sounds without a mark.
    Returns: "wrong_of_sounds", sounds of SOUND_SECONDS whose mark is not read after what was done to them, alone and two at a
        time; "wrong_by_seconds", [wrong, sounds] by length, after LENGTHS_ATTACK; "real_sounds_said_to_be_marked", false
        positives; "decibels_below_the_sound", of what marking adds; "cpu_ms_a_second_of_sound", CPU milliseconds of marking and
        of reading.
    Errors: UnusableVideo for a clip that can't be read.
    Source: docs/method.md section 13.
    """
    attacks = [(), *combinations(SOUND_ATTACKS, 1), *combinations(SOUND_ATTACKS, 2)]
    wrong = {" and ".join(attack) or AS_WRITTEN: 0 for attack in attacks}
    lengths = {seconds: [0, 0] for seconds in LENGTHS}
    sounds, alarms, reading = _unmarked(clips, on_progress)
    below, spent, marked_seconds = [], 0.0, 0.0
    for number, sound in enumerate(sounds):
        on_progress(Progress("marking a sound", number, len(sounds)))
        payload, began = np.random.default_rng(number).bytes(PAYLOAD), time.process_time()
        marked = marked_sound(sound, SOUND_HERTZ, payload)
        spent, marked_seconds = spent + time.process_time() - began, marked_seconds + len(sound) / SOUND_HERTZ
        below.append(float(10 * np.log10(np.square(sound).sum() / np.square(marked - sound).sum())))
        for name, attack in zip(wrong, attacks, strict=True):
            wrong[name] += _read_after(attack, marked[: SOUND_SECONDS * SOUND_HERTZ]) != payload
        for seconds in (seconds for seconds in LENGTHS if len(marked) >= seconds * SOUND_HERTZ):
            lengths[seconds][0] += _read_after((LENGTHS_ATTACK,), marked[: seconds * SOUND_HERTZ]) != payload
            lengths[seconds][1] += 1
    return {
        "sounds": len(sounds),
        "wrong_of_sounds": wrong,
        "wrong_by_seconds": lengths,
        "real_sounds": len(alarms),
        "real_sounds_said_to_be_marked": sum(alarms),
        "decibels_below_the_sound": {"least": round(min(below), 2), "mean": round(float(np.mean(below)), 2)},
        "cpu_ms_a_second_of_sound": {"marking": round(1000 * spent / marked_seconds, 2), "reading": round(1000 * reading, 2)},
    }


def _unmarked(clips: Sequence[Path], on_progress: OnProgress) -> tuple[list[np.ndarray], list[bool], float]:
    """SOUNDS sounds to mark, clips first; for each clip with sound whether a mark is found; CPU seconds a second of reading."""
    sounds: list[np.ndarray] = []
    alarms, spent, heard = [], 0.0, 0.0
    for number, clip in enumerate(clips):
        on_progress(Progress(f"reading the sound of {clip.name}", number, len(clips)))
        pieces = list(stream_sound(clip, UnusableVideo, SOUND_HERTZ))
        if not pieces:
            continue
        sound, began = np.concatenate(pieces), time.process_time()
        alarms.append(find_sound_mark(sound, SOUND_HERTZ) is not None)
        spent, heard = spent + time.process_time() - began, heard + min(len(sound) / SOUND_HERTZ, READ_SECONDS_MAX)
        if len(sound) >= SOUND_SECONDS * SOUND_HERTZ and len(sounds) < SOUNDS:
            sounds.append(sound[: max(LENGTHS) * SOUND_HERTZ])
    speeches = [piece for path in sorted(SPEECHES.glob("*.flac")) for piece in stream_sound(path, UnusableVideo, SOUND_HERTZ)]
    for number in range(SOUNDS - len(sounds)):
        sounds.append(np.roll(np.concatenate(speeches), -number * SOUND_HERTZ)[: max(LENGTHS) * SOUND_HERTZ])
    return sounds, alarms, spent / max(heard, 1e-9)


def _read_after(attacks: Sequence[str], sound: np.ndarray) -> bytes | None:
    """The mark that is read from a sound (samples,) at SOUND_HERTZ, written with 16 bits, after these SOUND_ATTACKS in turn."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SOUND_HERTZ)
            file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
        for number, attack in enumerate(attacks):
            ending, options = SOUND_ATTACKS[attack]
            path = _changed(path, path.with_name(f"{number}{ending}"), options, "sound")
        return find_sound_mark(np.concatenate(list(stream_sound(path, UnusableVideo, SOUND_HERTZ))), SOUND_HERTZ)


def _perform(pipeline: GMTalkerPipeline, avatar: Path, emotion: str, number: int) -> Performance:
    """Some seconds of a speech by an avatar; number picks the speech, where it starts, and the seed."""
    speeches = sorted(SPEECHES.glob("*.flac"))
    request = SpeakRequest(speeches[number % len(speeches)], avatar, {emotion: 0.8}, seed=number)
    return pipeline.perform(request, read_speech(request.speech)[number * 1000 :][: SECONDS * SAMPLE_RATE])


def _write(frames: Sequence[np.ndarray], path: Path) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def _attacked(video: Path, attacks: Sequence[str]) -> Path:
    """A copy of a video after these ATTACKS in turn; the video itself without any."""
    for number, attack in enumerate(attacks):
        video = _changed(video, video.with_name(f"attacked-{number}.mp4"), [*ATTACKS[attack], "-pix_fmt", "yuv420p"], "video")
    return video


def _changed(path: Path, changed: Path, options: Sequence[str], kind: str) -> Path:
    """A copy of a file after ffmpeg with these options; kind is the word for it in the error."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", "-i", str(path), *options, str(changed)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise UnusableInput(f"ffmpeg can't change the {kind} ({done.stderr.decode(errors='replace').strip()[:200]}).")
    return changed


def _wrong_bits(payload: bytes, video: Path) -> int:
    """Of the 64 of payload and check, as they are read from a video; all of them where no mark is found."""
    found = find_mark(read_frames(video))
    if found is None:
        return 64
    differ = np.frombuffer(coded_payload(payload), np.uint8) ^ np.frombuffer(coded_payload(found), np.uint8)
    return int(np.unpackbits(differ).sum())
