"""Where a video comes from, as it says itself: its C2PA manifest, and the marks in its pictures and its sound."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from gmtalker.avatars.consent import avatar_id, withdrawn_avatars
from gmtalker.avatars.storage import list_avatars
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.media.audio import stream_sound
from gmtalker.media.video import read_frames
from gmtalker.provenance.credentials import AVATAR_ASSERTION, FORMATS
from gmtalker.provenance.signing import PROGRAM, own_serials, reader
from gmtalker.provenance.sound_mark import RATE, READ_SECONDS_MAX, find_sound_mark
from gmtalker.provenance.watermark import find_mark

# c2pa's codes of a certificate out of its dates.
DATES = {"signingCredential.expired", "claimSignature.outsideValidity"}
TEXT_MAX, INPUTS_MAX = 60, 16  # letters of what a manifest says, and files it names, that are told
FOREIGN = "marks of other makers, as SynthID or TrustMark, can't be read here"


@dataclass(frozen=True)
class Input:
    """A file that a video was made of, as its manifest names it.

    title: its name.
    credentials: as in Findings: what they were when it was used.
    """

    title: str
    credentials: str


@dataclass(frozen=True)
class Findings:
    """What a video says of its origin.

    credentials: "valid" (signed, and not a byte was changed since), "outdated" (the same, but the certificate was not valid yet,
        or no more), "broken" (changed since it was signed) or "none".
    program, signer: as the manifest names them; None without a readable manifest.
    signed_here: whether the certificate is this workspace's own.
    made: when, ISO 8601, as the manifest says; None where it does not.
    time_stamp: when a time-stamp authority saw the signature; None for none.
    composite: whether real pictures are part of it, as the manifest says.
    inputs: of what it was made, as far as that carried credentials.
    marked, sound_marked: whether the pictures, and the sound, hold the mark.
    avatar_id: 10 hexadecimal digits, from a mark or else from the manifest.
    avatar: the name of the avatar with that id, where it is in the workspace or was withdrawn there.
    withdrawn: when the consent to that avatar was withdrawn, as this workspace knows; None otherwise.
    """

    credentials: str
    program: str | None = None
    signer: str | None = None
    signed_here: bool = False
    made: str | None = None
    time_stamp: str | None = None
    composite: bool = False
    inputs: tuple[Input, ...] = ()
    marked: bool = False
    sound_marked: bool = False
    avatar_id: str | None = None
    avatar: str | None = None
    withdrawn: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this program made it, as its credentials or its marks say."""
        return self.marked or self.sound_marked or (self._names_us and self.signed_here)

    @property
    def _names_us(self) -> bool:
        return bool(self.program and self.program.rpartition(" ")[0] == PROGRAM)

    @property
    def is_whole(self) -> bool:
        """Whether it is known that nothing was changed."""
        return self.credentials in ("valid", "outdated")

    def sentence(self) -> str:
        """What it means, for the person who asked."""
        told = [self._origin()]
        if self.is_whole and self.time_stamp:
            told.append(f"A time-stamp authority saw it at {self.time_stamp}.")
        told += [f"It was made of {source.title}, {_STATES[source.credentials]}." for source in self.inputs]
        if self.withdrawn:
            told.append(f"The consent to this avatar was withdrawn on {self.withdrawn[:10]}.")
        return " ".join(told)

    def _origin(self) -> str:
        who = f"with the avatar {self.avatar or self.avatar_id}" if self.avatar_id else ""
        when = f" on {self.made[:10]}" if self.made else ""
        made = f"AI-generated{', with real pictures' if self.composite else ''}: made by {PROGRAM} {who}".rstrip() + when
        if self.is_whole:
            ours = made if self._names_us and self.is_ours else f"Its content credentials name {self.program}"
            by = (
                "signed by this workspace"
                if self.signed_here
                else f"signed by “{self.signer}”, whom this workspace does not know"
            )
            late = "; the certificate is out of its dates by the clock here" if self.credentials == "outdated" else ""
            return f"{ours}; it was not changed since it was signed ({by}{late})."
        if self.credentials == "broken":
            named = made if self.marked or self.sound_marked else "It carries content credentials"
            return f"{named}; it was changed after it was signed."
        if self.marked:
            return f"{made}; its content credentials were stripped, as another program that saves a video does."
        if self.sound_marked:
            return f"{made}, as its sound says; its pictures hold no mark."
        return f"Nothing says that {PROGRAM} made this video; {FOREIGN}."

    def to_json(self) -> dict:
        """The fields, and the sentence."""
        return asdict(self) | {"sentence": self.sentence()}


_STATES = {
    "valid": "whose content credentials were whole",
    "outdated": "whose content credentials were whole, with a certificate out of its dates",
    "broken": "which had been changed after it was signed",
    "none": "which carried no content credentials",
}


def verify(video: Path) -> Findings:
    """Find out what a video or a sound says of its origin, by its content credentials and by the marks in it.

    Errors: UnusableVideo when it can't be read, unless its content credentials can.
    """
    manifest, sound = _read_manifest(video), _sound_of(video)
    heard = find_sound_mark(sound, RATE) if len(sound) else None
    known = {avatar_id(entry.card): entry.name for entry in list_avatars()}
    gone = withdrawn_avatars()
    try:
        mark = find_mark(read_frames(video), [bytes.fromhex(identity) for identity in {*known, *gone}])
    except UnusableVideo:
        if manifest.credentials == "none" and not len(sound):
            raise
        mark = None  # a changed byte may have hit the pictures, or it is a sound alone; the rest still tells
    identity = (mark or heard or b"").hex() or manifest.avatar_id
    withdrawn = gone.get(identity or "")
    return replace(
        manifest,
        avatar_id=identity,
        marked=mark is not None,
        sound_marked=heard is not None,
        avatar=known.get(identity or "") or (withdrawn.name if withdrawn else None),
        withdrawn=withdrawn.when if withdrawn else None,
    )


def _sound_of(video: Path) -> np.ndarray:
    """(samples,) at RATE, the first READ_SECONDS_MAX; none where there is no sound, or none that can be read."""
    pieces, left = [np.zeros(0, np.float32)], READ_SECONDS_MAX * RATE
    with suppress(UnusableInput):
        for piece in stream_sound(video, rate=RATE):
            pieces.append(piece[:left])
            left -= len(pieces[-1])
            if left <= 0:
                break
    return np.concatenate(pieces)


def _read_manifest(video: Path) -> Findings:
    """What the manifest of a file says. Errors: UnusableVideo when the file can't be read."""
    import c2pa  # late: a big library, and nothing else needs it

    kind = FORMATS.get(video.suffix.lower(), "video/mp4")
    try:
        with open(video, "rb") as file:
            manifests = reader(file, kind)
            if manifests is None:
                return Findings("none")
            state, manifest = str(manifests.get_validation_state()), manifests.get_active_manifest() or {}
            results = manifests.get_validation_results() or {}
    except FileNotFoundError as error:
        raise UnusableVideo(f"{video.name} does not exist.") from error
    except OSError as error:
        raise UnusableVideo(f"{video.name} can't be read ({error.strerror}).") from error
    except c2pa.C2paError:
        return Findings("broken" if _holds_manifest(video) else "none")
    try:
        return _manifest_of(state, manifest, results)
    except (KeyError, TypeError, AttributeError, IndexError):  # of another shape than any program's
        return Findings("broken")


def _manifest_of(state: str, manifest: dict, results: dict) -> Findings:
    generator = (manifest.get("claim_generator_info") or [{}])[0]
    assertions = {item["label"]: item.get("data") or {} for item in manifest.get("assertions", ())}
    actions = next((data.get("actions", []) for label, data in assertions.items() if label.startswith("c2pa.actions")), [])
    created = next((action for action in actions if action.get("action") == "c2pa.created"), {})
    signature, avatar = manifest.get("signature_info", {}), assertions.get(AVATAR_ASSERTION, {}).get("id")
    return Findings(
        credentials=_credentials(state, results.get("activeManifest", {})),
        program=" ".join(filter(None, (_plain(generator.get("name")) or "an unnamed program", _plain(generator.get("version"))))),
        signer=_plain(signature.get("issuer")),
        signed_here=state.lower() == "trusted" and str(signature.get("cert_serial_number")) in own_serials(),
        made=_plain(created.get("when")),
        time_stamp=_plain(signature.get("time")),
        composite=str(created.get("digitalSourceType", "")).endswith("compositeWithTrainedAlgorithmicMedia"),
        inputs=tuple(map(_input, list(manifest.get("ingredients", ()))[:INPUTS_MAX])),
        avatar_id=avatar if isinstance(avatar, str) and re.fullmatch(r"[0-9a-f]{10}", avatar) else None,
    )


def _plain(text: object) -> str | None:
    """What a stranger's manifest says, as it may stand in a sentence: short, on one line, without signs that turn it around."""
    if not isinstance(text, str) or not text.strip():
        return None
    shown = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return shown[:TEXT_MAX] + ("…" if len(shown) > TEXT_MAX else "")


def _input(ingredient: dict) -> Input:
    active = (ingredient.get("validation_results") or {}).get("activeManifest") or {}
    title = _plain(ingredient.get("title")) or "a file without a name"
    if not ingredient.get("active_manifest"):
        return Input(title, "broken" if active.get("failure") else "none")
    return Input(title, _credentials("invalid" if _faults(active) else "valid", active))


def _credentials(state: str, results: dict) -> str:
    """As Findings names it, of c2pa's verdict and its results for one manifest."""
    if state.lower() in ("valid", "trusted"):
        return "valid"
    faults = _faults(results)
    return "outdated" if faults and faults <= DATES else "broken"


def _faults(results: dict) -> set[str]:
    """The codes of what c2pa found wrong with a manifest, but that it does not know the signer."""
    failed = results.get("failure", ())
    return {str(item.get("code")) for item in failed} - {"signingCredential.untrusted"}


def _holds_manifest(video: Path) -> bool:
    with open(video, "rb") as file:
        return b"c2pa" in file.read(1 << 22)
