"""Where a video comes from, written into it: an invisible mark in its pictures and its sound, and a signed C2PA manifest."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from gmtalker import __version__
from gmtalker.avatars.consent import avatar_id
from gmtalker.errors import UnusableInput, first_line
from gmtalker.files import whole_file
from gmtalker.provenance.label import Label
from gmtalker.provenance.signing import PROGRAM, builder, reader, signer
from gmtalker.provenance.sound_mark import SoundMark
from gmtalker.provenance.watermark import Watermark

SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = f"{SOURCES}trainedAlgorithmicMedia"
COMPOSITE = f"{SOURCES}compositeWithTrainedAlgorithmicMedia"
AVATAR_ASSERTION = "org.gmtalker.avatar"
# How the marks are named (their rules are docs/marks.md): the number grows when a reader of the old rule can't read them.
PICTURE_MARK, SOUND_MARK = "org.gmtalker.picture.1", "org.gmtalker.sound.1"
FORMATS = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".m4a": "audio/mp4", ".wav": "audio/wav",
    ".mp3": "audio/mpeg", ".flac": "audio/flac", ".avi": "video/avi",
}  # fmt: skip  # of files that can carry credentials, by their suffix


class Seal:
    """Puts the marks into the frames and the sound of one video, and the signature into its finished file.

    card: avatar.json of the avatar shown.
    label: what is also written visibly into the frames; None for nothing.
    composite: whether real pictures are part of it, or lead it.
    inputs: the files that it is made of; those that carry content credentials are named as its ingredients.
    Errors: UnusableInput when nothing can be signed (signing.signer).
    Source: C2PA 2.4; docs/method.md section 13.
    """

    def __init__(self, card: dict, label: Label | None = None, composite: bool = False, inputs: Sequence[Path] = ()) -> None:
        self.card, self.label, self.composite, self.inputs = card, label, composite, inputs
        self._payload = bytes.fromhex(avatar_id(card))
        self._mark, self._frames, self._has_sound = Watermark(self._payload), 0, False
        self._signer = signer()

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A marked copy of a frame (height, width, 3) uint8 RGB; frames are given in their order."""
        labelled = frame if self.label is None else self.label(frame, self._frames, self.composite)
        self._frames += 1
        return self._mark(labelled)

    def sound_mark(self, rate: int) -> SoundMark:
        """What marks the sound of this video, which has so many samples a second."""
        self._has_sound = True
        return SoundMark(self._payload, rate)

    def sign(self, video: Path) -> None:
        """Put a signed C2PA manifest into an mp4 file: the last thing to do to it, as whatever saves it again strips it.

        Errors: UnusableInput when it can't be signed.
        """
        import c2pa  # late: a big library, and nothing else needs it

        try:
            with whole_file(video) as signed, open(video, "rb") as source, open(signed, "w+b") as target:
                made = builder(self._manifest(video.name, ingredients := self._ingredients()))
                for ingredient, (kind, path) in ingredients.items():
                    with open(path, "rb") as file:
                        made.add_ingredient({"title": path.name, "relationship": "inputTo", "label": ingredient}, kind, file)
                made.sign(self._signer, "video/mp4", source, target)
        except c2pa.C2paError as error:
            raise UnusableInput(f"The video can't be signed ({first_line(error)}).") from error

    def _manifest(self, title: str, ingredients: Sequence[str]) -> dict:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
        created = {"action": "c2pa.created", "when": now, "digitalSourceType": COMPOSITE if self.composite else GENERATED}
        if ingredients:
            created["parameters"] = {"ingredientIds": list(ingredients)}
        marks = [PICTURE_MARK, SOUND_MARK][: 1 + self._has_sound]
        bindings = [{"alg": mark, "blocks": [{"scope": {}, "value": self._payload.hex()}]} for mark in marks]
        avatar = {"id": avatar_id(self.card), "name": self.card["name"], "video": uuid.uuid4().hex}
        return {
            "claim_generator_info": [{"name": PROGRAM, "version": __version__}],
            "title": title,
            "format": "video/mp4",
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [created, {"action": "c2pa.watermarked.bound", "when": now}]}},
                *({"label": "c2pa.soft-binding", "data": binding} for binding in bindings),
                {"label": AVATAR_ASSERTION, "data": avatar},
            ],
        }

    def _ingredients(self) -> dict[str, tuple[str, Path]]:
        """Media type and file by a label, of the inputs that carry credentials, whole or broken."""
        found = {}
        for number, path in enumerate(self.inputs):
            kind = FORMATS.get(Path(path).suffix.lower())
            if kind is not None and carries_credentials(Path(path), kind):
                found[f"input-{number}"] = (kind, Path(path))
        return found


def carries_credentials(path: Path, kind: str) -> bool:
    """Whether a file of a media type holds a C2PA manifest, whole or broken."""
    import c2pa

    try:
        with open(path, "rb") as file:
            return reader(file, kind) is not None
    except OSError:
        return False
    except c2pa.C2paError:
        return False  # what is broken so far that it can't be read can't be named either
