"""A training job as its row describes it, and an estimate of what a training takes."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from gmtalker.avatars.workspace import private_home, slug, workspace
from gmtalker.clock import FPS
from gmtalker.progress import time_left
from personalize.consent import Consent
from personalize.progress import WRAP_UP
from personalize.request import REQUEST_FILE, SLOWER_MAX, TRAINING_FRAMES_MAX, TrainRequest

TRAINER_BYTES = 1.6e9  # of memory, beside the frames
WORK_BYTES, POINT_BYTES = 220e6, 478 * 3 * 4  # on disk: checkpoints, best weights and the avatar; the points of one frame
BUSY = 1.5  # times the usual time, from where it is told
OPEN = ("queued", "running")


@dataclass(frozen=True)
class Job:
    """One training.

    clips: absolute paths.
    minutes: of training; None for the preset's.
    consent: the fields of a Consent.
    log: the file that the trainer's output goes to.
    emotions: path of a clip to its emotion.
    status: queued, running, done, failed or stopped.
    percent: 0 to 100 of the whole training.
    its: steps a second.
    quality: as HeadState.quality().
    heartbeat, created: seconds since 1970.
    size: side of the avatar's picture in pixels; 0 for what face and minutes allow.
    look: path of the clip that the avatar looks like; empty for the longest look.
    owner: whose it is where several people use one machine, else empty.
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
    look: str = ""

    @property
    def work(self) -> Path:
        """The folder of its checkpoints and of the pictures of its progress."""
        return workspace(self.owner) / "training" / slug(self.name)

    @property
    def folder(self) -> Path:
        """The folder of the copies of its clips."""
        return uploads_folder(self.id, self.owner)

    @property
    def request_file(self) -> Path:
        """The file of its request, which the trainer reads; it stays when the training is done."""
        return self.work / REQUEST_FILE

    @property
    def request(self) -> TrainRequest:
        """The request that it does."""
        emotions = {Path(clip): emotion for clip, emotion in self.emotions.items()}
        clips = [Path(clip) for clip in self.clips]
        picture = self.size or None, Path(self.look) if self.look else None
        return TrainRequest(self.name, clips, Consent(**self.consent), self.preset, self.minutes, emotions, *picture)

    def summary(self) -> str:
        """One line for people: status, or stage, percent, step, time left, speed, quality, message."""
        if self.status == "queued":
            return "Waiting for another training to end"
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
            parts.append(f"{self.quality['psnr']:.1f} dB on unseen footage")
        return " · ".join(part for part in [*parts, self.message] if part)


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    minutes: in all.
    disk, memory: bytes.
    busy: whether other work on this machine makes it longer than usual.
    """

    minutes: float
    disk: float
    memory: float
    busy: bool = False


def estimate(minutes: float, seconds: float, reading_seconds: float, upload_bytes: float, size: int = 256) -> Estimate:
    """Estimate what a training will take, on this machine with what else it does just now.

    minutes: of training.
    seconds: length of the clips.
    reading_seconds: that finding the face in them takes on this machine, as their Report says.
    upload_bytes: of the clips that are copied.
    size: side of the avatar's picture in pixels.
    """
    frames = min(seconds * FPS, TRAINING_FRAMES_MAX * 256**2 / size**2)
    disk = WORK_BYTES * max(1, size // 256) + POINT_BYTES * seconds * FPS + upload_bytes
    memory = TRAINER_BYTES + frames * 3 * size**2
    shared = 1 + _load() / (os.cpu_count() or 1)  # so much longer everything takes
    # A training has its minutes, however slow, until it takes fewer than half of its usual steps (STEPS_A_MINUTE).
    training = minutes * min(max(1.0, shared / 2), SLOWER_MAX)
    return Estimate(training + shared * (2 * reading_seconds + WRAP_UP) / 60, disk, memory, shared >= BUSY)


def _load() -> float:
    """How many processes want a core just now; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def free_disk() -> int:
    """Free bytes on the disk of the workspace."""
    private_home()
    folder = workspace()
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


def uploads_folder(identifier: str, owner: str | None = None) -> Path:
    """The folder of the copies of a job's clips. owner: of the workspace; None for the current one."""
    return workspace(owner) / "uploads" / identifier


def same_name(one: str, other: str) -> bool:
    """Whether two names share a folder."""
    return slug(one) == slug(other)


def own_avatar(name: str) -> bool:
    """Whether the workspace holds a finished avatar of this name, other than a bundled one."""
    from gmtalker.avatars.storage import list_avatars  # late: it brings torch, for which a trainer's first beat need not wait

    return any(same_name(entry.name, name) for entry in list_avatars() if not entry.bundled)
