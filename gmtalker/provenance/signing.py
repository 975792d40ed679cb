"""The key and the certificate that a workspace signs its videos with."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gmtalker.avatars.workspace import private_home, workspace
from gmtalker.errors import UnusableInput, first_line
from gmtalker.files import temporary_folder

if TYPE_CHECKING:
    import c2pa
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

PROGRAM = "GMTalker Studio"
KEY_FILE, CERTIFICATE_FILE = "key.pem", "certificate.pem"
VALID_DAYS = 3650
NOTHING = "http://c2pa.org/digitalsourcetype/empty"
AUTHORITY = "Authority of one workspace"
END = "-----END CERTIFICATE-----"
TIME_STAMP_AUTHORITY = "GMTALKER_TSA"  # environment variable: the address of one (RFC 3161), which stamps every signature


@lru_cache(4)
def _context_with(own: str) -> c2pa.Context:
    import c2pa  # late: a big library, and nothing else needs it

    # No file may make this machine ask another one: manifests elsewhere and lists of revoked certificates are not fetched.
    verifying = {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": bool(own)}
    trusted = {"trust": {"trust_anchors": own}} if own else {}
    return c2pa.Context(c2pa.Settings.from_dict({"verify": verifying} | trusted))


def reader(file: BinaryIO, kind: str) -> c2pa.Reader | None:
    """Reads the manifest of a file; "Trusted" where the authority of one of this workspace's certificates vouches for the signer.

    kind: media type.
    Returns: None for a file without a manifest.
    Errors: c2pa.C2paError for one that is broken so far that nothing can be read.
    """
    import c2pa

    return c2pa.Reader.try_create(kind, file, context=_context_with(_own_authorities()))


def builder(manifest: dict) -> c2pa.Builder:
    """Makes a manifest; what it takes in is read without asking other machines."""
    import c2pa

    return c2pa.Builder(manifest, context=_context_with(""))


def _chains() -> list[list[str]]:
    """The chains of certificates (PEM) that this workspace signs with, or has signed with, the signer's own first."""
    found = []
    for path in sorted(workspace().glob(f"provenance*/{CERTIFICATE_FILE}")):
        try:
            parts = path.read_text(encoding="ascii").split(END)
        except (OSError, ValueError):
            continue
        found.append([f"{part.strip()}\n{END}\n" for part in parts if "-----BEGIN CERTIFICATE-----" in part])
    return [chain for chain in found if chain]


def _own_authorities() -> str:
    return "".join("".join(chain[1:] or chain) for chain in _chains())


def own_serials() -> set[str]:
    """Serial numbers of the certificates that this workspace signs with, or has signed with; others can make one of the same."""
    from cryptography import x509

    serials = set()
    for chain in _chains():
        with suppress(ValueError):
            serials.add(str(x509.load_pem_x509_certificate(chain[0].encode()).serial_number))
    return serials


def signer() -> c2pa.Signer:
    """What signs the videos of this workspace, with its provenance/key.pem and certificate.pem.

    They are made when both are missing, and may be replaced by others (ES256, a chain of certificates, both PEM). Every signature
    is stamped by the authority that the environment variable GMTALKER_TSA names; none is asked where it is empty.

    Errors: UnusableInput when the key or the certificate can't be used, or when the authority does not answer.
    """
    import c2pa  # late: a big library, and nothing else needs it

    folder, authority = workspace() / "provenance", os.environ.get(TIME_STAMP_AUTHORITY) or None
    certificate, key = _signing_pair(folder)
    try:
        made = c2pa.Signer.from_info(c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, certificate, key, authority))
    except c2pa.C2paError as error:
        raise UnusableInput(f"No video can be signed with the key pair in {folder} ({first_line(error)}).") from error
    if authority is not None:
        _try(made, authority)
    return made


def _try(signer: c2pa.Signer, authority: str) -> None:
    """Sign one pixel: an authority that does not answer is to be known before anything is drawn."""
    import c2pa
    import cv2
    import numpy as np

    pixel = io.BytesIO(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
    made = {"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": NOTHING}]}}
    manifest = {"claim_generator_info": [{"name": PROGRAM}], "assertions": [made]}
    try:
        builder(manifest).sign(signer, "image/png", pixel, io.BytesIO())
    except c2pa.C2paError as error:
        raise UnusableInput(
            f"The time-stamp authority at {authority} gives no stamp ({first_line(error)}); choose another, or none."
        ) from error


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
