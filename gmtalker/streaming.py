"""A speech that comes in pieces: its expression and motion, the same as of the whole speech (docs/method.md section 15)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmtalker.avatars.motion import FollowingShoulders, MotionAmounts, PersonMotion
from gmtalker.avatars.ready import ReadyAvatar
from gmtalker.clock import SAMPLES_PER_FRAME
from gmtalker.device import one_core
from gmtalker.face.lip_guard import LipGuard
from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.models.motion_generator import MotionGenerator
from gmtalker.models.speech_encoder import SpeechEncoder
from gmtalker.tracks import MOTION_DIM, EmotionWeights, ExpressionTrack, FaceTrack

TEMPERATURE = 1.0
NEUTRAL = 0  # its place among the emotions


@dataclass(frozen=True)
class Manner:
    """How a stream of a face is wanted, beside the emotion.

    seed: of expression and motion.
    exaggeration: factor on the difference that the emotion makes; 1 is as strong as people's.
    motion: how much of the person's movement.
    """

    seed: int = 0
    exaggeration: float = 1.0
    motion: MotionAmounts = MotionAmounts()


class ExpressionStream:
    """The expression of a speech, in an avatar's speaking style, with the lips where the sounds need them.

    An emotion is generated beside the same speech without it, so that lips still close and round where they must.
    Source: docs/method.md section 1, equation (11); then equations (33), (34) and (31) to (32).
    """

    def __init__(self, avatar: ReadyAvatar, guard: LipGuard, seed: int = 0, exaggeration: float = 1.0) -> None:
        self.generator, self.seed, self.exaggeration = avatar.expression_generator, seed, exaggeration
        offsets = avatar.avatar.emotion_offsets
        self.offsets = None if offsets is None else offsets.expression
        self._frames = self.generator.open(conditions=2)
        self._lips = guard.open()
        self._weights: Tensor | None = None  # (n, 8) of the frames that are not given yet

    def push(self, features: Tensor, omega: Tensor) -> Tensor:
        """Hear the next frames.

        features: (m, d) of the speech.
        omega: (m, 8) emotion weights.
        Returns: (k, n) coefficients of the frames that are ready, on the CPU.
        """
        neutral = torch.zeros_like(omega)
        neutral[:, NEUTRAL] = 1
        latents = [self.generator.latent(x.to(features), self.seed, TEMPERATURE) for x in (omega, neutral)]
        self._weights = omega if self._weights is None else torch.cat([self._weights, omega])
        self._lips.hear(features[:, -ARTICULATION_DIM:])
        return self._shaped(self._frames.push(features, torch.stack(latents)))

    def finish(self) -> Tensor:
        """The frames (k, n) that were waiting for what comes after the end."""
        return self._shaped(self._frames.finish())

    def _shaped(self, generated: Tensor) -> Tensor:
        """(k, n) final coefficients of the next frames, of generated ones (2, k, n) with and without emotion."""
        emotional, neutral = generated.float().cpu()
        if not len(emotional):
            return emotional
        omega, self._weights = self._weights[: len(emotional)], self._weights[len(emotional) :]
        if self.offsets is not None:
            emotional, neutral = emotional + omega @ self.offsets, neutral + self.offsets[NEUTRAL]
        emotional = emotional + (self.exaggeration - 1) * (emotional - neutral)
        return self._lips.push(emotional, neutral)


class TrackStream:
    """What a face does while a speech comes in pieces: pieces of sound in, FaceTracks out, never more than 200 ms behind.

    Made by GMTalkerPipeline.open. The frames are those of the whole speech at once; memory does not grow. While nobody speaks,
    push silence: the face rests, blinks and moves on.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        motion_generator: MotionGenerator,
        avatar: ReadyAvatar,
        guard: LipGuard,
        weights: EmotionWeights,
        manner: Manner,
    ) -> None:
        """Errors: TypeError when the encoder reads speech as a whole only."""
        if not isinstance(encoder, SpeechEncoder):
            raise TypeError(f"{type(encoder).__name__} reads a speech as a whole; only the project's own encoder can stream")
        self.encoder, self.motion_generator, self.avatar, self.guard = encoder, motion_generator, avatar, guard
        self.weights, self.manner = weights, manner
        self.reset()

    def reset(self) -> None:
        """Forget the speech so far: the next piece is the beginning of another."""
        self._sound = self.encoder.open()
        self._expression = ExpressionStream(self.avatar, self.guard, self.manner.seed, self.manner.exaggeration)
        self._motion = self.motion_generator.open(self.manner.seed, TEMPERATURE)
        self._person = PersonMotion(self.avatar.avatar, self.manner.motion, self.manner.seed)
        self._shoulders = FollowingShoulders(self.avatar.avatar.face)
        self._heard = self._given = 0  # frames whose features came, and that were given
        # What came of one before the other.
        self._coefficients = torch.zeros(0, self.avatar.expression_generator.config.coefficient_dim)
        self._normalised = torch.zeros(0, MOTION_DIM)

    @one_core()
    @torch.no_grad()
    def push(self, samples: Tensor) -> FaceTrack:
        """Hear the next samples (n,) at 16 kHz. Returns: the track of the frames that are ready, often of none."""
        return self._advance(self._sound.push(samples.to(self.motion_generator.device)))

    def rest(self, frames: int) -> FaceTrack:
        """Go on for so many frames in which nobody speaks."""
        return self.push(torch.zeros(frames * SAMPLES_PER_FRAME))

    @one_core()
    @torch.no_grad()
    def finish(self) -> FaceTrack:
        """The track of the frames that were waiting for what comes after the end. The stream starts anew."""
        track = self._advance(self._sound.finish(), last=True)
        self.reset()
        return track

    def _advance(self, features: Tensor, last: bool = False) -> FaceTrack:
        """The track of the frames that are ready after the features (m, d) of the next ones."""
        omega = self.weights.at(len(features), self._heard)
        self._heard += len(features)
        expression = [self._expression.push(features, omega)]
        motion = [self._motion.push(features)]
        if last:
            expression.append(self._expression.finish())
            motion.append(self._motion.finish())
        coefficients = torch.cat([self._coefficients, *expression])
        normalised = torch.cat([self._normalised, *(piece.float().cpu() for piece in motion)])
        count = min(len(coefficients), len(normalised))
        self._coefficients, self._normalised = coefficients[count:], normalised[count:]
        moved = self._person.push(normalised[:count], self.weights.at(count, self._given))
        self._given += count
        found = torch.ones(count, dtype=torch.bool)
        return FaceTrack(ExpressionTrack(coefficients[:count]), moved, found, self._shoulders.push(moved))
