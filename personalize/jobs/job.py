"""One training, as its row says it is, and what one will take."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from gmtalker.avatars.workspace import slug, workspace
from gmtalker.clock import FPS
from gmtalker.progress import time_left
from personalize.consent import Consent
from personalize.progress import WRAP_UP
from personalize.request import REQUEST_FILE, TRAINING_FRAMES_MAX, TrainRequest

TRAINER_BYTES = 1.6e9  # of memory, beside the frames
WORK_BYTES, POINT_BYTES = 220e6, 478 * 3 * 4  # on disk: checkpoints, best weights and the avatar; the points of a frame
OPEN = ("queued", "running")


@dataclass(frozen=True)
class Job:
    """One training.

    status: queued, running, done, failed or stopped; percent: 0 to 100 of the whole training; its: steps a second;
    heartbeat, created: seconds since 1970; clips: absolute paths; emotions: path -> label; minutes: None = the preset's;
    size: pixels of a side that the avatar is drawn at; owner: whose it is, where several people use one machine.
    """

    id: str
    name: str
    clips: list[str]
    preset: str
    minutes: float | None
    consent: dict
    log: str
    emotions: dict[str, str] = field(default_factory=dict)
    status: str = "queued"
    stage: str = "waiting"
    step: int | None = None
    steps: int | None = None
    percent: float = 0.0
    seconds_left: float | None = None
    its: float | None = None
    message: str = ""
    quality: dict | None = None
    pid: int | None = None
    heartbeat: float = field(default_factory=time.time)
    created: float = field(default_factory=time.time)
    size: int = 256
    owner: str = ""

    @property
    def work(self) -> Path:
        """Where this job's training keeps its checkpoints, and strip.jpg and curve.png for whoever watches."""
        return workspace(self.owner) / "training" / slug(self.name)

    @property
    def folder(self) -> Path:
        """Where copies of this job's uploads are kept."""
        return uploads_folder(self.id, self.owner)

    @property
    def request_file(self) -> Path:
        """Where this job's request is written for the trainer, and stays when it is done."""
        return self.work / REQUEST_FILE

    @property
    def request(self) -> TrainRequest:
        """What was asked for."""
        emotions = {Path(clip): emotion for clip, emotion in self.emotions.items()}
        clips = [Path(clip) for clip in self.clips]
        return TrainRequest(self.name, clips, Consent(**self.consent), self.preset, self.minutes, emotions, self.size)

    def summary(self) -> str:
        """One line for people: status, stage, %, time left, speed, message."""
        if self.status == "queued":
            return "Waiting for the training before it to end"
        if self.status != "running":
            return f"{self.status.capitalize()}. {self.message}".strip()
        parts = [f"{self.stage.capitalize()}, {self.percent:.0f} %"]
        if self.step:
            parts.append(f"step {self.step} of {self.steps}" if self.steps else f"step {self.step}")
        if self.seconds_left is not None:
            parts.append(time_left(self.seconds_left))
        if self.its:
            parts.append(f"{self.its:.1f} it/s")
        if isinstance(self.quality, dict):
            parts.append(f"{self.quality['psnr']:.1f} dB on seconds it never saw")
        return " · ".join(part for part in [*parts, self.message] if part)


@dataclass(frozen=True)
class Estimate:
    """What a training will take: minutes in all, disk and memory in bytes."""

    minutes: float
    disk: float
    memory: float


def estimate(minutes: float, seconds: float, reading_seconds: float, upload_bytes: float, size: int = 256) -> Estimate:
    """minutes: of training; seconds: of the clips; reading_seconds: what finding the face in them takes here (Report)."""
    frames = min(seconds * FPS, TRAINING_FRAMES_MAX * 256**2 / size**2)
    disk = WORK_BYTES * max(1, size // 256) + POINT_BYTES * seconds * FPS + upload_bytes
    memory = TRAINER_BYTES + frames * 3 * size**2
    return Estimate(minutes + (2 * reading_seconds + WRAP_UP) / 60, disk, memory)


def free_disk() -> int:
    """Bytes that the workspace's disk still takes."""
    folder = workspace()
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


def uploads_folder(identifier: str, owner: str | None = None) -> Path:
    """Where copies of a job's uploads are kept. owner: whose workspace it is; None is the one at hand."""
    return workspace(owner) / "uploads" / identifier


def same_name(one: str, other: str) -> bool:
    """Whether two names would land in the same folder."""
    return slug(one) == slug(other)


def own_avatar(name: str) -> bool:
    """Whether the workspace holds a finished avatar of this name (a bundled one of the same name is no hindrance)."""
    from gmtalker.avatars.storage import list_avatars

    return any(same_name(entry.name, name) for entry in list_avatars() if not entry.bundled)
