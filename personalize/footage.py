"""From clips to footage in five steps: track, crop, choose frames, measure the person, encode speech and emotion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from gmtalker.clock import EMOTIONS, FPS
from gmtalker.errors import UnusableVideo
from gmtalker.face.alignment import aligned, context_flow_of_renderings
from gmtalker.face.context_motion import ContextFlow, steady_shoulders
from gmtalker.face.lip_guard import LipGuard, as_spoken
from gmtalker.face.model import FaceModel
from gmtalker.face.person import PersonFace
from gmtalker.face.segmentation import person_segmentation
from gmtalker.face.tracking import TrackedVideo, choose_crop, cut, face_heights, in_crop, measure_person, track_points
from gmtalker.files import whole_file
from gmtalker.media.audio import read_sound_or_none, silent_frames
from gmtalker.media.video import read_frames
from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.progress import Progress
from gmtalker.tracks import EmotionWeights, FaceTrack
from personalize.frame_selection import SPARE_SHARE, choose_frames, sharpest
from personalize.looks import LookPicture, first_clips, longest_look, looks_of
from personalize.progress import WRAP_UP, TrainingProgress
from personalize.request import HELD_OUT_SECONDS_MAX, HELD_OUT_SHARE, TRAINING_FRAMES_MAX, TrainRequest, size_for
from personalize.sound_sync import SpokenFootage

ALIGNMENTS = 2  # of the track with the pictures, each after a fit of hair and shoulders to the one before
MATTES_MAX, MATTE_EVERY = 1500, 2  # of the frames, and frames from one to the next at least


@dataclass(frozen=True)
class Footage:
    """All clips of a person, one after another, those with the avatar's look first.

    clips: their files.
    turns: quarter turns to the left that make the first one upright.
    face: the person's face, measured over all clips.
    track: (frames,) of the face.
    frames: (n, size, size, 3) uint8 RGB, the cropped frames that the head learns from.
    frame_numbers: (n,) which frames of the track those are.
    frame_track: (n,) what the face does in them, aligned with the pictures.
    mattes: (size, size) uint8 of some of the n, by place: 255 for the person.
    features: (frames, d) of the speech, zeros where there is no sound.
    speaks: (frames,) bool, where there is sound.
    silent: (frames,) bool, where there is sound but nobody speaks.
    emotion: (frames, 8) weights, as labelled or recognised.
    labels: (frames,) the number of the emotion that a clip was labelled with, -1 for none.
    held_out: (frames,) bool, never trained on.
    clip_starts: first frame of each clip.
    """

    clips: Sequence[Path]
    turns: int
    face: PersonFace
    track: FaceTrack
    frames: np.ndarray
    frame_numbers: np.ndarray
    frame_track: FaceTrack
    mattes: Mapping[int, np.ndarray]
    features: Tensor
    speaks: np.ndarray
    silent: np.ndarray
    emotion: Tensor
    labels: np.ndarray
    held_out: np.ndarray
    clip_starts: list[int]

    @property
    def seconds(self) -> float:
        """Length of all clips together."""
        return len(self.track) / FPS

    def spoken(self, guard: LipGuard) -> SpokenFootage:
        """What the speaking style may be learned from, with closed lips where nobody speaks."""
        usable = self.speaks & self.track.found.numpy() & ~self.held_out
        coefficients = as_spoken(self.track.expression.coefficients, self.silent, guard, self.features[:, -ARTICULATION_DIM:])
        return SpokenFootage(coefficients, self.features, usable, self.emotion, self.clip_starts)


@dataclass(frozen=True)
class _Tracked:
    """Steps 1 and 2: the points of every clip, and its crop; those with the avatar's look come first.

    in_look: how many clips have it: the picture is learned from them.
    crops: (3,) left, top and side of each clip's.
    points: (frames, 478, 3) of all clips, in pixels of the crop at `size`.
    found: (frames,) bool.
    """

    clips: Sequence[Path]
    in_look: int
    videos: list[TrackedVideo]
    crops: list[np.ndarray]
    points: np.ndarray
    found: np.ndarray
    size: int

    @property
    def clip_starts(self) -> list[int]:
        """First frame of each clip."""
        return np.cumsum([0, *(len(video.points) for video in self.videos)])[:-1].tolist()

    @property
    def frames_in_look(self) -> int:
        """How many frames the clips with the avatar's look have."""
        return sum(len(video.points) for video in self.videos[: self.in_look])

    def __len__(self) -> int:
        return len(self.found)


@dataclass(frozen=True)
class _Chosen:
    """Step 3: the frames that the head learns from, each (size, size, 3) uint8, and their numbers (n,) in the track."""

    frames: list[np.ndarray]
    frame_numbers: np.ndarray


@dataclass(frozen=True)
class _Measured:
    """Step 4: the face, its track with shoulders, that of the chosen frames, and which frames are never trained on."""

    face: PersonFace
    track: FaceTrack
    frame_track: FaceTrack
    held_out: np.ndarray


@dataclass(frozen=True)
class _Heard:
    """Step 5: speech and emotion of each frame, as in Footage."""

    features: Tensor
    speaks: np.ndarray
    silent: np.ndarray
    emotion: Tensor
    labels: np.ndarray


def gather_footage(request: TrainRequest, pipeline: GMTalkerPipeline, work: Path, progress: TrainingProgress) -> Footage:
    """Track every clip, crop the head, choose frames, measure the person, listen to the speech.

    pipeline: its face model, speech encoder and expression generator are used.
    work: folder that keeps the points, so that resuming does not track again.
    Errors: UnusableVideo when a clip can't be read or shows no face, or all are shorter than two seconds together.
    """
    later = 60 * request.training_minutes + WRAP_UP
    progress.stage("finding the face", 0, 6, later)
    tracked = _track(request, work, progress)
    progress.stage("cropping the head", 6, 8, later)
    chosen = _choose(tracked, pipeline.face_model, progress)
    mattes = _outline(chosen.frames, progress)
    progress.stage("learning how hair and shoulders move", 8, 10, later)
    measured = _measure(tracked, chosen, mattes, request.emotions, pipeline.face_model, progress)
    heard = _listen(tracked, measured.track, request.emotions, pipeline)
    return Footage(
        clips=tracked.clips,
        turns=tracked.videos[0].turns,
        face=measured.face,
        track=measured.track,
        frame_track=measured.frame_track,
        frames=np.stack(chosen.frames),
        frame_numbers=chosen.frame_numbers,
        mattes=mattes,
        held_out=measured.held_out,
        clip_starts=tracked.clip_starts,
        **vars(heard),
    )


def _track(request: TrainRequest, work: Path, progress: TrainingProgress) -> _Tracked:
    videos = []
    for number, clip in enumerate(request.clips):
        progress(Progress(done=number, total=len(request.clips)))
        videos.append(_stored_points(clip, work, lambda frame: frame % 50 or progress.alive(step=frame)))
    if sum(len(video.points) for video in videos) < 2 * FPS:
        raise UnusableVideo("The clips are shorter than two seconds together. Please upload at least 20 seconds.")
    looks = looks_of([_look(clip, video) for clip, video in zip(request.clips, videos)])
    first = _first_in_look(request, looks, videos, progress)
    order = np.argsort(looks != looks[first], kind="stable").tolist()  # the avatar's look before the others
    clips, videos, looks = [request.clips[place] for place in order], [videos[place] for place in order], looks[order]
    found = np.concatenate([video.found for video in videos])
    in_look = int((looks == looks[0]).sum())
    seen = np.concatenate([video.points[video.found] for video in videos[:in_look]])
    size = _size(request, seen, progress)
    points, crops = [], []
    for video, look in zip(videos, looks):  # clips of one camera share a crop; its own where picture or place are others
        same = [other for other, its in zip(videos, looks) if other.source_size == video.source_size and its == look]
        crop = choose_crop(np.concatenate([other.points for other in same]), *video.source_size)
        crops.append(crop)
        points.append(in_crop(video.points, crop, size))
    return _Tracked(clips, in_look, videos, crops, np.concatenate(points), found, size)


def _look(clip: Path, video: TrackedVideo) -> LookPicture:
    """That of the first frame with a face."""
    first = int(video.found.argmax())
    return LookPicture.of(next(islice(read_frames(clip, turns=video.turns), first, None)), video.points[first])


def _first_in_look(request: TrainRequest, looks: np.ndarray, videos: Sequence[TrackedVideo], progress: TrainingProgress) -> int:
    """The number of the first clip with the look that the avatar gets: the requested one, or that of most frames.

    Errors: UnusableVideo when there is too little of it.
    """
    seen = [int(video.found.sum()) for video in videos]
    chosen = longest_look(looks, seen) if request.look is None else looks[request.clips.index(request.look)]
    first = first_clips(looks)[chosen]
    name, count = request.clips[first].name, int((looks == chosen).sum())
    if sum(frames for frames, look in zip(seen, looks) if look == chosen) < 2 * FPS:
        raise UnusableVideo(
            f"Clips that look like {name} show less than two seconds of the face. Please upload at least 20 seconds."
        )
    if looks.any():
        which = f"{name} alone" if count == 1 else f"the {count} clips that look like {name}"
        progress.alive(
            f"The clips show {looks.max() + 1} looks (rooms, clothes or light): the picture is learned from {which}, "
            "voice and movement from all. You may ask for another look."
        )
    return first


def _size(request: TrainRequest, points: np.ndarray, progress: TrainingProgress) -> int:
    """The side of the avatar's picture: the requested one, or what the face in points (frames, 478, 3) allows."""
    if request.size is not None:
        return request.size
    height = float(np.median(face_heights(points)))
    size = size_for(height, request.training_minutes)
    progress.alive(f"The face is {height:.0f} pixels high: the avatar is drawn at {size} pixels.")
    return size


def _choose(tracked: _Tracked, model: FaceModel, progress: TrainingProgress) -> _Chosen:
    """All frames, or of long footage as many as fit in memory, with as many of each appearance and the sharp ones."""
    total, most = tracked.frames_in_look, TRAINING_FRAMES_MAX * 256**2 // tracked.size**2
    points, found = tracked.points[:total], tracked.found[:total]
    is_long = found.sum() > most
    wanted = set(choose_frames(points, found, model, int(SPARE_SHARE * most) if is_long else total).tolist())
    frames, numbers = [], []
    in_look = slice(tracked.in_look)
    for clip, video, crop, first in zip(tracked.clips[in_look], tracked.videos, tracked.crops, tracked.clip_starts):
        for index, frame in zip(range(len(video.points)), read_frames(clip, turns=video.turns)):
            if first + index in wanted:
                frames.append(cut(frame, crop, tracked.size))
                numbers.append(first + index)
        progress(Progress(done=first + len(video.points), total=total))
    if is_long:
        sharp = sharpest(frames, most)
        frames, numbers = [frames[place] for place in sharp], [numbers[place] for place in sharp]
        progress.alive(
            f"The head learns from {len(frames)} of {total} frames: the sharpest of every mouth shape, head turn and gaze."
        )
    return _Chosen(frames, np.array(numbers))


def held_out_frames(clip_starts: Sequence[int], total: int) -> np.ndarray:
    """(total,) bool, which frames are never trained on: the end of every clip, as each may show what no other does.

    clip_starts: first frame of each clip.
    """
    share = min(HELD_OUT_SHARE, HELD_OUT_SECONDS_MAX * FPS / total)
    held_out = np.zeros(total, bool)
    for begin, end in pairwise([*clip_starts, total]):
        held_out[end - int(round(share * (end - begin), 6)) : end] = True
    return held_out


def _outline(frames: Sequence[np.ndarray], progress: TrainingProgress) -> dict[int, np.ndarray]:
    """Mattes of some frames, by place; a person's outline is a smooth thing, and neighbours look alike."""
    mattes = {}
    with person_segmentation() as segment:
        for place in np.linspace(0, len(frames) - 1, min(MATTES_MAX, -(-len(frames) // MATTE_EVERY))).astype(int).tolist():
            mattes[place] = segment(frames[place])
            if len(mattes) % 50 == 0:
                progress.alive(step=place)
    return mattes


def _measure(
    tracked: _Tracked,
    chosen: _Chosen,
    mattes: Mapping[int, np.ndarray],
    emotions: Mapping[Path, str],
    model: FaceModel,
    progress: TrainingProgress,
) -> _Measured:
    """The person's face and track, and how hair, shoulders and background move with the head."""
    total, size, numbers = len(tracked), tracked.size, chosen.frame_numbers
    clips = zip(tracked.clips, tracked.videos)
    neutral = np.concatenate([np.full(len(video.points), emotions.get(clip) == "neutral") for clip, video in clips])
    usable = tracked.found & np.isin(np.arange(total), numbers)
    place_of = {number: place for place, number in enumerate(numbers)}
    face = measure_person(
        model,
        tracked.points,
        np.array([0.0, 0.0, size]),
        tracked.videos[0].source_size,
        lambda number: chosen.frames[place_of[number]],
        usable,
        neutral,
        size,
    )
    face = replace(face, crop=tracked.crops[0].astype(np.float32))
    track = model.track(tracked.points, face, size, tracked.found)
    held_out = held_out_frames(tracked.clip_starts, total)
    frames = len(chosen.frames)
    flow = ContextFlow.measured(
        face, chosen.frames, ~held_out[numbers], lambda frame: frame % 100 or progress(Progress(done=frame, total=frames))
    )
    filmed = replace(track[torch.from_numpy(numbers)], shoulders=torch.from_numpy(flow.shoulders))
    face, filmed = _fit_context(model, face, chosen, mattes, flow, filmed, progress)
    interpolated = [np.interp(np.arange(total), numbers, column) for column in filmed.shoulders.numpy().T]
    steady = steady_shoulders(np.stack(interpolated, axis=1))
    track = replace(track, shoulders=torch.tensor(steady, dtype=torch.float32))
    return _Measured(face, track, filmed, held_out)


def _fit_context(
    model: FaceModel,
    face: PersonFace,
    chosen: _Chosen,
    mattes: Mapping[int, np.ndarray],
    flow: ContextFlow,
    filmed: FaceTrack,
    progress: TrainingProgress,
) -> tuple[PersonFace, FaceTrack]:
    """The face with its context motion, and the track of the chosen frames aligned with them: each needs the other.

    flow, filmed: of the chosen frames, as tracked.
    """
    person = np.max(list(mattes.values()), axis=0) > 127

    def fitted() -> PersonFace:
        return flow.fitted(face, filmed.motion.stacked().numpy(), filmed.shoulders.numpy(), person)

    for number in range(ALIGNMENTS):
        face = fitted()
        if number:
            flow = context_flow_of_renderings(model, face, chosen.frames, filmed, flow)
            face = fitted()
        filmed = aligned(model, face, chosen.frames, filmed, lambda frame: frame % 100 or progress.alive(step=frame))
    return face, filmed


def _listen(tracked: _Tracked, track: FaceTrack, emotions: Mapping[Path, str], pipeline: GMTalkerPipeline) -> _Heard:
    """Speech features, and emotion weights: the clip's label, or what the expression generator's encoder recognises."""
    parts = []
    for clip, video, first in zip(tracked.clips, tracked.videos, tracked.clip_starts):
        count, sound, label = len(video.points), read_sound_or_none(clip), emotions.get(clip)
        speech = None if sound is None else pipeline.encode(sound)[:count]
        if label is None:
            emotion = pipeline.recognise(track[first : first + count], speech).weights
        else:
            emotion = EmotionWeights.from_mapping({label: 1.0}).at(count)
        features = torch.zeros(count, pipeline.speech_encoder.feature_dim)
        if speech is not None:
            features[: len(speech)] = speech.cpu()
        speaks = np.arange(count) < (0 if speech is None else len(speech))
        silent = np.zeros(count, bool) if sound is None else silent_frames(sound, count)
        parts.append((features, speaks, silent, emotion.cpu(), np.full(count, -1 if label is None else EMOTIONS.index(label))))
    features, speaks, silent, emotion, labels = zip(*parts)
    return _Heard(torch.cat(features), np.concatenate(speaks), np.concatenate(silent), torch.cat(emotion), np.concatenate(labels))


def _stored_points(clip: Path, work: Path, on_frame: Callable[[int], None]) -> TrackedVideo:
    """The points of a clip, kept in the work folder."""
    stat = clip.stat()
    name = hashlib.sha256(clip.name.encode()).hexdigest()[:16]  # not the name itself: it may be long, and of any characters
    path = work / f"points-{name}-{stat.st_size}-{int(stat.st_mtime)}.safetensors"
    if path.exists():
        stored = load_file(str(path))
        size = tuple(int(side) for side in stored["size"])
        return TrackedVideo(stored["points"], stored["found"].astype(bool), size, int(stored.get("turns", 0)))
    video = track_points(clip, on_frame)
    stored = {"points": video.points, "found": video.found.astype(np.uint8)}
    stored |= {"size": np.array(video.source_size), "turns": np.array(video.turns)}
    with whole_file(path) as unfinished:
        save_file(stored, str(unfinished))
    return video
