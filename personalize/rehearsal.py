"""What a person's head generator rehearses: emotions that the clips do not show (docs/method.md section 3, "Rehearsal")."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gmtalker.assets import GENERIC, SPEECH
from gmtalker.avatars.emotion_offsets import EmotionOffsets
from gmtalker.clock import EMOTIONS, FPS
from gmtalker.device import one_core
from gmtalker.face.lip_guard import LipGuard
from gmtalker.media.audio import read_speech
from gmtalker.models.articulation import ARTICULATION_DIM
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.ratio_image import RatioImages
from gmtalker.models.weights import CONFIG_FILE, load_strict
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.tracks import BLINK
from gmtalker.training.rehearsal import Rehearsal
from personalize.footage import Footage

FRAMES = 250  # of speech that is said in every emotion
FOLDER = "ratio_images"  # among the bundled generic stages


def rehearsal_of(footage: Footage, pipeline: GMTalkerPipeline, offsets: EmotionOffsets | None) -> Rehearsal | None:
    """The generic faces of every emotion, with the person's own speech where there is any.

    offsets: the person's.
    Returns: None where there are no ratio images of this face model among the bundled stages.
    """
    if not (GENERIC / FOLDER / CONFIG_FILE).is_file():
        return None
    ratio_images = load_strict(RatioImages, GENERIC / FOLDER)
    if ratio_images.config.coefficient_dim != pipeline.face_model.coefficient_dim:
        return None
    speech = footage.features[torch.from_numpy(footage.speaks & ~footage.held_out)][:FRAMES]
    if len(speech) < FPS:
        speech = pipeline.encode(read_speech(SPEECH))[:FRAMES]
    spoken = say_in_every_emotion(pipeline.expression_generator, speech, offsets, pipeline.lip_guard)
    lids = np.zeros((len(EMOTIONS), 2)) if offsets is None else offsets.motion[:, BLINK].double().numpy()
    return Rehearsal(spoken[0].double().numpy(), spoken.double().numpy(), lids, ratio_images)


@torch.no_grad()
@one_core()
def say_in_every_emotion(
    generator: ExpressionGenerator, features: Tensor, offsets: EmotionOffsets | None, guard: LipGuard
) -> Tensor:
    """The expression of a speech in each emotion at full weight, as a pipeline generates it.

    features: (frames, d).
    Returns: (8, frames, n).
    """
    weights = torch.eye(len(EMOTIONS), device=generator.device)
    latents = torch.stack([generator.latent(row.expand(len(features), -1), seed=0) for row in weights])
    spoken = torch.stack(list(generator.stream_conditions(features.to(generator.device), latents)), dim=1).cpu()
    if offsets is not None:
        spoken = spoken + offsets.expression[:, None]
    shaped = []
    for emotional in spoken:
        lips = guard.open()
        lips.hear(features[:, -ARTICULATION_DIM:].cpu())
        shaped.append(lips.push(emotional, spoken[0]))
    return torch.stack(shaped)
