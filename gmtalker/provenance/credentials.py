"""Where a video comes from, written into it: an invisible mark in its pictures and its sound, and a signed C2PA manifest."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import cv2
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
TOO_COARSE = ("image/gif",)  # media types whose 256 colours don't hold the picture's mark
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
    voice: the synthetic voice that is heard, None for a recording.
    Errors: UnusableInput when nothing can be signed (signing.signer).
    Source: C2PA 2.4; docs/method.md section 13.
    """

    def __init__(
        self,
        card: dict,
        label: Label | None = None,
        composite: bool = False,
        inputs: Sequence[Path] = (),
        voice: str | None = None,
    ) -> None:
        self.card, self.label, self.composite, self.inputs, self.voice = card, label, composite, inputs, voice
        self._payload = bytes.fromhex(avatar_id(card))
        self._mark, self._frames, self._has_sound = Watermark(self._payload), 0, False
        self._signer = signer()

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A marked copy of a frame (height, width, 3) uint8 RGB, or (height, width, 4) with an outline, which a label widens.

        Frames are given in their order.
        """
        picture = np.ascontiguousarray(frame[..., :3])
        labelled = picture if self.label is None else self.label(picture, self._frames, self.composite)
        self._frames += 1
        marked = self._mark(labelled)
        if frame.shape[2] == 3:
            return marked
        drawn = cv2.morphologyEx((labelled != picture).any(-1).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9)))
        outline = np.where(drawn, 255, frame[..., 3]).astype(np.uint8)
        return np.dstack([marked, outline])

    def sound_mark(self, rate: int) -> SoundMark:
        """What marks the sound of this video, which has so many samples a second."""
        self._has_sound = True
        return SoundMark(self._payload, rate)

    def sign(self, video: Path, media_type: str = "video/mp4") -> None:
        """Put a signed C2PA manifest into a file: the last thing to do to it, as whatever saves it again strips it.

        Errors: UnusableInput when it can't be signed.
        """
        import c2pa  # late: a big library, and nothing else needs it

        try:
            with whole_file(video) as signed, open(video, "rb") as source, open(signed, "w+b") as target:
                made = builder(self._manifest(video.name, media_type, ingredients := self._ingredients()))
                for ingredient, (kind, path) in ingredients.items():
                    with open(path, "rb") as file:
                        made.add_ingredient({"title": path.name, "relationship": "inputTo", "label": ingredient}, kind, file)
                made.sign(self._signer, media_type, source, target)
        except c2pa.C2paError as error:
            raise UnusableInput(f"The video can't be signed ({first_line(error)}).") from error

    def _manifest(self, title: str, media_type: str, ingredients: Sequence[str]) -> dict:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
        created = {"action": "c2pa.created", "when": now, "digitalSourceType": COMPOSITE if self.composite else GENERATED}
        if ingredients:
            created["parameters"] = {"ingredientIds": list(ingredients)}
        has_pictures = not media_type.startswith("audio/") and media_type not in TOO_COARSE
        marks = [PICTURE_MARK] * has_pictures + [SOUND_MARK] * self._has_sound
        bindings = [{"alg": mark, "blocks": [{"scope": {}, "value": self._payload.hex()}]} for mark in marks]
        avatar = {"id": avatar_id(self.card), "name": self.card["name"], "video": uuid.uuid4().hex}
        actions = [created, *([{"action": "c2pa.watermarked.bound", "when": now}] if marks else [])]
        if self.voice is not None:
            avatar["voice"] = self.voice
            text = f"The speech was made from text by the synthetic voice {self.voice}."
            actions.insert(1, {"action": "c2pa.edited", "when": now, "digitalSourceType": GENERATED, "description": text})
        return {
            "claim_generator_info": [{"name": PROGRAM, "version": __version__}],
            "title": title,
            "format": media_type,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": actions}},
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
