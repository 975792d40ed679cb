"""Speech, emotion and an avatar in; frames, tracks and a video out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmtalker.avatars.drawing_engine import DRAW_BATCH
from gmtalker.avatars.motion import FollowingShoulders, MotionAmounts, person_motion, retarget
from gmtalker.avatars.ready import AvatarLike, ReadyAvatars
from gmtalker.clock import LABELS, SAMPLES_PER_FRAME
from gmtalker.device import choose_device, is_half_fast, one_core, usable_cores
from gmtalker.face.lip_guard import LipGuard
from gmtalker.face.tracking import track_video
from gmtalker.files import temporary_folder, whole_file
from gmtalker.media.audio import read_speech
from gmtalker.media.captions import cues_of, read_cues, write_cues
from gmtalker.media.full_frame import IdleLoop
from gmtalker.models.articulation import is_spoken
from gmtalker.output import SPOKEN
from gmtalker.performance import Finish, Frames, Performance, film
from gmtalker.progress import OnProgress, Watcher
from gmtalker.provenance.label import Label
from gmtalker.request import SpeakRequest, request_file
from gmtalker.source import heard
from gmtalker.stages import GenericStages, HubOptions, load_stages, push_stages, save_stages
from gmtalker.streaming import TEMPERATURE, ExpressionStream, Manner, TrackStream
from gmtalker.tracks import MOTION_DIM, EmotionWeights, ExpressionTrack, FaceTrack, MotionTrack

GPU_WORKERS = 2  # one renders while the other keeps the GPU busy
RECOGNITION_FRAMES = 100  # in which an emotion is recognised: about the length of the clips GMEG learns from
EXPRESSION_FRAMES = 25  # generated between two reports of progress
STILL_FRAMES = 12  # of silence before the still: the expression settles from its start


class GMTalkerPipeline:
    """The generic stages, loaded once and shared by all avatars; safe to use from several threads."""

    def __init__(self, stages: GenericStages, device: str | torch.device | None = None) -> None:
        """device: "cpu", "cuda" or "mps"; None is the best at hand. Errors: ValueError when it is not there."""
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
        """Load the stages onto a device.

        folder: None is what is bundled, a folder is used as it is, "owner/name" is fetched from the Hub. A stage that a repo on
            the Hub does not hold is the bundled one, and a warning says so.
        device: "cpu", "cuda" or "mps"; None is the best at hand.
        revision, token, cache_dir, local_files_only: of the Hub, as everywhere in huggingface_hub.
        Errors: UnusableInput when they are not there, can't be fetched or don't fit together; UnusableAvatar when a weight is
            missing or unknown; ValueError for a device that is not there.
        """
        return cls(load_stages(folder, HubOptions(revision, token, cache_dir, local_files_only)), device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the stages into a folder, as from_pretrained reads them. Errors: OSError when it can't be written."""
        save_stages(self.stages, Path(folder))

    def push_to_hub(self, repo: str, private: bool = True, token: str | None = None) -> str:
        """Push the stages and their card into a model repo, which is made when it is missing.

        Returns: the repo's address.
        Errors: UnusableInput when the Hub does not take them; then nothing there has changed.
        """
        return push_stages(self.stages, repo, private, token)

    # --- Stage by stage --------------------------------------------------------------------------------------------------------

    @one_core()
    def encode(self, waveform: np.ndarray | Tensor) -> Tensor:
        """Encode speech.

        waveform: (samples,) float at 16 kHz.
        Returns: (frames, d) speech features, one row a video frame.
        Source: docs/method.md section 5.
        """
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
        exaggeration: float = 1.0,
    ) -> ExpressionTrack:
        """Generate the expression of a speech, in the avatar's speaking style: what ExpressionStream does, of the whole speech.

        features: (frames, d) speech features.
        on_frame: called with the number of finished frames.
        exaggeration: factor on the difference that the emotion makes; 1 is as strong as people's.
        """
        stream = ExpressionStream(self.avatars.get(avatar), self.lip_guard, seed, exaggeration)
        pieces, done = [], 0
        for piece in features.split(EXPRESSION_FRAMES):
            pieces.append(stream.push(piece, weights.at(len(piece), done)))
            done += len(piece)
            if on_frame is not None:
                on_frame(done)
        return ExpressionTrack(torch.cat([*pieces, stream.finish()]))

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
        manner: str = "own",
    ) -> MotionTrack:
        """Generate how head, eyelids and eyes move, around the person's usual pose.

        features: (frames, d) speech features.
        head, blink, gaze: how much of that movement; 1 is the person's own.
        weights: the emotion, in which they hold their head, gaze and lids otherwise; None is none.
        manner: "own", "still" or "lively".
        Source: docs/method.md section 2, equations (12) and (17).
        """
        normalised = self.motion_generator.generate(features, seed=seed, temperature=TEMPERATURE).float().cpu()
        amounts = MotionAmounts(head, blink, gaze, manner)
        return person_motion(self.avatars.get(avatar).avatar, normalised, amounts, seed, weights)

    def open(self, avatar: AvatarLike = None, weights: EmotionWeights | None = None, manner: Manner | None = None) -> TrackStream:
        """Begin to speak a speech that comes in pieces.

        weights: the emotion; None is neutral. It may be replaced between two pieces.
        Errors: UnusableAvatar; TypeError when these stages' encoder can't stream.
        """
        weights = EmotionWeights.from_mapping({}) if weights is None else weights
        parts = self.speech_encoder, self.motion_generator, self.avatars.get(avatar), self.lip_guard
        return TrackStream(*parts, weights, manner or Manner())

    @torch.no_grad()
    def recognise(self, track: FaceTrack, features: Tensor | None = None) -> EmotionWeights:
        """Recognise which emotion a track shows, in windows that are blended linearly.

        features: (frames, d) of the speech said meanwhile, a few frames more or less; None when there was none.
        Returns: one row a frame.
        Source: p(e|z,w) at the posterior means, docs/method.md section 1, equation (3).
        """
        generator, frames = self.expression_generator, len(track)
        coefficients = track.expression.coefficients.to(self.device)
        heard = torch.tensor([features is not None], device=self.device)
        silence = generator.no_speech.detach()[None] if features is None else features
        speech = _as_long_as(silence, frames)
        middles, rows = [], []
        for first in range(0, max(frames - RECOGNITION_FRAMES // 2, 1), RECOGNITION_FRAMES // 2):
            window = slice(first, min(first + RECOGNITION_FRAMES, frames))
            latent = generator.posterior(coefficients[None, window], speech[None, window], speech_mask=heard)
            rows.append(generator.emotion_posterior(latent.z_mean, latent.w_mean)[0].double().cpu().numpy())
            middles.append((window.start + window.stop) / 2)
        blended = np.stack([np.interp(np.arange(frames) + 0.5, middles, column) for column in np.transpose(rows)], axis=-1)
        return EmotionWeights(torch.from_numpy(blended / blended.sum(-1, keepdims=True)).float())

    def render(self, track: FaceTrack, avatar: AvatarLike, first: int = 0, frames: int | None = None) -> np.ndarray:
        """Render the face model of consecutive frames of a track.

        first, frames: which; None is all from first on.
        Returns: (frames, height, width, 8) uint8.
        Source: docs/method.md section 7.
        """
        renderer = self.avatars.get(avatar).renderer
        rows = slice(first, None if frames is None else first + frames)
        coefficients = track.expression.coefficients[rows].numpy()
        motion = track.motion.stacked()[rows].numpy()
        shoulders = [None] * len(motion) if track.shoulders is None else track.shoulders[rows].numpy()
        return np.stack([renderer.render(*row) for row in zip(coefficients, motion, shoulders)])

    def draw(self, track: FaceTrack, avatar: AvatarLike, weights: EmotionWeights, matte: bool = False) -> Frames:
        """Render and paint the frames of a track, a few batches ahead of whoever takes them.

        matte: also the person's outline, which not every avatar has learned (Avatar.has_matte).
        Yields: (height, width, 3) uint8 RGB; with a matte (height, width, 4), 255 for the person.
        """
        ready, omega = self.avatars.get(avatar), weights.at(len(track))

        def drawn(first: int) -> np.ndarray:
            return self.paint(ready, self.render(track, ready, first, DRAW_BATCH), omega[first : first + DRAW_BATCH], matte)

        # Whole batches side by side, a core each (one_core says why), beside the video encoder's own process.
        workers = usable_cores() if self.device.type == "cpu" else GPU_WORKERS
        pool = ThreadPoolExecutor(workers, thread_name_prefix="draw", initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for first in range(0, len(track), DRAW_BATCH):
                waiting.append(pool.submit(drawn, first))
                if len(waiting) > workers + 1:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    @torch.inference_mode()
    def paint(self, avatar: AvatarLike, rendering: np.ndarray, omega: Tensor, matte: bool = False) -> np.ndarray:
        """Turn renderings into pictures with the avatar's head generator.

        rendering: (batch, height, width, 8) uint8.
        omega: (batch, 8) emotion weights.
        matte: also the person's outline.
        Returns: (batch, height, width, 3) uint8 RGB; with a matte (batch, height, width, 4), 255 for the person.
        Source: docs/method.md section 3, equation (19).
        """
        ready = self.avatars.get(avatar)
        style, background = ready.avatar.emotion_mapping(omega.to(self.device)), ready.avatar.background
        if background is None:
            return ready.engine(rendering, style, matte)
        return background.behind(ready.engine(rendering, style, True))[..., : 4 if matte else 3]

    # --- Whole performances ----------------------------------------------------------------------------------------------------

    film = staticmethod(film)

    def __call__(
        self,
        speech: Path | str | np.ndarray,
        avatar: AvatarLike = None,
        emotion: Mapping[str, float] | None = None,
        on_progress: OnProgress | None = None,
        **options: object,
    ) -> Performance:
        """The avatar says a speech.

        speech: a sound or video file, or (samples,) float at 16 kHz.
        avatar: a name, a folder, a repo on the Hub, or a loaded one; None is the bundled one.
        emotion: weights by name; what they leave of 1 is neutral.
        on_progress: called while the expression is generated.
        options: timeline, intensity, seed, head, blink, gaze, motion, full_frame, as in SpeakRequest.
        Errors: ValueError for an option, UnusableSpeech, UnusableAvatar.
        """
        if written := {"label", "output", "text", "voice", "video"} & set(options):
            raise TypeError(f"{min(written)} is for speak; what is called here gives bare frames of a speech")
        request = SpeakRequest(speech, avatar, emotion, **options)
        waveform = speech if isinstance(speech, np.ndarray) else read_speech(Path(speech))
        return self.perform(request, waveform, Watcher(on_progress))

    def perform(self, request: SpeakRequest, waveform: np.ndarray | None, watcher: Watcher | None = None) -> Performance:
        """What a request asks for, with a sound that was read already.

        waveform: (samples,) float at 16 kHz, in the place of request.speech; None for a silent film that leads.
        watcher: gets the stage "expression", in frames, or "following".
        Errors: UnusableAvatar; UnusableVideo for a film that shows no face; Stopped when the watcher says so.
        """
        watcher = watcher or Watcher(None)
        ready = self.avatars.get(request.avatar)
        # Before the work: not every avatar has one.
        idle = IdleLoop.load(ready.avatar.folder) if request.full_frame else None
        if request.video is not None:
            watcher.report("following", 0, 1)
            track = track_video(Path(request.video), self.face_model)
            weights = request.weights(len(track)) if request.emotion or request.timeline else None
            if weights is not None:
                track = self._in_emotion(track, ready, weights, waveform, max(request.intensity, 1.0))
            led = self.reenact(track, request.avatar, waveform, weights)
            return replace(led, idle=idle, inputs=(Path(request.video),), led=True)
        assert waveform is not None
        features = self.encode(waveform)
        frames = len(features)
        if not is_spoken(features):
            name = "this sound" if isinstance(request.speech, np.ndarray) else Path(request.speech).name
            watcher.say(f"Nobody speaks in {name}: the mouth stays at rest.")
            features = self.encode(np.zeros_like(waveform))
        weights = request.weights(frames)
        expression = self.expression(
            features,
            weights,
            ready,
            request.seed,
            lambda done: watcher.report("expression", done, frames),
            max(request.intensity, 1.0),
        )
        amounts = request.head, request.blink, request.gaze
        motion = self.motion(features, ready, request.seed, *amounts, weights, request.motion)
        shoulders = FollowingShoulders(ready.avatar.face).push(motion)
        track = FaceTrack(expression, motion, torch.ones(frames, dtype=torch.bool), shoulders)
        return Performance(self.draw, ready.avatar, track, weights, waveform, idle)

    def speak(
        self,
        request: SpeakRequest,
        output: Path,
        on_progress: OnProgress | None = None,
        stop: Callable[[], bool] | None = None,
        tracks: Path | None = None,
        live: Path | None = None,
    ) -> Path:
        """Make the video of a request, and save the request beside it (request_file). Nothing half-written is ever left.

        What is said of a text goes beside it, too, where the request asks for subtitles: video.srt.

        on_progress: gets the stages "listening", "expression" (of a film that leads "following") and "drawing".
        stop: called before each frame; True ends the work.
        tracks: also write what the face does to this file.
        live: also write the video to this file, which can be watched while it grows (VideoWriter).
        Returns: output.
        Errors: Stopped when stop() says so; UnusableSpeech, UnusableAvatar, UnusableInput when the output can't be written.
        """
        watcher = Watcher(on_progress, stop)
        watcher.report("listening", 0, 1)
        # What is to be read is read before the work.
        given = None if request.output.captions in (None, SPOKEN) else read_cues(Path(request.output.captions))
        with temporary_folder() as folder:
            source = heard(request, folder)
            for sentence in source.sentences:
                watcher.say(sentence)
            performance = self.perform(source.request, source.waveform, watcher)
            finish = Finish(label_of(request), request.output, source.shown, given, source.voice)
            self.film(performance, output, on_progress, stop, source.sound, live, finish)
        if request.output.subtitles is not None:
            write_cues(cues_of(source.said), Path(output).with_suffix(f".{request.output.subtitles}"))
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
        """The avatar does what the person of a tracked video does.

        speech: (samples,) at 16 kHz, what the driver says; None for silence.
        weights: the emotion; None recognises it in the driver's face.
        absolute: whether the driver is the avatar's person in the same framing; otherwise motion is taken relative to its mean.
        Errors: UnusableAvatar.
        """
        ready = self.avatars.get(avatar)
        if weights is None:
            weights = self.recognise(driver, None if speech is None else self.encode(speech))
        return Performance(self.draw, ready.avatar, driver if absolute else retarget(driver, ready.avatar), weights, speech)

    def _in_emotion(
        self, track: FaceTrack, avatar: AvatarLike, weights: EmotionWeights, speech: np.ndarray | None, exaggeration: float
    ) -> FaceTrack:
        """A tracked face in another emotion than its own.

        What the generator changes from the one to the other is added; lips that close or round for a sound still do.
        """
        sound = np.zeros(len(track) * SAMPLES_PER_FRAME, np.float32) if speech is None else speech
        features = _as_long_as(self.encode(sound), len(track))
        own = self.recognise(track, None if speech is None else features)
        wanted = self.expression(features, weights, avatar, exaggeration=exaggeration).coefficients
        there = self.expression(features, own, avatar).coefficients
        said = track.expression.coefficients
        return replace(track, expression=ExpressionTrack(self.lip_guard(said + wanted - there, said)))

    def still(
        self, avatar: AvatarLike = None, emotion: Mapping[str, float] | None = None, seed: int = 0, intensity: float = 1.0
    ) -> np.ndarray:
        """One frame of the avatar at rest in its usual pose, in an emotion: the preview of the sliders.

        emotion: weights by name.
        intensity: 0 neutral, 1 as given, up to 2 exaggerated.
        Returns: (height, width, 3) uint8 RGB.
        Errors: ValueError for an emotion or intensity that does not exist, UnusableAvatar.
        """
        ready = self.avatars.get(avatar)
        weights = EmotionWeights.from_mapping(emotion, min(intensity, 1.0))
        features = self.encode(np.zeros(STILL_FRAMES * SAMPLES_PER_FRAME, np.float32))
        expression = self.expression(features, weights, ready, seed, exaggeration=max(intensity, 1.0))
        motion = person_motion(ready.avatar, torch.zeros(1, MOTION_DIM), MotionAmounts(0.0, 0.0, 0.0), weights=weights)
        settled = ExpressionTrack(expression.coefficients[-1:])
        return next(self.draw(FaceTrack(settled, motion, torch.ones(1, dtype=torch.bool)), ready, weights))


def label_of(request: SpeakRequest) -> Label | None:
    """The label that a request asks for."""
    return None if request.label == LABELS[0] else Label(request.label, request.label_language)


def _as_long_as(features: Tensor, frames: int) -> Tensor:
    """Features of exactly so many frames: cut, or the last row repeated (sound and picture of a video may differ by a few)."""
    return features[torch.arange(frames, device=features.device).clamp(max=len(features) - 1)]
