"""The head of one person learned twice: from our generic start, and by a network of the reference's widths from nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from gmtalker.models.discriminator import Discriminator
from gmtalker.models.emotion_mapping import EmotionMapping
from gmtalker.models.head_generator import REFERENCE_WIDTHS, HeadGenerator
from gmtalker.pipeline import GMTalkerPipeline
from personalize.pictures import draw_curves
from personalize.training import StageTeller, gather_footage, train_person_head


def compare_heads(
    clips: Sequence[Path],
    minutes: float,
    pipeline: GMTalkerPipeline,
    told: Callable[[str], None] = lambda _: None,
    picture: Path | None = None,
    size: int = 256,
) -> dict:
    """PSNR on held-out frames over the minutes of training, of both, on the same footage; a drawing of it into picture.

    Errors: UnusableVideo.
    """
    curves, steps = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        told("finding the face")
        quiet = StageTeller(lambda _: None)
        footage = gather_footage([Path(clip) for clip in clips], {}, pipeline, work, minutes, size, quiet)
        for name, networks in (("ours", None), ("reference", reference_networks(size))):
            told(f"training {name}")
            training = train_person_head(footage, pipeline.face_model, work / name, minutes, lambda _: None, networks)
            curves[name] = [[round(point["seconds"]), round(point["psnr"], 2)] for point in training.state.curve]
            steps[name] = training.state.step
    if picture is not None:
        names = {"ours": "ours, generic start", "reference": "reference widths, no start"}
        draw_curves({names[name]: curve for name, curve in curves.items()}, picture)
    return {
        "clips": [Path(clip).name for clip in clips],
        "minutes": minutes,
        "size": size,
        "training_steps": steps,
        "seconds_and_held_out_psnr": curves,
        "ours_better_by_db": round(curves["ours"][-1][1] - curves["reference"][-1][1], 2),
    }


def reference_networks(size: int) -> tuple[HeadGenerator, EmotionMapping, Discriminator]:
    """StyleUNet of StyleAvatar's widths (arXiv 2305.00942), with EMN and critic, untrained."""
    torch.manual_seed(0)
    return HeadGenerator(size, widths=REFERENCE_WIDTHS[size]), EmotionMapping(), Discriminator()
