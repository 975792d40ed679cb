"""From uploaded clips to an avatar: track, cut, adapt the speaking style, train the head, measure, write."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from gmtalker.audio import read_sound_or_none, read_speech, silent_frames
from gmtalker.avatar import load_avatar, slug, workspace, write_avatar
from gmtalker.benchmark import SPEECH
from gmtalker.errors import UnusableVideo
from gmtalker.face_model import FaceModel, PersonFace
from gmtalker.full_frame import MOST_FRAMES as MOST_IDLE
from gmtalker.full_frame import write_idle_loop
from gmtalker.lip_guard import LipGuard
from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import WIDTHS, HeadGenerator
from gmtalker.models.loading import load_strict, save_half
from gmtalker.pipeline import GENERIC, GMTalkerPipeline, Performance
from gmtalker.renderer import Renderer
from gmtalker.tracks import EMOTIONS, FPS, EmotionWeights, FaceTrack
from gmtalker.video import read_frames
from personalize.avatar_card import write_card
from personalize.consent import Consent
from personalize.evaluation import image_measures
from personalize.head_training import FilmedPerson, HeadTraining, PixelWeights, sized, train_head
from personalize.informative import SPARE, choose_frames, sharpest
from personalize.jobs import FINISH_ASKED, HELD_OUT_SHARE, LONGEST_HELD_OUT, MOST_FRAMES, PRESETS, SAMPLE_ASKED, SIZES, WRAP_UP
from personalize.material import at_rest_in_silence
from personalize.moods import learn_moods
from personalize.pictures import TRAINING_CURVE, TRAINING_STRIP, write_progress
from personalize.style_training import SpokenFootage, adapt_style, in_time, sound_lag
from personalize.surroundings import learn_surroundings, steady_shoulders
from personalize.tracking import TrackedVideo, choose_crop, cut, detect_landmarks, in_crop, measure_person, track_points

STYLE_SHARE, LONGEST_STYLE = 0.2, 1.5  # part of the minutes that goes to the speaking style, and its most minutes
CHECKPOINT = "head.safetensors"
BATCH = 4
ANCHOR = 0.5  # how firmly the head of an emotion that was never shown is held to the generic EMN
MEASURED_FRAMES = 250
HEARD = 250  # frames of speech over which a neutral face is told from the generic one


@dataclass(frozen=True)
class Footage:
    """All clips of a person on one clock: frames (n, size, size, 3) uint8 are those listed in `kept`, of `track`'s length.

    features: (frames, d) of the speech, None where the clips hold none; speaks: (frames,) bool, where there is sound, silent:
    where nothing is said in it; emotion: (frames, 8); labels: (frames,) the number of the emotion that a clip was said to show,
    -1 where none was; held_out: (frames,) bool; begins: first frame of each clip.
    """

    face: PersonFace
    track: FaceTrack
    frames: np.ndarray
    kept: np.ndarray
    features: Tensor | None
    speaks: np.ndarray
    silent: np.ndarray
    emotion: Tensor
    labels: np.ndarray
    held_out: np.ndarray
    begins: list[int]
    seconds: float
    labelled: list[str]

    def spoken(self, guard: LipGuard) -> SpokenFootage:
        """What the speaking style may be learned from."""
        usable = self.speaks & self.track.found.numpy() & ~self.held_out
        coefficients = at_rest_in_silence(self.track.expression.coefficients, self.silent, guard)
        return SpokenFootage(coefficients, self.features, usable, self.emotion, self.begins)


def train_avatar(
    clips: Sequence[Path],
    name: str,
    consent: Consent,
    preset: str = "standard",
    minutes: float | None = None,
    emotions: Mapping[Path, str] | None = None,
    report: Callable[[dict], None] = lambda _: None,
    pipeline: GMTalkerPipeline | None = None,
    size: int = 256,
) -> Path:
    """Make the avatar `name` from video clips of one person; its folder in the workspace. The same call resumes.

    size: pixels of a side that the avatar is drawn at, one of SIZES.
    report: gets {"stage", "percent", "seconds_left", ...} of the whole. Nothing appears among the avatars until all is done.
    Errors: UnusableVideo and other UnusableInput, ValueError for an unknown preset or size or a missing consent.
    """
    if not isinstance(consent, Consent):
        raise ValueError("training needs the consent of the person")
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose from {', '.join(PRESETS)}")
    if size not in SIZES:
        raise ValueError(f"An avatar is drawn at {', '.join(map(str, SIZES))} pixels, not at {size}")
    minutes = PRESETS[preset] if minutes is None else minutes
    work = workspace() / "training" / slug(name)
    work.mkdir(parents=True, exist_ok=True)
    if not (work / CHECKPOINT).exists():
        for old in (TRAINING_STRIP, TRAINING_CURVE):  # of a training before this one
            (work / old).unlink(missing_ok=True)
    pipeline = pipeline or GMTalkerPipeline.from_pretrained()
    teller = StageTeller(report)
    with write_avatar(name, replace=True) as folder:
        footage = gather_footage([Path(clip) for clip in clips], emotions or {}, pipeline, work, minutes, size, teller)
        spoken = _in_time(footage.spoken(pipeline.lip_guard), pipeline, report)
        style_minutes = min(STYLE_SHARE * minutes, LONGEST_STYLE) if footage.speaks.sum() >= 3 * FPS else 0.0
        if style_minutes:
            teller.stage(
                "learning the speaking style", 10, 10 + 80 * style_minutes / minutes, 60 * (minutes - style_minutes) + WRAP_UP
            )
            adapt_style(spoken, pipeline, work, style_minutes, folder, teller)
        else:
            report({"message": "The clips hold no speech: the picture is trained, not the speaking style."})
        teller.stage("training the head", 10 + 80 * style_minutes / minutes, 92, WRAP_UP)
        training = train_person_head(footage, pipeline.face_model, work, minutes - style_minutes, teller)
        teller.stage("measuring", 92, 96)
        generator, mapping = training.best_networks(work / "best.safetensors")
        save_half(generator, folder / "head_generator")
        save_half(mapping, folder / "emotion_mapping")
        footage.face.save(folder / "face.safetensors")
        _keep_idle_loop(footage, Path(clips[0]), folder)
        learned = np.where(footage.held_out | ~footage.track.found.numpy(), -1, footage.labels)
        speech = footage.features[torch.from_numpy(footage.speaks)][:HEARD]
        if len(speech) < FPS:  # clips with a label are often silent
            speech = pipeline.encode(read_speech(SPEECH))[:HEARD]
        moods = learn_moods(pipeline.expression_generator, footage.track, learned, speech, pipeline.lip_guard)
        if moods is not None:
            moods.save(folder)
        _write_json(folder, name, consent, footage, {}, training, preset, minutes)
        measures = _measure(folder, footage, pipeline)
        _write_json(folder, name, consent, footage, measures, training, preset, minutes)
        teller.stage("pictures of the avatar", 96, 100)
        write_card(folder, pipeline)
    _clear(work)
    report(
        {"stage": "done", "percent": 100.0, "seconds_left": 0, **{f"held_out_{key}": value for key, value in measures.items()}}
    )
    return workspace() / "avatars" / slug(name)


def _clear(work: Path) -> None:
    """Away with everything of a finished training but the pictures of it, which its watcher may look at yet."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (TRAINING_STRIP, TRAINING_CURVE):
            path.unlink(missing_ok=True)


def _in_time(spoken: SpokenFootage, pipeline: GMTalkerPipeline, report: Callable[[dict], None]) -> SpokenFootage:
    """Sound and picture brought together, or the avatar's lips would be as late or early as those of the clips are."""
    lag = sound_lag(pipeline.expression_generator, spoken, pipeline.face_model)
    if abs(lag) >= 0.5:
        side = "late" if lag > 0 else "early"
        report({"message": f"The sound of the clips is {abs(1000 * lag / FPS):.0f} ms {side}; that is made good."})
    return in_time(spoken, lag)


class StageTeller:
    """Turns the percent of a stage into percent of the whole."""

    def __init__(self, report: Callable[[dict], None]):
        self.report, self.name, self.low, self.high, self.later = report, "", 0.0, 0.0, 0.0

    def stage(self, name: str, low: float, high: float, later: float = 0.0) -> None:
        """low and high: percent of the whole; later: seconds that the stages after this one will take."""
        self.name, self.low, self.high, self.later = name, low, high, later
        self({"percent": 0.0, "seconds_left": 0})

    def alive(self, **values) -> None:
        """A sign of life within a part whose length is not known."""
        self.report({**values, "stage": self.name})

    def __call__(self, values: dict) -> None:
        percent = self.low + (self.high - self.low) * values.get("percent", 0.0) / 100
        left = {"seconds_left": round(values["seconds_left"] + self.later)} if "seconds_left" in values else {}
        self.report({**values, "stage": self.name, "percent": round(percent, 1), **left})


def gather_footage(
    clips: list[Path],
    emotions: Mapping[Path, str],
    pipeline: GMTalkerPipeline,
    work: Path,
    minutes: float,
    size: int,
    teller: StageTeller,
) -> Footage:
    """Track every clip, cut the head, listen to the speech, name the emotions."""
    model = pipeline.face_model
    teller.stage("finding the face", 0, 6, 60 * minutes + WRAP_UP)
    videos = []
    for number, clip in enumerate(clips):
        teller({"percent": 100 * number / len(clips)})
        videos.append(_tracked(clip, work, lambda frame: frame % 50 or teller.alive(step=frame)))
    teller.stage("cutting the head", 6, 8, 60 * minutes + WRAP_UP)
    total = sum(len(video.points) for video in videos)
    if total < 2 * FPS:
        raise UnusableVideo("The clips are shorter than two seconds together. Please upload at least 20 seconds.")
    points, crops = [], []
    for video in videos:  # clips of one camera share a crop; its own where the picture has another size
        same = [other for other in videos if other.source_size == video.source_size]
        crop = choose_crop(np.concatenate([other.points for other in same]), *video.source_size)
        crops.append(crop)
        points.append(in_crop(video.points, crop, size))
    every, found = np.concatenate(points), np.concatenate([video.found for video in videos])
    most = MOST_FRAMES * 256**2 // size**2
    long = found.sum() > most
    keep = set(choose_frames(every, found, model, int(SPARE * most) if long else total).tolist())
    frames, kept, begins, begin = [], [], [], 0
    for clip, video, crop in zip(clips, videos, crops):
        begins.append(begin)
        for index, frame in zip(range(len(video.points)), read_frames(clip)):
            if begin + index in keep:
                frames.append(cut(frame, crop, size))
                kept.append(begin + index)
        begin += len(video.points)
        teller({"percent": 100 * begin / total})
    if long:
        sharp = sharpest(frames, most)
        frames, kept = [frames[place] for place in sharp], [kept[place] for place in sharp]
        teller.alive(
            message=f"The head learns from {len(kept)} of {total} frames: as many of each mouth shape, pose and look, and sharp."
        )
    calm = np.concatenate([np.full(len(video.points), emotions.get(clip) == "neutral") for clip, video in zip(clips, videos)])
    seen = np.isin(np.arange(total), kept)
    position = {index: place for place, index in enumerate(kept)}
    whole = np.array([0.0, 0.0, size])
    face = measure_person(model, every, whole, videos[0].source_size, lambda i: frames[position[i]], found & seen, calm, size)
    face = replace(face, crop=crops[0].astype(np.float32))
    track = model.track(every, face, size, found)
    held_out = np.zeros(total, bool)
    held_out[total - int(min(HELD_OUT_SHARE * total, LONGEST_HELD_OUT * FPS)) :] = True
    teller.stage("learning how hair and shoulders move", 8, 10, 60 * minutes + WRAP_UP)
    face, shoulders = learn_surroundings(
        face,
        frames,
        track.motion.stacked().numpy()[kept],
        ~held_out[kept],
        lambda frame: frame % 100 or teller({"percent": 100 * frame / len(frames)}),
    )
    between = [np.interp(np.arange(total), kept, column) for column in shoulders.T]
    steady = steady_shoulders(np.stack(between, axis=1))
    track = replace(track, shoulders=torch.tensor(steady, dtype=torch.float32))
    features, speaks, silence, emotion, labels, labelled = [], [], [], [], [], []
    for clip, video, first in zip(clips, videos, begins):
        part = slice(first, first + len(video.points))
        sound = read_sound_or_none(clip)
        heard = None if sound is None else pipeline.encode(sound)[: len(video.points)]
        label = emotions.get(clip)
        labels.append(np.full(len(video.points), -1 if label is None else EMOTIONS.index(label)))
        if label is not None:
            labelled.append(label)
            emotion.append(EmotionWeights.from_mapping({label: 1.0}).at(len(video.points)))
        else:
            emotion.append(pipeline.recognise(track[part], heard).weights)
        speaks.append(np.arange(len(video.points)) < (0 if heard is None else len(heard)))
        silence.append(np.zeros(len(video.points), bool) if sound is None else silent_frames(sound, len(video.points)))
        nothing = torch.zeros(len(video.points), pipeline.speech_encoder.features)
        if heard is not None:
            nothing[: len(heard)] = heard.cpu()
        features.append(nothing)
    return Footage(
        face,
        track,
        np.stack(frames),
        np.array(kept),
        torch.cat(features),
        np.concatenate(speaks),
        np.concatenate(silence),
        torch.cat(emotion).cpu(),
        np.concatenate(labels),
        held_out,
        begins,
        total / FPS,
        labelled,
    )


def _tracked(clip: Path, work: Path, progress: Callable[[int], None]) -> TrackedVideo:
    """The clip's points, kept in the work folder, so that resuming does not track again."""
    stat = clip.stat()
    name = hashlib.sha256(clip.name.encode()).hexdigest()[:16]  # not the name itself: it may be long, and of any signs
    path = work / f"points-{name}-{stat.st_size}-{int(stat.st_mtime)}.safetensors"
    if path.exists():
        stored = load_file(str(path))
        return TrackedVideo(stored["points"], stored["found"].astype(bool), tuple(int(side) for side in stored["size"]))
    video = track_points(clip, progress)
    unfinished = path.with_suffix(".part")
    save_file(
        {"points": video.points, "found": video.found.astype(np.uint8), "size": np.array(video.source_size)}, str(unfinished)
    )
    unfinished.replace(path)
    return video


def train_person_head(
    footage: Footage,
    model: FaceModel,
    work: Path,
    minutes: float,
    report: Callable[[dict], None],
    networks: tuple[HeadGenerator, EmotionMapping, Discriminator] | None = None,
) -> HeadTraining:
    """Head generator and EMN of one person; work keeps the checkpoint. networks: where to start, if not from the generic ones."""
    torch.manual_seed(0)
    size = footage.frames.shape[1]
    networks = networks or _generic_start(size)
    for network in networks:
        network.train().requires_grad_(True)
    shown = footage.emotion[~footage.held_out].mean(0)
    anchor = ANCHOR * (1 - (shown / 0.05).clamp(max=1))  # an emotion in a twentieth of the frames counts as shown
    training = HeadTraining(*networks, PixelWeights(model), learning_rate=7e-4, average=0.99, anchor=anchor)
    renderer = Renderer(model, footage.face, size)

    def person(places: np.ndarray) -> FilmedPerson:
        index = torch.from_numpy(footage.kept[places])
        return FilmedPerson(renderer, footage.frames[places], footage.track[index], footage.emotion[index].double().numpy())

    held = footage.held_out[footage.kept]
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    quick = test[np.linspace(0, len(test) - 1, min(len(test), 24)).astype(int)] if len(test) else test
    train_head(
        training,
        [person(train)],
        minutes=minutes,
        batch=BATCH,
        checkpoint=work / CHECKPOINT,
        held_out=[person(quick)] if len(quick) else [],
        report=report,
        checkpoint_seconds=max(15.0, min(60.0, minutes * 6)),
        best=work / "best.safetensors",
        shown=lambda real, drawn, curve: write_progress(work, real, drawn, curve),
        asked=lambda: _taken(work / SAMPLE_ASKED),
        stop=(work / FINISH_ASKED).exists,
    )
    return training


def _taken(sign: Path) -> bool:
    """Whether somebody left the sign; it is taken away."""
    try:
        sign.unlink()
    except OSError:
        return False
    return True


def _keep_idle_loop(footage: Footage, clip: Path, folder: Path) -> None:
    """The stretch of the first clip in which head, lips and shoulders move least, for videos in the full frame."""
    end = footage.begins[1] if len(footage.begins) > 1 else len(footage.track)
    count = min(MOST_IDLE, end)
    track = footage.track[torch.arange(end)]
    moving = torch.cat([10 * track.motion.rotation, track.expression.coefficients / 10, 50 * track.shoulders], dim=1).numpy()
    busy = np.abs(np.diff(moving, axis=0, prepend=moving[:1])).sum(1) + 10.0 * ~track.found.numpy()
    first = int(np.convolve(busy, np.ones(count), "valid").argmin())
    write_idle_loop(folder, clip, first, footage.face.crop, footage.track.shoulders[first : first + count].numpy())


def _generic_start(size: int) -> tuple[HeadGenerator, EmotionMapping, Discriminator]:
    """The generic networks that draw `size` pixels; where none were trained, those of the next smaller size as far as they go."""
    start = max(known for known in SIZES if known <= size and (GENERIC / sized("head_generator", known)).is_dir())
    generator = load_strict(HeadGenerator, GENERIC / sized("head_generator", start))
    if start != size:
        larger = HeadGenerator(size, widths=WIDTHS[size])
        larger.adopt(generator)
        generator = larger
    mapping = load_strict(EmotionMapping, GENERIC / sized("emotion_mapping", start))
    return generator, mapping, load_strict(Discriminator, GENERIC / sized("discriminator", start))


def _measure(folder: Path, footage: Footage, pipeline: GMTalkerPipeline) -> dict:
    """Image measures on the held-out frames, as the finished avatar draws them."""
    places = np.flatnonzero(footage.held_out[footage.kept])[:MEASURED_FRAMES]
    if not len(places):
        return {}
    index = torch.from_numpy(footage.kept[places])
    drawn = list(Performance(pipeline, load_avatar(folder), footage.track[index], EmotionWeights(footage.emotion[index]), None))
    real = list(footage.frames[places])
    measures = image_measures(real, drawn, detect_landmarks(real)[0])
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in measures.items()}


def _write_json(
    folder: Path,
    name: str,
    consent: Consent,
    footage: Footage,
    measures: dict,
    training: HeadTraining,
    preset: str,
    minutes: float,
) -> None:
    shown = footage.emotion[~footage.held_out].mean(0)
    card = {
        "name": name,
        "consent": {"who": consent.who, "when": consent.when, "words": consent.words},
        "source": {
            "seconds": round(footage.seconds, 2),
            "held_out_seconds": round(float(footage.held_out.sum()) / FPS, 2),
            "clips": len(footage.begins),
            "picture": [int(side) for side in footage.face.source_size],
            "face_found": round(float(footage.track.found.float().mean()), 4),
            "speech_seconds": round(float(footage.speaks.sum()) / FPS, 2),
            "labelled_emotions": sorted(set(footage.labelled)),
            "emotions_seen": {emotion: round(float(weight), 3) for emotion, weight in zip(EMOTIONS, shown)},
        },
        "training": {
            "preset": preset,
            "minutes": minutes,
            "head_steps": training.state.step,
            "best_second": training.state.quality()["seconds"] if training.state.curve else None,
            "quality_curve": [[round(point["seconds"]), round(point["psnr"], 2)] for point in training.state.curve],
        },
        "measures": measures,
        "versions": {
            "torch": importlib.metadata.version("torch"),
            "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        },
    }
    (folder / "avatar.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
