"""The generic stages: loaded from a folder or the Hub, saved, pushed."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
from huggingface_hub import ModelCardData
from safetensors import SafetensorError

from gmtalker import hub
from gmtalker.assets import GENERIC
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.face.model import FaceModel
from gmtalker.files import temporary_folder
from gmtalker.models.expression_generator import ExpressionGenerator
from gmtalker.models.motion_generator import MotionGenerator
from gmtalker.models.speech_encoder import SpeechEncoder
from gmtalker.models.weights import load_speech_encoder, load_strict, save_half, save_speech_encoder

if TYPE_CHECKING:
    from gmtalker.models.pretrained_encoder import PretrainedSpeechEncoder

NETWORKS = {"expression_generator": ExpressionGenerator, "motion_generator": MotionGenerator}
STAGES = ("speech_encoder", *NETWORKS, "face_model")
INDEX, CARD = "model_index.json", "README.md"
PIPELINE_CLASS = "GMTalkerPipeline"  # whose components an index says the stages are, as diffusers does
CARD_DATA = ModelCardData(
    license="other", license_name="research-demo", library_name="diffusers", tags=["talking-head", "emotion", "speech"]
)
FRONT_MATTER = f"---\n{CARD_DATA.to_yaml()}\n---\n"


@dataclass(frozen=True, eq=False)
class GenericStages:
    """What all avatars share, trained with each other.

    speech_encoder: speech to features, one row a video frame (docs/method.md section 5).
    expression_generator: GMEG, features and emotion weights to expression coefficients (section 1).
    motion_generator: NFMG, features to head pose, eyelids and gaze (section 2).
    face_model: the linear face whose coefficients the expression generator makes (section 6).
    card: their model card as Markdown, for pushing them on; empty when there was none.
    """

    speech_encoder: SpeechEncoder | PretrainedSpeechEncoder
    expression_generator: ExpressionGenerator
    motion_generator: MotionGenerator
    face_model: FaceModel
    card: str = ""


@dataclass(frozen=True)
class HubOptions:
    """How a repo on the Hub is read, as everywhere in huggingface_hub.

    revision: a branch, a tag or a commit; None is the newest.
    token: None is the one this machine is logged in with, False is none.
    cache_dir: where downloads are kept; None is huggingface_hub's own place.
    local_files_only: take only what was fetched before.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False


def load_stages(folder: str | Path | None = None, options: HubOptions = HubOptions()) -> GenericStages:
    """Load the generic stages.

    folder: None is what is bundled, a folder is used as it is, "owner/name" is fetched from the Hub. A stage that a repo on the
        Hub does not hold is the bundled one, and a warning says so.
    options: for a repo on the Hub.
    Errors: UnusableInput when they are not there, can't be fetched or don't fit together; UnusableAvatar when a weight is missing
        or unknown.
    """
    path = Path(GENERIC if folder is None else folder).expanduser()
    fetched = isinstance(folder, str) and not path.is_dir() and hub.REPO_ID.fullmatch(folder) is not None
    if fetched:
        files = [INDEX, CARD, *(f"{stage}/*.{kind}" for stage in STAGES for kind in ("json", "safetensors"))]
        path = hub.fetch_files(folder, files, options.revision, options.token, options.cache_dir, options.local_files_only)
    shown = str(folder if fetched else path)
    missing = _missing_stages(path, shown, fetched)
    if missing:  # to whoever called from_pretrained, the one caller of this function
        warnings.warn(f"{shown} does not hold {', '.join(missing)}; the bundled ones are used.", stacklevel=3)
    folders = {stage: (GENERIC if stage in missing else path) / stage for stage in STAGES}
    networks = {stage: load_strict(network, folders[stage]) for stage, network in NETWORKS.items()}
    try:
        face_model = FaceModel.load(folders["face_model"])
    except (OSError, ValueError, SafetensorError) as error:
        raise UnusableAvatar(f"The face model in {shown} is missing or broken.") from error
    card = (path / CARD).read_text(encoding="utf-8", errors="replace") if (path / CARD).is_file() else ""
    stages = GenericStages(load_speech_encoder(folders["speech_encoder"]), **networks, face_model=face_model, card=card)
    _check_fit(stages, shown)
    return stages


def _missing_stages(path: Path, shown: str, fetched: bool) -> list[str]:
    """Which stages a folder does not hold. Errors: UnusableInput unless the bundled ones may stand in for them."""
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableInput(f"{shown} does not hold the generic stages: its {INDEX} is missing or broken.") from error
    missing = [stage for stage in STAGES if not isinstance(index, dict) or stage not in index]
    if not fetched:
        if missing:
            raise UnusableInput(f"{path / INDEX} does not name {', '.join(missing)}.")
        return []
    missing = [stage for stage in STAGES if stage in missing or not (path / stage).is_dir()]
    if len(missing) == len(STAGES):
        raise UnusableInput(f"{shown} holds none of {', '.join(STAGES)}.")
    return missing


def _check_fit(stages: GenericStages, shown: str) -> None:
    """Errors: UnusableInput when the stages were not trained with each other."""
    expression, motion = stages.expression_generator.config, stages.motion_generator.config
    if stages.speech_encoder.feature_dim != expression.feature_dim:
        raise UnusableInput(f"The speech encoder in {shown} is not the one that the other stages were trained with.")
    if motion.feature_dim != expression.feature_dim or stages.face_model.coefficient_dim != expression.coefficient_dim:
        raise UnusableInput(f"The stages in {shown} were not trained with each other.")


def save_stages(stages: GenericStages, folder: Path) -> None:
    """Write the stages as load_stages and diffusers lay them out: an index and one folder per stage, as safetensors.

    folder: made when it is missing.
    Errors: OSError when it can't be written.
    """
    save_speech_encoder(stages.speech_encoder, folder / "speech_encoder")
    for stage in NETWORKS:
        save_half(getattr(stages, stage), folder / stage)
    stages.face_model.save(folder / "face_model")
    kinds = {stage: [type(getattr(stages, stage)).__module__, type(getattr(stages, stage)).__name__] for stage in STAGES}
    index = {"_class_name": PIPELINE_CLASS, "_diffusers_version": diffusers.__version__} | kinds
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def push_stages(stages: GenericStages, repo: str, private: bool = True, token: str | None = None) -> str:
    """Push the stages and their card into a model repo, which is made when it is missing.

    private: whether only the owner may see it.
    Returns: the repo's address.
    Errors: UnusableInput when the Hub does not take them; then nothing there has changed.
    """
    with temporary_folder() as folder:
        save_stages(stages, folder)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        hub.push_files(files | {CARD: _card_for(stages.card, repo).encode()}, repo, INDEX, private, token)
    return hub.address_of(repo)


def _card_for(card: str, repo: str) -> str:
    """The card with a first section on how to use these stages from a repo; sections that are not about a stage are left out."""
    head, *sections = re.split(r"(?m)^(?=## )", card or f"{FRONT_MATTER}# Generic stages of GMTalker Studio\n")
    kept = [section.rstrip() for section in sections if section[3:].split("\n")[0].strip() in STAGES]
    use = (
        "## Use\n\n```python\nfrom gmtalker import GMTalkerPipeline\n\n"
        f'pipeline = GMTalkerPipeline.from_pretrained("{repo}")\n'
        'frames = pipeline("speech.wav", emotion={"happy": 0.8})\n```'
    )
    return "\n\n".join([head.rstrip(), use, *kept]) + "\n"
