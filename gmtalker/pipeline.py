"""Speech, emotion and an avatar in; frames, tracks and a video out."""

from __future__ import annotations

import json
import math
import re
import shlex
import tempfile
import threading
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from gmtalker.audio import read_speech, silent_frames
from gmtalker.avatar import ON_THE_HUB, Avatar, find_avatar, load_avatar
from gmtalker.device import choose_device, is_half_fast, one_core, usable_cores
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.face_model import FaceModel
from gmtalker.full_frame import IdleLoop
from gmtalker.lip_guard import LipGuard
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.loading import load_speech_encoder, load_strict, save_half, save_speech_encoder
from gmtalker.models.mel import SAMPLES_PER_FRAME
from gmtalker.models.motion_generator import MotionGenerator
from gmtalker.models.speech_encoder import SpeechEncoder
from gmtalker.provenance import Seal
from gmtalker.renderer import Renderer
from gmtalker.speaking_style import with_speaking_style
from gmtalker.tracks import EmotionWeights, ExpressionTrack, FaceTrack, MotionTrack
from gmtalker.video import VideoWriter

if TYPE_CHECKING:
    from gmtalker.models.hubert_encoder import HubertEncoder

GENERIC = Path(__file__).resolve().parent.parent / "assets" / "generic"
NETWORKS = {"expression_generator": ExpressionGenerator, "motion_generator": MotionGenerator}
STAGES = ("speech_encoder", *NETWORKS, "face_model")
INDEX, CARD = "model_index.json", "README.md"
FRONT_MATTER = """---
license: other
license_name: research-demo
library_name: diffusers
tags: [talking-head, emotion, speech]
---
"""

BATCH = 8  # frames the head generator draws at a time; fixed, because other batches round differently
GPU_WORKERS = 2  # one renders while the other keeps the GPU busy
AVATARS_KEPT = 4  # loaded avatars held in memory
TEMPERATURE = 1.0
LARGEST_AMOUNT = 3.0  # times a person's own movement
LARGEST_INTENSITY = 2.0
RECOGNISED = 100  # frames in which an emotion is recognised: about the length of the clips GMEG learns from
LOWEST_LID = 0.8  # a lid that rests lower is shut
STILL_FRAMES = 12  # of silence before the still: the expression settles from its start


class Stopped(Exception):
    """The person stopped the work; nothing was left behind."""


@dataclass(frozen=True)
class Progress:
    """How far the making of a video is.

    stage: "listening", "expression" or "drawing"; done and total: frames of that stage; seconds_left: of the whole, when known.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None = None


@dataclass(frozen=True)
class SpeakRequest:
    """What someone asks an avatar to say, and how. The page, the command line and Python all make one of these.

    avatar: name, folder or repo on the Hub, None for the bundled one; emotion: weights by name, or timeline: [{"time": s,
    "emotion": {...}}, ...]; intensity: 0 neutral, 1 as asked, up to 2 exaggerated; seed: another take; head, blink, gaze: how
    much of that movement, 1 the person's own; full_frame: in the person's own footage, at its size, instead of head and shoulders
    alone; label: says in the picture that it is AI-generated.
    Errors: ValueError naming the valid choices.
    """

    speech: Path | str | np.ndarray
    avatar: Who = None
    emotion: Mapping[str, float] = field(default_factory=dict)
    timeline: Sequence[Mapping] | None = None
    intensity: float = 1.0
    seed: int = 0
    head: float = 1.0
    blink: float = 1.0
    gaze: float = 1.0
    full_frame: bool = False
    label: bool = False

    def __post_init__(self) -> None:
        if self.emotion and self.timeline:
            raise ValueError("Give an emotion or a timeline, not both")
        self.weights(1)
        if not self.intensity <= LARGEST_INTENSITY:
            raise ValueError(f"intensity must be between 0 and {LARGEST_INTENSITY:g}, not {self.intensity}")
        _check_amounts(self.seed, self.head, self.blink, self.gaze)

    def weights(self, frames: int) -> EmotionWeights:
        """The emotion weights of a video of so many frames."""
        if self.timeline:
            return EmotionWeights.from_timeline(self.timeline, frames, min(self.intensity, 1.0))
        return EmotionWeights.from_mapping(self.emotion, min(self.intensity, 1.0))

    def command(self, output: str = "video.mp4") -> str:
        """The line that repeats this request from a shell."""
        words = ["python", "-m", "gmtalker", "speak"]
        if self.avatar is not None:
            words.append(f"--avatar={self.avatar}")  # a name may begin as an option does
        words += ["--speech", str(self.speech), "--output", output]
        shown = {name: weight for name, weight in self.emotion.items() if weight}
        if shown:
            words += ["--emotion", ",".join(f"{name}={weight:g}" for name, weight in shown.items())]
        if self.timeline:
            words += ["--timeline", json.dumps(list(self.timeline))]
        for name in ("intensity", "seed", "head", "blink", "gaze"):
            value = getattr(self, name)
            if value != SpeakRequest.__dataclass_fields__[name].default:
                words += [f"--{name}", str(value) if name == "seed" else f"{value:g}"]
        words += [f"--{name.replace('_', '-')}" for name in ("full_frame", "label") if getattr(self, name)]
        return shlex.join(words)


@dataclass(frozen=True, eq=False)
class _Cast:
    """An avatar that is ready to act."""

    avatar: Avatar
    renderer: Renderer
    expression_generator: ExpressionGenerator


# An avatar as every stage takes it: loaded, by name, folder or repo (find_avatar), or None for the bundled one.
Who = Avatar | _Cast | str | Path | None


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

    def __init__(
        self,
        speech_encoder: SpeechEncoder | HubertEncoder,
        expression_generator: ExpressionGenerator,
        motion_generator: MotionGenerator,
        face_model: FaceModel,
        device: str | torch.device | None = None,
        card: str = "",
    ) -> None:
        """card: what the model card of these stages says, for pushing them on."""
        self.device, self.card = choose_device(device), card
        self.speech_encoder = speech_encoder.eval().to(self.device)
        self.expression_generator = expression_generator.eval().to(self.device)
        self.motion_generator = motion_generator.eval().to(self.device)
        self.face_model, self.lip_guard = face_model, LipGuard(face_model)
        self.draws_in_half = is_half_fast(self.device)
        self._cast: OrderedDict[object, _Cast] = OrderedDict()
        self._lock = threading.Lock()

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
        """Load the stages: None is what is bundled, a folder is used as it is, "owner/name" is fetched from the Hub.

        A stage that a repo on the Hub does not hold is the bundled one, and a warning says so. revision, token, cache_dir and
        local_files_only are for the Hub, as everywhere in huggingface_hub.
        Errors: UnusableInput when they are not there, can't be fetched or don't fit together, UnusableAvatar when a weight is
        missing or unknown.
        """
        path = Path(GENERIC if folder is None else folder).expanduser()
        fetched = isinstance(folder, str) and not path.is_dir() and ON_THE_HUB.fullmatch(folder) is not None
        if fetched:
            from gmtalker.hub import fetch_stages  # late: nothing else here needs the network

            files = [INDEX, CARD, *(f"{stage}/*.{kind}" for stage in STAGES for kind in ("json", "safetensors"))]
            path = fetch_stages(folder, files, revision, token, cache_dir, local_files_only)
        shown = folder if fetched else path
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UnusableInput(f"{shown} does not hold the generic stages: its {INDEX} is missing or broken.") from error
        missing = [stage for stage in STAGES if not isinstance(index, dict) or stage not in index]
        if fetched:
            missing = [stage for stage in STAGES if stage in missing or not (path / stage).is_dir()]
            if len(missing) == len(STAGES):
                raise UnusableInput(f"{shown} holds none of {', '.join(STAGES)}.")
            if missing:
                warnings.warn(f"{shown} does not hold {', '.join(missing)}; the bundled ones are used.", stacklevel=2)
        elif missing:
            raise UnusableInput(f"{path / INDEX} does not name {', '.join(missing)}.")
        folders = {stage: (GENERIC if stage in missing else path) / stage for stage in STAGES}
        networks = {stage: load_strict(network, folders[stage]) for stage, network in NETWORKS.items()}
        networks["speech_encoder"] = load_speech_encoder(folders["speech_encoder"])
        try:
            face_model = FaceModel.load(folders["face_model"])
        except (OSError, ValueError, SafetensorError) as error:
            raise UnusableAvatar(f"The face model in {shown} is missing or broken.") from error
        expression, motion = networks["expression_generator"].config, networks["motion_generator"].config
        if networks["speech_encoder"].features != expression.features:
            raise UnusableInput(f"The speech encoder in {shown} is not the one that the other stages were trained with.")
        if motion.features != expression.features or face_model.coefficients != expression.coefficients:
            raise UnusableInput(f"The stages in {shown} were not trained with each other.")
        card = (path / CARD).read_text(encoding="utf-8", errors="replace") if (path / CARD).is_file() else ""
        return cls(**networks, face_model=face_model, device=device, card=card)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the stages into a folder as from_pretrained and diffusers lay them out: an index, a folder a stage, safetensors.

        Errors: OSError when it can't be written.
        """
        folder = Path(folder)
        save_speech_encoder(self.speech_encoder, folder / "speech_encoder")
        for stage in NETWORKS:
            save_half(getattr(self, stage), folder / stage)
        self.face_model.save(folder / "face_model")
        kinds = {stage: [type(getattr(self, stage)).__module__, type(getattr(self, stage)).__name__] for stage in STAGES}
        index = {"_class_name": type(self).__name__, "_diffusers_version": diffusers.__version__} | kinds
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def push_to_hub(self, repo: str, private: bool = True, token: str | None = None) -> str:
        """Push the stages and their card into a model repo, which is made when it is missing. Returns its address.

        Errors: UnusableInput when the Hub does not take them; then nothing there has changed.
        """
        from gmtalker.hub import address_of, push_files

        with tempfile.TemporaryDirectory(prefix="gmtalker-") as folder:
            self.save_pretrained(folder)
            files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
            push_files(files | {CARD: self._card_for(repo).encode()}, repo, INDEX, private, token)
        return address_of(repo)

    def _card_for(self, repo: str) -> str:
        """The card, with how these stages are used from a repo as its first section; those of other parts are left out."""
        head, *sections = re.split(r"(?m)^(?=## )", self.card or f"{FRONT_MATTER}# Generic stages of GMTalker Studio\n")
        kept = [section.rstrip() for section in sections if section[3:].split("\n")[0].strip() in STAGES]
        use = (
            "## Use\n\n```python\nfrom gmtalker.pipeline import GMTalkerPipeline\n\n"
            f'pipeline = GMTalkerPipeline.from_pretrained("{repo}")\n'
            'frames = pipeline("speech.wav", emotion={"happy": 0.8})\n```'
        )
        return "\n\n".join([head.rstrip(), use, *kept]) + "\n"

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
        avatar: Who,
        seed: int = 0,
        watch: Callable[[int], None] | None = None,
        silent: np.ndarray | None = None,
        exaggeration: float = 1.0,
    ) -> ExpressionTrack:
        """What the face says and feels, in the avatar's speaking style. watch is called with the number of finished frames.

        exaggeration: how many times as far as people's the mood takes the face from neutral.

        A mood is made beside the same speech without it, so that the lips still close and round where they must; where nothing
        is said, silent (frames,), they are still.
        """
        ready = self._ready(avatar)
        generator = ready.expression_generator
        asked = weights.at(len(features)).to(self.device)
        neutral = torch.eye(asked.shape[1], device=self.device)[:1].expand_as(asked)
        ways = [asked] if torch.equal(asked, neutral) else [asked, neutral]
        latents = torch.stack([generator.latent(way, seed=seed, temperature=TEMPERATURE) for way in ways])
        own = torch.zeros(asked.shape[1], 1) if ready.avatar.moods is None else ready.avatar.moods.expression
        moods = torch.stack([way.cpu() @ own for way in ways])
        made = torch.empty(len(asked), generator.config.coefficients)  # a list of small tensors takes ten times that
        spoken = torch.empty_like(made)
        for frame, said in enumerate(generator.stream_ways(features, latents)):
            said = said.float().cpu()
            said += moods[:, frame]
            said[0] += (exaggeration - 1) * (said[0] - said[-1])
            made[frame] = said[0] if len(said) == 1 else self.lip_guard(*said)
            spoken[frame] = said[-1]
            if watch is not None:
                watch(frame + 1)
        return ExpressionTrack(made if silent is None else self.lip_guard.still(made, spoken, silent))

    @torch.no_grad()
    @one_core()
    def motion(
        self,
        features: Tensor,
        avatar: Who,
        seed: int = 0,
        head: float = 1.0,
        blink: float = 1.0,
        gaze: float = 1.0,
        weights: EmotionWeights | None = None,
    ) -> MotionTrack:
        """How the head, the eyelids and the eyes move: around the person's mean, times the amounts.

        weights: the emotion, in which their eyelids may rest elsewhere.
        """
        avatar = self._ready(avatar).avatar
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

    def render(self, track: FaceTrack, avatar: Who, first: int = 0, frames: int | None = None) -> np.ndarray:
        """The drawn face of frames first, first + 1, ... of a track: (frames, height, width, channels) uint8."""
        renderer = self._ready(avatar).renderer
        rows = slice(first, None if frames is None else first + frames)
        coefficients = track.expression.coefficients[rows].numpy()
        motion = track.motion.stacked()[rows].numpy()
        shoulders = [None] * len(motion) if track.shoulders is None else track.shoulders[rows].numpy()
        return np.stack([renderer.render(*row) for row in zip(coefficients, motion, shoulders)])

    def draw(self, track: FaceTrack, avatar: Who, weights: EmotionWeights) -> Iterator[np.ndarray]:
        """Frames (height, width, 3) uint8 RGB of a track, drawn a few batches ahead of whoever takes them."""
        ready, omega = self._ready(avatar), weights.at(len(track))

        def drawn(first: int) -> np.ndarray:
            return self.paint(ready, self.render(track, ready, first, BATCH), omega[first : first + BATCH])

        # Whole batches side by side, a core each (one_core says why), beside the video encoder's own process.
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
    def paint(self, avatar: Who, rendering: np.ndarray, omega: Tensor) -> np.ndarray:
        """What the head generator makes of renderings (batch, height, width, channels) uint8 and weights (batch, 8).

        Returns (batch, height, width, 3) uint8.
        """
        ready = self._ready(avatar)
        drawn = torch.from_numpy(rendering).to(self.device).permute(0, 3, 1, 2)  # channels_last already: only the view changes
        drawn = drawn.float().div_(127.5).sub_(1)
        style = ready.avatar.emotion_mapping(omega.to(self.device))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.draws_in_half):
            frames = ready.avatar.head_generator(drawn, style)
        frames = frames.float().add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        return frames.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    # --- Whole performances ----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        speech: Path | str | np.ndarray,
        avatar: Who = None,
        emotion: Mapping[str, float] | None = None,
        timeline: Sequence[Mapping] | None = None,
        intensity: float = 1.0,
        seed: int = 0,
        head: float = 1.0,
        blink: float = 1.0,
        gaze: float = 1.0,
        full_frame: bool = False,
        watch: Callable[[int, int], None] | None = None,
    ) -> Performance:
        """The avatar says the speech: a file, or (samples,) float at 16 kHz. SpeakRequest says what the options mean.

        watch is called with the finished and all frames while the expression is made.
        Errors: ValueError for an option, UnusableSpeech, UnusableAvatar.
        """
        waveform = speech if isinstance(speech, np.ndarray) else read_speech(Path(speech))
        request = SpeakRequest(speech, avatar, emotion or {}, timeline, intensity, seed, head, blink, gaze, full_frame)
        return self.perform(request, waveform, watch)

    def perform(
        self, request: SpeakRequest, waveform: np.ndarray, watch: Callable[[int, int], None] | None = None
    ) -> Performance:
        """What a request asks for, said with a speech (samples,) at 16 kHz that was read already. Else as a call."""
        ready = self._ready(request.avatar)
        # Before the work: not every avatar has one.
        idle = IdleLoop.load(ready.avatar.folder) if request.full_frame else None
        features = self.encode(waveform)
        weights, seed = request.weights(len(features)), request.seed
        told = None if watch is None else lambda done: watch(done, len(features))
        silent, exaggeration = silent_frames(waveform, len(features)), max(request.intensity, 1.0)
        expression = self.expression(features, weights, ready.avatar, seed, told, silent, exaggeration)
        motion = self.motion(features, ready.avatar, seed, request.head, request.blink, request.gaze, weights)
        track = FaceTrack(expression, motion, torch.ones(len(features), dtype=torch.bool))
        return Performance(self, ready.avatar, track, weights, waveform, idle)

    def speak(
        self,
        request: SpeakRequest,
        output: Path,
        progress: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] | None = None,
        tracks: Path | None = None,
        live: Path | None = None,
    ) -> Path:
        """Make the video of a request, and the track file beside it when asked. Nothing half-written is ever left.

        live: a second file, that can be watched while it grows (VideoWriter).

        Errors: Stopped when stop() says so; UnusableSpeech, UnusableAvatar, UnusableInput when the output can't be written.
        """
        watcher = _Watcher(progress, stop)
        watcher.tell("listening", 0, 1)
        performance = self.perform(request, read_speech(Path(request.speech)), partial(watcher.tell, "expression"))
        self.film(performance, output, progress, stop, Path(request.speech), live, request.label)
        if tracks is not None:
            unfinished = Path(tracks).with_name(f".writing-{Path(tracks).name}")
            performance.track.save(unfinished)
            unfinished.replace(tracks)
        return Path(output)

    def reenact(
        self,
        driver: FaceTrack,
        avatar: Who = None,
        speech: np.ndarray | None = None,
        weights: EmotionWeights | None = None,
        absolute: bool = False,
    ) -> Performance:
        """The avatar does what the driver does. weights: None asks the expression generator's encoder which emotion it sees.

        absolute: the driver is the person of the avatar in the same framing; otherwise motion is taken relative to its mean.
        """
        ready = self._ready(avatar)
        if weights is None:
            weights = self.recognise(driver, None if speech is None else self.encode(speech))
        track = driver if absolute else retarget(driver, ready.avatar)
        return Performance(self, ready.avatar, track, weights, speech)

    def film(
        self,
        performance: Performance,
        output: Path,
        progress: Callable[[Progress], None] | None = None,
        stop: Callable[[], bool] | None = None,
        sound: Path | None = None,
        live: Path | None = None,
        label: bool = False,
    ) -> Path:
        """Draw a performance into an mp4 file, marked and signed as AI-generated.

        sound: the file its speech was read from, to keep its quality; live: as for speak; label: says it in the picture, too.
        Errors: Stopped when stop() says so, UnusableInput when the output can't be written or signed.
        """
        watcher, output = _Watcher(progress, stop), Path(output)
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
        self, avatar: Who = None, emotion: Mapping[str, float] | None = None, seed: int = 0, intensity: float = 1.0
    ) -> np.ndarray:
        """One frame (height, width, 3) uint8: the avatar at rest in its mean pose, in an emotion. For the sliders' preview."""
        ready = self._ready(avatar)
        weights = EmotionWeights.from_mapping(emotion, min(intensity, 1.0))
        features = self.encode(np.zeros(STILL_FRAMES * SAMPLES_PER_FRAME, np.float32))
        expression = self.expression(features, weights, ready.avatar, seed, exaggeration=max(intensity, 1.0))
        motion = _moved(ready.avatar, torch.zeros(1, 10), 0.0, 0.0, 0.0, weights)
        settled = ExpressionTrack(expression.coefficients[-1:])
        return next(self.draw(FaceTrack(settled, motion, torch.ones(1, dtype=torch.bool)), ready.avatar, weights))

    # --- Avatars in memory -----------------------------------------------------------------------------------------------------

    def _ready(self, avatar: Who) -> _Cast:
        """The avatar with what drawing it needs: loaded, on the device, its speaking style in a generator of its own."""
        if isinstance(avatar, _Cast):
            return avatar
        if isinstance(avatar, Avatar):
            folder, key = avatar.folder, avatar
        else:
            folder = find_avatar(avatar).resolve()
            card = folder / "avatar.json"
            key = (folder, card.stat().st_mtime_ns if card.exists() else None)  # trained again: loaded again
        with self._lock:
            known = next((cast for wanted, cast in self._cast.items() if key == wanted or key is cast.avatar), None)
            if known is None:
                known = self._prepared(avatar if isinstance(avatar, Avatar) else load_avatar(folder))
                self._cast[key] = known
                while len(self._cast) > AVATARS_KEPT:
                    self._cast.popitem(last=False)
            return known

    def _prepared(self, avatar: Avatar) -> _Cast:
        avatar.head_generator.to(self.device, memory_format=torch.channels_last)
        avatar.emotion_mapping.to(self.device)
        generator = self.expression_generator
        if avatar.speaking_style is not None:
            generator = with_speaking_style(generator, avatar.speaking_style)
        if avatar.moods is not None and avatar.moods.expression.shape[1] != generator.config.coefficients:
            raise UnusableAvatar(f"The emotions of {avatar.name!r} are of another face model; train it again.")
        return _Cast(avatar, Renderer(self.face_model, avatar.face, size_of(avatar)), generator)


class _Watcher:
    """Tells how far the work is, and ends it when asked to."""

    def __init__(self, progress: Callable[[Progress], None] | None, stop: Callable[[], bool] | None) -> None:
        self.progress, self.stop, self.began = progress, stop, {}

    def tell(self, stage: str, done: int, total: int) -> None:
        if self.stop is not None and self.stop():
            raise Stopped
        if self.progress is None:
            return
        first, start = self.began.setdefault(stage, (done, time.monotonic()))
        pace = (time.monotonic() - start) / (done - first) if done > first else None
        left = pace * (total - done) if pace is not None and stage == "drawing" else None
        self.progress(Progress(stage, done, total, left))


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


def size_of(avatar: Avatar) -> int:
    """Pixels on a side of the avatar's picture."""
    return avatar.head_generator.config.size


def _check_amounts(seed: int, head: float, blink: float, gaze: float) -> None:
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number >= 0, not {seed!r}")
    for name, amount in (("head", head), ("blink", blink), ("gaze", gaze)):
        if not isinstance(amount, (int, float)) or not math.isfinite(amount) or not 0 <= amount <= LARGEST_AMOUNT:
            raise ValueError(f"{name} must be between 0 and {LARGEST_AMOUNT:g}, not {amount!r}")


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
    if weights is not None and avatar.moods is not None:
        held = weights.at(len(normalised)) @ avatar.moods.motion
        values = values + held
        resting = resting + held[:, 6:8]
    resting = resting.clamp(0, LOWEST_LID)
    values[:, 6:8] = resting + (1 - resting) * normalised[:, 6:8].clamp(0, 1) * blink
    return MotionTrack.unstacked(values)
