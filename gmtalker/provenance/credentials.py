"""Where a video comes from: a signed C2PA manifest beside its pictures and an invisible mark in them, written and read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from gmtalker import __version__
from gmtalker.avatars.storage import list_avatars
from gmtalker.avatars.workspace import private_home, workspace
from gmtalker.errors import UnusableInput, UnusableVideo, first_line
from gmtalker.files import temporary_folder, whole_file
from gmtalker.media.video import read_frames
from gmtalker.provenance.watermark import PAYLOAD, Watermark, find_mark

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

PROGRAM = "GMTalker Studio"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
AVATAR_ASSERTION = "org.gmtalker.avatar"
KEY_FILE, CERTIFICATE_FILE = "key.pem", "certificate.pem"
VALID_DAYS = 3650
AUTHORITY = "Authority of one workspace"
LABEL = "AI-generated"
# c2pa's codes of a certificate out of its dates.
DATES = {"signingCredential.expired", "claimSignature.outsideValidity"}


@dataclass(frozen=True)
class Findings:
    """What a video says of its origin.

    credentials: "valid" (signed, and not a byte was changed since), "outdated" (the same, but the certificate was not valid yet,
        or no more), "broken" (changed since it was signed) or "none".
    program, signer: as the manifest names them; None without a readable manifest.
    signed_here: whether the certificate is this workspace's own.
    marked: whether the pictures hold the mark.
    avatar_id: 10 hexadecimal digits, from the mark or else from the manifest.
    avatar: the name of the avatar with that id, where it is in the workspace.
    """

    credentials: str
    program: str | None
    signer: str | None
    signed_here: bool
    marked: bool
    avatar_id: str | None
    avatar: str | None

    @property
    def is_ours(self) -> bool:
        """Whether this program made it, as its credentials or its mark say."""
        return self.marked or bool(self.program and self.program.startswith(PROGRAM))

    @property
    def is_whole(self) -> bool:
        """Whether it is known that nothing was changed."""
        return self.credentials in ("valid", "outdated")

    def sentence(self) -> str:
        """What it means, for the person who asked."""
        who = f"with the avatar {self.avatar or self.avatar_id}" if self.avatar_id else ""
        made = f"AI-generated: made by {PROGRAM} {who}".rstrip()
        if self.is_whole:
            ours = made if self.program and self.program.startswith(PROGRAM) else f"Its content credentials name {self.program}"
            by = "signed by this workspace" if self.signed_here else f"signed by {self.signer}, whom this workspace does not know"
            late = "; the certificate is out of its dates by the clock here" if self.credentials == "outdated" else ""
            return f"{ours}; it was not changed since it was signed ({by}{late})."
        if self.credentials == "broken":
            return f"{made if self.marked else 'It carries content credentials'}; it was changed after it was signed."
        if self.marked:
            return f"{made}; its content credentials were stripped, as another program that saves a video does."
        return f"Nothing says that {PROGRAM} made this video."

    def to_json(self) -> dict:
        """The fields, and the sentence."""
        return asdict(self) | {"sentence": self.sentence()}


def avatar_id(card: dict) -> str:
    """The id of an avatar, the same when it is renamed, shared or pulled: a digest of its consent and of what it was made with.

    card: its avatar.json.
    Returns: 10 hexadecimal digits.
    """
    lasting = json.dumps([card["consent"], card.get("versions", {})], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(lasting.encode()).hexdigest()[: 2 * PAYLOAD]


class Seal:
    """Puts the mark into the frames of one video, and the signature into its finished file.

    Signed with the workspace's provenance/key.pem and certificate.pem. They are made when both are missing, and may be replaced
    by others (ES256, a chain of certificates, both PEM).

    card: avatar.json of the avatar shown.
    label: also write "AI-generated" visibly into each frame.
    Errors: UnusableInput when the key or the certificate can't be used.
    Source: docs/method.md section 13.
    """

    def __init__(self, card: dict, label: bool = False) -> None:
        import c2pa  # late: a big library, and nothing else needs it

        self.card, self.label, self._mark = card, label, Watermark(bytes.fromhex(avatar_id(card)))
        folder = workspace() / "provenance"
        certificate, key = _signing_pair(folder)
        try:
            self._signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, certificate, key, None))
        except c2pa.C2paError as error:
            raise UnusableInput(f"No video can be signed with the key pair in {folder} ({first_line(error)}).") from error

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A marked copy of a frame (height, width, 3) uint8 RGB; frames are given in their order."""
        return self._mark(_labelled(frame) if self.label else frame)

    def sign(self, video: Path) -> None:
        """Put a signed C2PA manifest into an mp4 file: the last thing to do to it, as whatever saves it again strips it.

        Errors: UnusableInput when it can't be signed.
        """
        import c2pa

        created = {"action": "c2pa.created", "digitalSourceType": GENERATED}
        avatar = {"id": avatar_id(self.card), "name": self.card["name"]}
        manifest = {
            "claim_generator_info": [{"name": PROGRAM, "version": __version__}],
            "title": video.name,
            "format": "video/mp4",
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
                {"label": AVATAR_ASSERTION, "data": avatar},
            ],
        }
        try:
            with whole_file(video) as signed, open(video, "rb") as source, open(signed, "w+b") as target:
                c2pa.Builder(manifest).sign(self._signer, "video/mp4", source, target)
        except c2pa.C2paError as error:
            raise UnusableInput(f"The video can't be signed ({first_line(error)}).") from error


def _labelled(frame: np.ndarray) -> np.ndarray:
    """A copy of a frame (height, width, 3) uint8 that says in its corner that it is AI-generated."""
    frame = np.ascontiguousarray(frame).copy()
    scale = min(frame.shape[:2]) / 480
    place = (round(12 * scale), frame.shape[0] - round(14 * scale))
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1.5)):
        width = max(1, round(thickness * scale))
        cv2.putText(frame, LABEL, place, cv2.FONT_HERSHEY_SIMPLEX, 0.9 * scale, colour, width, cv2.LINE_AA)
    return frame


def _signing_pair(folder: Path) -> tuple[bytes, bytes]:
    """Certificates and private key (PEM) of the folder; made when both are missing, renewed when ours are out of their dates.

    Errors: UnusableInput when one is missing, or another's certificate is out of its dates: before anything is drawn.
    """
    certificate, key = folder / CERTIFICATE_FILE, folder / KEY_FILE
    if not certificate.exists() and not key.exists():
        _make_pair(folder)
    try:
        pair = certificate.read_bytes(), key.read_bytes()
    except OSError as error:
        raise UnusableInput(f"{folder} needs both {KEY_FILE} and {CERTIFICATE_FILE}, or neither, to sign videos.") from error
    own, since, until = _dates(pair[0])
    now = datetime.now(timezone.utc)
    if since <= now <= until:
        return pair
    if not own:
        dates = f"{since:%Y-%m-%d} to {until:%Y-%m-%d}"
        raise UnusableInput(f"{certificate} is valid from {dates}, and today is {now:%Y-%m-%d}; please put a valid one there.")
    old = folder.with_name(f"{folder.name}-until-{now:%Y%m%d%H%M%S}")
    try:
        folder.rename(old)  # kept: by its certificate verify knows the videos that were signed with it
    except OSError as error:
        if certificate.exists() and certificate.read_bytes() == pair[0]:  # else another process was first
            raise UnusableInput(
                f"The certificate in {folder} is out of its dates, and can't be renewed ({error.strerror})."
            ) from error
    return _signing_pair(folder)


def _dates(chain: bytes) -> tuple[bool, datetime, datetime]:
    """Whether the first certificate of a chain (PEM) is one that this program made, and from when until when it is valid."""
    from cryptography import x509

    try:
        first = x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, IndexError):
        return False, datetime.min.replace(tzinfo=timezone.utc), datetime.max.replace(tzinfo=timezone.utc)  # told when it is used
    names = first.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    own = any(name.value == AUTHORITY for name in names)
    return own, first.not_valid_before_utc, first.not_valid_after_utc


def _own_serials() -> set[str]:
    """Serial numbers of the certificates that this workspace signs with, or has signed with."""
    from cryptography import x509

    serials = set()
    for path in workspace().glob(f"provenance*/{CERTIFICATE_FILE}"):
        try:
            serials.add(str(x509.load_pem_x509_certificates(path.read_bytes())[0].serial_number))
        except (OSError, ValueError, IndexError):
            continue
    return serials


def _make_pair(folder: Path) -> None:
    """Make a signing pair, and the folder that holds it."""
    private_home()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The folder appears with both in it: two videos that are finished together must not mix two pairs.
    with temporary_folder(folder.parent) as making:
        made = making / folder.name
        made.mkdir()
        for name, data in zip((CERTIFICATE_FILE, KEY_FILE), _new_pair()):
            with open(os.open(made / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        try:
            made.rename(folder)
        except OSError:
            if not (folder / KEY_FILE).exists():  # else another process was first, and its pair is as good
                raise


def _new_pair(since: datetime | None = None, until: datetime | None = None) -> tuple[bytes, bytes]:
    """Certificates and private key (PEM): a certificate for signing, by an authority of its own whose key nobody keeps.

    since, until: when they are valid; None is from yesterday, and for VALID_DAYS.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    since = since or datetime.now(timezone.utc) - timedelta(days=1)  # clocks differ
    dates = since, until or since + timedelta(days=VALID_DAYS)
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate(AUTHORITY, root.public_key(), True, dates).sign(root, hashes.SHA256())
    certificate = (
        _certificate("One workspace", own.public_key(), False, dates)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
        .sign(root, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem) + authority.public_bytes(pem), secret


def _certificate(
    name: str, key: ec.EllipticCurvePublicKey, authority: bool, dates: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    """A certificate of a key, issued by AUTHORITY, as far as that of an authority and that of a signer are alike.

    dates: from when until when it is valid.
    """
    from cryptography import x509

    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    usage |= {"digital_signature": not authority, "key_cert_sign": authority, "crl_sign": authority}
    organisation = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, PROGRAM)
    subject, issuer = (
        x509.Name([organisation, x509.NameAttribute(x509.NameOID.COMMON_NAME, common)]) for common in (name, AUTHORITY)
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(dates[0])
        .not_valid_after(dates[1])
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


class _Manifest(NamedTuple):
    """What a file's manifest says: credentials, program, signer and signed_here as Findings has them, and the avatar's id."""

    credentials: str
    program: str | None = None
    signer: str | None = None
    signed_here: bool = False
    avatar_id: str | None = None


def verify(video: Path) -> Findings:
    """Find out what a video says of its origin, by its content credentials and by the mark in its pictures.

    Errors: UnusableVideo when it can't be read, unless its content credentials can.
    """
    manifest = _read_manifest(video)
    try:
        mark = find_mark(read_frames(video))
    except UnusableVideo:
        if manifest.credentials == "none":
            raise
        mark = None  # a changed byte may have hit the pictures; the credentials still tell
    identity = mark.hex() if mark else manifest.avatar_id
    known = {avatar_id(entry.card): entry.name for entry in list_avatars()}
    credentials, program, signer, signed_here, _ = manifest
    return Findings(credentials, program, signer, signed_here, mark is not None, identity, known.get(identity))


def _read_manifest(video: Path) -> _Manifest:
    """Errors: UnusableVideo when the file can't be read."""
    import c2pa

    try:
        with open(video, "rb") as file:
            reader = c2pa.Reader.try_create("video/mp4", file)
            if reader is None:
                return _Manifest("none")
            state, manifest = reader.get_validation_state(), reader.get_active_manifest() or {}
            faults = _faults(reader.get_validation_results() or {})
    except FileNotFoundError as error:
        raise UnusableVideo(f"{video.name} does not exist.") from error
    except OSError as error:
        raise UnusableVideo(f"{video.name} can't be read ({error.strerror}).") from error
    except c2pa.C2paError:
        return _Manifest("broken" if _holds_manifest(video) else "none")
    generator = (manifest.get("claim_generator_info") or [{}])[0]
    program = f"{generator.get('name', 'an unnamed program')} {generator.get('version', '')}".strip()
    avatar = next((x["data"] for x in manifest.get("assertions", ()) if x.get("label") == AVATAR_ASSERTION), {})
    credentials = "valid" if str(state).lower() in ("valid", "trusted") else "broken"
    if credentials == "broken" and faults and faults <= DATES:
        credentials = "outdated"
    signature = manifest.get("signature_info", {})
    signed_here = str(signature.get("cert_serial_number")) in _own_serials()
    return _Manifest(credentials, program, signature.get("issuer"), signed_here, avatar.get("id"))


def _faults(results: dict) -> set[str]:
    """The codes of what c2pa found wrong with the active manifest, but that it does not know the signer."""
    failed = results.get("activeManifest", {}).get("failure", ())
    return {str(item.get("code")) for item in failed} - {"signingCredential.untrusted"}


def _holds_manifest(video: Path) -> bool:
    with open(video, "rb") as file:
        return b"c2pa" in file.read(1 << 22)
