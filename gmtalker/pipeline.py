"""Speech, emotion and an avatar in; frames, tracks and a video out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gmtalker.avatars.avatar import Avatar
from gmtalker.clock import SAMPLES_PER_FRAME
from gmtalker.device import choose_device, is_half_fast, one_core, usable_cores
from gmtalker.face.lip_guard import LipGuard
from gmtalker.files import whole_file
from gmtalker.media.audio import read_speech, silent_frames
from gmtalker.media.full_frame import IdleLoop
from gmtalker.media.video_writer import VideoWriter
from gmtalker.provenance.credentials import Seal
from gmtalker.tracks import EmotionWeights, ExpressionTrack, FaceTrack, MotionTrack

if TYPE_CHECKING:
    pass
from gmtalker.avatars.ready import AvatarLike, ReadyAvatars
from gmtalker.progress import OnProgress, Watcher
from gmtalker.request import SpeakRequest, request_file
from gmtalker.stages import GenericStages, HubOptions, load_stages, push_stages, save_stages

BATCH = 8  # frames the head generator draws at a time; fixed, because other batches round differently
GPU_WORKERS = 2  # one renders while the other keeps the GPU busy
TEMPERATURE = 1.0
RECOGNISED = 100  # frames in which an emotion is recognised: about the length of the clips GMEG learns from
LOWEST_LID = 0.8  # a lid that rests lower is shut
STILL_FRAMES = 12  # of silence before the still: the expression settles from its start


class Performance:
    """A talking video that is drawn while it is iterated: frames (height, width, 3) uint8 RGB, 25 a second.

    track: what the face does; weights: the emotion; speech: (samples,) 16 kHz, or None; idle: the footage to stand in, if any.
    Iterating again draws the same frames.
    """

    def __init__(
        self,
        pipeline: GMTalkerPipeline,
        avatar: Avatar,
        track: FaceTrack,
        weights: EmotionWeights,
        speech: np.ndarray | None,
        idle: IdleLoop | None = None,
    ) -> None:
        self.pipeline, self.avatar, self.track, self.weights, self.speech = pipeline, avatar, track, weights, speech
        self.idle = idle

    def __len__(self) -> int:
        return len(self.track)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.idle is None:
            return self.pipeline.draw(self.track, self.avatar, self.weights)
        return self._in_footage(self.idle)

    def _in_footage(self, idle: IdleLoop) -> Iterator[np.ndarray]:
        places = idle.places(len(self))
        track = replace(self.track, shoulders=idle.shoulders[torch.from_numpy(places)])
        frames = self.pipeline.draw(track, self.avatar, self.weights)
        try:
            for place, frame in zip(places, frames):
                yield idle.around(frame, place)
        finally:
            frames.close()


class GMTalkerPipeline:
    """The generic stages, loaded once and shared by all avatars; safe to use from several threads."""

    def __init__(self, stages: GenericStages, device: str | torch.device | None = None) -> None:
        """device: None is the best at hand."""
        self.device, self.card = choose_device(device), stages.card
        self.speech_encoder = stages.speech_encoder.eval().to(self.device)
        self.expression_generator = stages.expression_generator.eval().to(self.device)
        self.motion_generator = stages.motion_generator.eval().to(self.device)
        self.face_model, self.lip_guard = stages.face_model, LipGuard(stages.face_model)
        self.draws_in_half = is_half_fast(self.device)
        self.avatars = ReadyAvatars(self.expression_generator, self.face_model, self.device)

    @property
    def stages(self) -> GenericStages:
        """The stages that this pipeline runs."""
        return GenericStages(self.speech_encoder, self.expression_generator, self.motion_generator, self.face_model, self.card)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        device: str | torch.device | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> GMTalkerPipeline:
        """Load the stages (load_stages) onto a device.

        folder: None is what is bundled, a folder is used as it is, "owner/name" is fetched from the Hub.
        device: "cpu", "cuda" or "mps"; None is the best at hand.
        revision, token, cache_dir, local_files_only: of the Hub, as everywhere in huggingface_hub.
        Errors: UnusableInput, UnusableAvatar as load_stages; ValueError for a device that is not there.
        """
        return cls(load_stages(folder, HubOptions(revision, token, cache_dir, local_files_only)), device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the stages into a folder, as from_pretrained reads them. Errors: OSError when it can't be written."""
        save_stages(self.stages, Path(folder))

    def push_to_hub(self, repo: str, private: bool = True, token: str | None = None) -> str:
        """Push the stages and their card into a model repo (push_stages). Returns its address.

        Errors: UnusableInput when the Hub does not take them; then nothing there has changed.
        """
        return push_stages(self.stages, repo, private, token)

    # --- Stage by stage --------------------------------------------------------------------------------------------------------

    @one_core()
    def encode(self, waveform: np.ndarray | Tensor) -> Tensor:
        """Speech (samples,) at 16 kHz -> features (frames, d), one row a video frame."""
        return self.speech_encoder.encode(torch.as_tensor(waveform, dtype=torch.float32, device=self.device))

    @torch.no_grad()
    @one_core()
    def expression(
        self,
        features: Tensor,
        weights: EmotionWeights,
        avatar: AvatarLike,
        seed: int = 0,
        on_frame: Callable[[int], None] | None = None,
        silent: np.ndarray | None = None,
        exaggeration: float = 1.0,
    ) -> ExpressionTrack:
        """What the face says and feels, in the avatar's speaking style. on_frame is called with the number of finished frames.

        exaggeration: how many times as far as people's the mood takes the face from neutral.

        A mood is made beside the same speech without it, so that the lips still close and round where they must; where nothing
        is said, silent (frames,), they are still.
        """
        ready = self.avatars.get(avatar)
        generator = ready.expression_generator
        asked = weights.at(len(features)).to(self.device)
        neutral = torch.eye(asked.shape[1], device=self.device)[:1].expand_as(asked)
        ways = [asked] if torch.equal(asked, neutral) else [asked, neutral]
        latents = torch.stack([generator.latent(way, seed=seed, temperature=TEMPERATURE) for way in ways])
        own = torch.zeros(asked.shape[1], 1) if ready.avatar.emotion_offsets is None else ready.avatar.emotion_offsets.expression
        moods = torch.stack([way.cpu() @ own for way in ways])
        made = torch.empty(len(asked), generator.config.coefficients)  # a list of small tensors takes ten times that
        spoken = torch.empty_like(made)
        for frame, said in enumerate(generator.stream_conditions(features, latents)):
            said = said.float().cpu()
            said += moods[:, frame]
            said[0] += (exaggeration - 1) * (said[0] - said[-1])
            made[frame] = said[0] if len(said) == 1 else self.lip_guard(*said)
            spoken[frame] = said[-1]
            if on_frame is not None:
                on_frame(frame + 1)
        return ExpressionTrack(made if silent is None else self.lip_guard.still(made, spoken, silent))

    @torch.no_grad()
    @one_core()
    def motion(
        self,
        features: Tensor,
        avatar: AvatarLike,
        seed: int = 0,
        head: float = 1.0,
        blink: float = 1.0,
        gaze: float = 1.0,
        weights: EmotionWeights | None = None,
    ) -> MotionTrack:
        """How the head, the eyelids and the eyes move: around the person's mean, times the amounts.

        weights: the emotion, in which their eyelids may rest elsewhere.
        """
        avatar = self.avatars.get(avatar).avatar
        normalised = self.motion_generator.generate(features, seed=seed, temperature=TEMPERATURE).float().cpu()
        return _moved(avatar, normalised, head, blink, gaze, weights)

    @torch.no_grad()
    def recognise(self, track: FaceTrack, features: Tensor | None = None) -> EmotionWeights:
        """Which emotion a track shows: the mixture posterior p(e|z,w) of the expression generator's encoder, one row a frame.

        features: of the speech said meanwhile, (frames, d), None when there was none. Read in windows, blended between them.
        """
        generator, frames = self.expression_generator, len(track)
        coefficients = track.expression.coefficients.to(self.device)
        heard = torch.tensor([features is not None], device=self.device)
        silent = torch.zeros(1, generator.config.features, device=self.device)
        speech = _held(silent if features is None else features, frames)
        middles, rows = [], []
        for begin in range(0, max(frames - RECOGNISED // 2, 1), RECOGNISED // 2):
            window = slice(begin, min(begin + RECOGNISED, frames))
            latent = generator.posterior(coefficients[None, window], speech[None, window], speech_mask=heard)
            rows.append(generator.emotion_posterior(latent.z_mean, latent.w_mean)[0].double().cpu().numpy())
            middles.append((window.start + window.stop) / 2)
        blended = np.stack([np.interp(np.arange(frames) + 0.5, middles, column) for column in np.transpose(rows)], axis=-1)
        return EmotionWeights(torch.from_numpy(blended / blended.sum(-1, keepdims=True)).float())

    def render(self, track: FaceTrack, avatar: AvatarLike, first: int = 0, frames: int | None = None) -> np.ndarray:
        """The drawn face of frames first, first + 1, ... of a track: (frames, height, width, channels) uint8."""
        renderer = self.avatars.get(avatar).renderer
        rows = slice(first, None if frames is None else first + frames)
        coefficients = track.expression.coefficients[rows].numpy()
        motion = track.motion.stacked()[rows].numpy()
        shoulders = [None] * len(motion) if track.shoulders is None else track.shoulders[rows].numpy()
        return np.stack([renderer.render(*row) for row in zip(coefficients, motion, shoulders)])

    def draw(self, track: FaceTrack, avatar: AvatarLike, weights: EmotionWeights) -> Iterator[np.ndarray]:
        """Frames (height, width, 3) uint8 RGB of a track, drawn a few batches ahead of whoever takes them."""
        ready, omega = self.avatars.get(avatar), weights.at(len(track))

        def drawn(first: int) -> np.ndarray:
            return self.paint(ready, self.render(track, ready, first, BATCH), omega[first : first + BATCH])

        # AvatarLikele batches side by side, a core each (one_core says why), beside the video encoder's own process.
        workers = usable_cores() if self.device.type == "cpu" else GPU_WORKERS
        pool = ThreadPoolExecutor(workers, thread_name_prefix="draw", initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for first in range(0, len(track), BATCH):
                waiting.append(pool.submit(drawn, first))
                if len(waiting) > workers + 1:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    @torch.inference_mode()
    def paint(self, avatar: AvatarLike, rendering: np.ndarray, omega: Tensor) -> np.ndarray:
        """What the head generator makes of renderings (batch, height, width, channels) uint8 and weights (batch, 8).

        Returns (batch, height, width, 3) uint8.
        """
        ready = self.avatars.get(avatar)
        drawn = torch.from_numpy(rendering).to(self.device).permute(0, 3, 1, 2)  # channels_last already: only the view changes
        drawn = drawn.float().div_(127.5).sub_(1)
        style = ready.avatar.emotion_mapping(omega.to(self.device))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.draws_in_half):
            frames = ready.avatar.head_generator(drawn, style)
        frames = frames.float().add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        return frames.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    # --- AvatarLikele performances ----------------------------------------------------------------------------------------------------

    def __call__(
        self, speech: Path | str | np.ndarray, avatar: AvatarLike = None, on_progress: OnProgress | None = None, **options: object
    ) -> Performance:
        """The avatar says the speech.

        speech: a file, or (samples,) float at 16 kHz.
        on_progress: told while the expression is made.
        options: emotion, timeline, intensity, seed, head, blink, gaze, full_frame, as SpeakRequest has them.
        Errors: ValueError for an option, UnusableSpeech, UnusableAvatar.
        """
        request = SpeakRequest(speech, avatar, **options)
        waveform = speech if isinstance(speech, np.ndarray) else read_speech(Path(speech))
        return self.perform(request, waveform, Watcher(on_progress))

    def perform(self, request: SpeakRequest, waveform: np.ndarray, watcher: Watcher | None = None) -> Performance:
        """What a request asks for, said with a speech that was read already.

        waveform: (samples,) float at 16 kHz, in the place of request.speech.
        watcher: told of the stage "expression", in frames.
        Errors: UnusableAvatar; Stopped when the watcher says so.
        """
        ready = self.avatars.get(request.avatar)
        # Before the work: not every avatar has one.
        idle = IdleLoop.load(ready.avatar.folder) if request.full_frame else None
        features = self.encode(waveform)
        weights, seed = request.weights(len(features)), request.seed
        on_frame = None if watcher is None else lambda done: watcher.tell("expression", done, len(features))
        silent, exaggeration = silent_frames(waveform, len(features)), max(request.intensity, 1.0)
        expression = self.expression(features, weights, ready, seed, on_frame, silent, exaggeration)
        motion = self.motion(features, ready, seed, request.head, request.blink, request.gaze, weights)
        track = FaceTrack(expression, motion, torch.ones(len(features), dtype=torch.bool))
        return Performance(self, ready.avatar, track, weights, waveform, idle)

    def speak(
        self,
        request: SpeakRequest,
        output: Path,
        on_progress: OnProgress | None = None,
        stop: Callable[[], bool] | None = None,
        tracks: Path | None = None,
        live: Path | None = None,
    ) -> Path:
        """Make the video of a request, and the track file beside it when asked. Nothing half-written is ever left.

        live: a second file, that can be watched while it grows (VideoWriter).

        Errors: Stopped when stop() says so; UnusableSpeech, UnusableAvatar, UnusableInput when the output can't be written.
        """
        watcher = Watcher(on_progress, stop)
        watcher.tell("listening", 0, 1)
        performance = self.perform(request, read_speech(Path(request.speech)), watcher)
        self.film(performance, output, on_progress, stop, Path(request.speech), live, request.label)
        request.save(request_file(output))
        if tracks is not None:
            with whole_file(tracks) as unfinished:
                performance.track.save(unfinished)
        return Path(output)

    def reenact(
        self,
        driver: FaceTrack,
        avatar: AvatarLike = None,
        speech: np.ndarray | None = None,
        weights: EmotionWeights | None = None,
        absolute: bool = False,
    ) -> Performance:
        """The avatar does what the driver does. weights: None asks the expression generator's encoder which emotion it sees.

        absolute: the driver is the person of the avatar in the same framing; otherwise motion is taken relative to its mean.
        """
        ready = self.avatars.get(avatar)
        if weights is None:
            weights = self.recognise(driver, None if speech is None else self.encode(speech))
        track = driver if absolute else retarget(driver, ready.avatar)
        return Performance(self, ready.avatar, track, weights, speech)

    def film(
        self,
        performance: Performance,
        output: Path,
        on_progress: OnProgress | None = None,
        stop: Callable[[], bool] | None = None,
        sound: Path | None = None,
        live: Path | None = None,
        label: bool = False,
    ) -> Path:
        """Draw a performance into an mp4 file, marked and signed as AI-generated.

        sound: the file its speech was read from, to keep its quality; live: as for speak; label: says it in the picture, too.
        Errors: Stopped when stop() says so, UnusableInput when the output can't be written or signed.
        """
        watcher, output = Watcher(on_progress, stop, timed=("drawing",)), Path(output)
        seal, frames = Seal(performance.avatar.card, label), iter(performance)
        try:
            first = next(frames)
            speech = sound
            if speech is None and performance.speech is not None:
                speech = performance.speech[: len(performance) * SAMPLES_PER_FRAME]
            with VideoWriter(output, first.shape[1], first.shape[0], speech, live=live, seal=seal.sign) as writer:
                writer.write(seal(first))
                for done, frame in enumerate(frames, start=2):
                    watcher.tell("drawing", done - 1, len(performance))
                    writer.write(seal(frame))
            watcher.tell("drawing", len(performance), len(performance))
        finally:
            frames.close()
        return output

    def still(
        self, avatar: AvatarLike = None, emotion: Mapping[str, float] | None = None, seed: int = 0, intensity: float = 1.0
    ) -> np.ndarray:
        """One frame (height, width, 3) uint8: the avatar at rest in its mean pose, in an emotion. For the sliders' preview."""
        ready = self.avatars.get(avatar)
        weights = EmotionWeights.from_mapping(emotion, min(intensity, 1.0))
        features = self.encode(np.zeros(STILL_FRAMES * SAMPLES_PER_FRAME, np.float32))
        expression = self.expression(features, weights, ready.avatar, seed, exaggeration=max(intensity, 1.0))
        motion = _moved(ready.avatar, torch.zeros(1, 10), 0.0, 0.0, 0.0, weights)
        settled = ExpressionTrack(expression.coefficients[-1:])
        return next(self.draw(FaceTrack(settled, motion, torch.ones(1, dtype=torch.bool)), ready.avatar, weights))


def retarget(driver: FaceTrack, avatar: Avatar) -> FaceTrack:
    """A driver's track in the avatar's framing: head and gaze move from the avatar's mean as the driver's do from theirs."""
    seen = driver.found if driver.found.any() else torch.ones_like(driver.found)
    values = driver.motion.stacked()
    moved = values - values[seen].mean(0) + torch.as_tensor(avatar.face.motion_mean).float()
    moved[:, 6:8] = values[:, 6:8]  # eyelids: 0 open and 1 closed mean the same for everyone
    return FaceTrack(driver.expression, MotionTrack.unstacked(moved), driver.found)


def _held(features: Tensor, frames: int) -> Tensor:
    """Features of exactly so many frames: cut, or the last row held (sound and picture of a video may differ by a few)."""
    return features[torch.arange(frames, device=features.device).clamp(max=len(features) - 1)]


def _moved(
    avatar: Avatar, normalised: Tensor, head: float, blink: float, gaze: float, weights: EmotionWeights | None = None
) -> MotionTrack:
    """Normalised motion (frames, 10) around the person's mean, as widely as the person moves, times the amounts.

    In an emotion the head is held and the eyes look as theirs in it; eyelids blink from where they rest.
    """
    amounts = torch.tensor([head] * 6 + [blink] * 2 + [gaze] * 2)
    mean, scale = (torch.as_tensor(x).float() for x in (avatar.face.motion_mean, avatar.face.motion_scale))
    values = mean + amounts * scale * normalised
    resting = mean[6:8].expand(len(normalised), -1)
    if weights is not None and avatar.emotion_offsets is not None:
        held = weights.at(len(normalised)) @ avatar.emotion_offsets.motion
        values = values + held
        resting = resting + held[:, 6:8]
    resting = resting.clamp(0, LOWEST_LID)
    values[:, 6:8] = resting + (1 - resting) * normalised[:, 6:8].clamp(0, 1) * blink
    return MotionTrack.unstacked(values)
