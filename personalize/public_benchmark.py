"""The rows of a paper's table in one command: an avatar of every test person of a public set, trained and measured."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from gmtalker.avatar import load_avatar, slug, workspace
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.tracks import EMOTIONS
from personalize.consent import Consent
from personalize.datasets import WHOLE, Row, read_rows
from personalize.evaluation import evaluate_avatar
from personalize.identity import IdentityJudge
from personalize.training import train_avatar

MEASURED_EVERY = 5  # of a person's clips every so many are measured, and never trained on


def split_of(rows: Sequence[Row]) -> tuple[list[Row], list[Row], float]:
    """A test person's clips to train their avatar on and to measure on, and the second from which those are measured.

    A set that splits each video in time keeps its split. Elsewhere every fifth clip, by name, is measured: the published networks
    never saw these people at all, ours is made for them.
    """
    if rows[0].train_seconds and rows[0].train_seconds < WHOLE:
        return list(rows), list(rows), rows[0].train_seconds
    ordered = sorted(rows, key=lambda row: row.file)
    return [row for index, row in enumerate(ordered) if index % MEASURED_EVERY], ordered[::MEASURED_EVERY], 0.0


def measure_public_set(
    root: Path,
    dataset: str,
    minutes: float,
    pipeline: GMTalkerPipeline,
    told: Callable[[str], None] = lambda _: None,
    identity: IdentityJudge | None = None,
) -> dict:
    """Every measure of `evaluate` for each test person, and their means. Avatars that are already there are not trained again.

    minutes: of training for each person. Errors: UnusableInput when the set has nobody to test on, or too little of somebody.
    """
    people: dict[str, list[Row]] = {}
    for row in read_rows(root, dataset):
        if row.is_video and (row.test or row.train_seconds < WHOLE):
            people.setdefault(row.person, []).append(row)
    if not people:
        raise UnusableInput(f"{root} holds no test clip of {dataset}.")
    result: dict[str, dict] = {}
    for person, rows in sorted(people.items()):
        kept, measured, start = split_of(rows)
        if not kept:
            raise UnusableInput(f"{dataset} has one clip of {person}; it takes two, to train on one and to measure on the other.")
        name = f"{dataset} {person}"
        if not (workspace() / "avatars" / slug(name)).is_dir():
            told(f"training {name}")
            clips = [_first_part(row) for row in kept]
            emotions = {clip: row.emotion for clip, row in zip(clips, kept) if row.emotion in EMOTIONS}
            train_avatar(clips, name, Consent.given_now(person), minutes=minutes, emotions=emotions, pipeline=pipeline)
        videos, sounds = [row.path for row in measured], {row.path: row.heard_in for row in measured}
        result[person] = evaluate_avatar(load_avatar(name), videos, pipeline, start, told, sounds, identity=identity)
    plain = {key for measures in result.values() for key, value in measures.items() if isinstance(value, (int, float))}
    means = {
        key: round(float(np.mean([measures[key] for measures in result.values() if measures.get(key) is not None])), 3)
        for key in sorted(plain - {"start_seconds"})
    }
    return {"dataset": dataset, "people": len(result), "minutes_of_training": minutes} | means | result


def _first_part(row: Row) -> Path:
    """The clip, or where only its first seconds may be learned from, a copy of those in the workspace."""
    if row.train_seconds == 0 or row.train_seconds >= WHOLE:  # a test person's whole clip
        return row.path
    copy = workspace() / "benchmarks" / f"{slug(row.file)}-{row.train_seconds:.2f}{row.path.suffix}"
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        unfinished = copy.with_name(f"unfinished-{copy.name}")
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(row.path.absolute())]
        done = subprocess.run([*command, "-t", f"{row.train_seconds:.3f}", "-crf", "12", str(unfinished)], capture_output=True)
        if done.returncode:
            raise UnusableVideo(f"{row.path.name} can't be cut: {done.stderr.decode(errors='replace').strip()[:200]}")
        unfinished.replace(copy)
    return copy
