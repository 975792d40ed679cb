"""Every video that is made is signed and marked, and verify says what became of it."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import c2pa
import numpy as np
import pytest
from conftest import write_speech
from cryptography import x509
from media import bundled_clip, ffmpeg

import gmtalker
from gmtalker.__main__ import main
from gmtalker.assets import SPEECH
from gmtalker.avatars.consent import avatar_id
from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.storage import rename_avatar
from gmtalker.errors import UnusableInput, UnusableVideo
from gmtalker.media.video import read_frames
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.provenance import signing
from gmtalker.provenance.credentials import COMPOSITE, Seal
from gmtalker.provenance.label import Label
from gmtalker.provenance.verification import FOREIGN, Input, verify
from gmtalker.provenance.watermark import find_mark
from gmtalker.request import SpeakRequest


@pytest.fixture
def speech(tmp_path):
    return write_speech(tmp_path / "speech.wav", seconds=1.2)


@pytest.fixture(scope="module")
def bundled_video(tmp_path_factory):
    """Of the bundled avatar: the tiny one's pictures are noise too small for any mark."""
    folder = tmp_path_factory.mktemp("video")
    os.environ["GMTALKER_HOME"], before = str(folder / "home"), os.environ.get("GMTALKER_HOME")
    try:
        speech = write_speech(folder / "speech.wav", seconds=1.2)
        return GMTalkerPipeline.from_pretrained(device="cpu").speak(SpeakRequest(speech), folder / "made.mp4")
    finally:
        if before is None:
            del os.environ["GMTALKER_HOME"]
        else:
            os.environ["GMTALKER_HOME"] = before


@pytest.fixture
def video(bundled_video, home, tmp_path):
    """A copy of it in a workspace that did not sign it."""
    return Path(shutil.copy(bundled_video, tmp_path / "a vidéo.mp4"))


def test_a_video_names_its_avatar_and_is_valid_to_c2pas_own_reader(video):
    found, card = verify(video), load_avatar().card
    assert (found.credentials, found.marked, found.avatar, found.avatar_id) == ("valid", True, card["name"], avatar_id(card))
    with open(video, "rb") as file:
        reader = c2pa.Reader("video/mp4", file)
        assert str(reader.get_validation_state()).lower() in ("valid", "trusted")
        manifest = reader.get_active_manifest()
    actions = next(x["data"]["actions"] for x in manifest["assertions"] if x["label"].startswith("c2pa.actions"))
    assert manifest["claim_generator_info"][0]["version"] == gmtalker.__version__
    assert actions[0]["action"] == "c2pa.created" and actions[0]["digitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert "AI-generated" in found.sentence() and card["name"] in found.sentence()


def test_the_bundled_preview_says_whose_it_is(home):
    avatar = load_avatar()
    found = verify(avatar.folder / "preview.mp4")
    assert (found.credentials, found.marked, found.avatar_id) == ("valid", True, avatar_id(avatar.card))


def test_one_changed_byte_is_found(video):
    data = bytearray(video.read_bytes())
    data[len(data) // 2] ^= 1
    video.write_bytes(data)
    assert verify(video).credentials == "broken" and "changed" in verify(video).sentence()


def test_saved_again_it_is_stripped_but_still_marked(video, tmp_path):
    ffmpeg("-i", video, "-c", "copy", tmp_path / "copied.mp4")
    found = verify(tmp_path / "copied.mp4")
    assert (found.credentials, found.marked, found.avatar) == ("none", True, load_avatar().name)
    assert "stripped" in found.sentence()


def test_a_renamed_avatar_keeps_its_id(tiny_avatar):
    before = avatar_id(load_avatar(tiny_avatar).card)
    assert avatar_id(load_avatar(rename_avatar(tiny_avatar, "Another Name")).card) == before


def test_an_id_is_the_avatars_own_whatever_the_programs_version(monkeypatch):
    card = {"name": "x", "consent": {"who": "A", "when": "B", "words": "C"}, "versions": {"gmtalker": "0.1.0"}, "measures": {}}
    assert avatar_id(card) == "76ce1db82e"
    monkeypatch.setattr("gmtalker.__version__", "9.9")
    monkeypatch.setattr("gmtalker.provenance.credentials.__version__", "9.9")
    assert avatar_id(card | {"name": "y", "measures": {"psnr": 30.0}, "hub": {"repo": "a/b"}}) == avatar_id(card)
    assert avatar_id(card | {"versions": {}}) != avatar_id(card)


def test_a_video_of_elsewhere_says_nothing(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=1", "-pix_fmt", "yuv420p", tmp_path / "other.mp4")
    found = verify(tmp_path / "other.mp4")
    assert (found.credentials, found.marked, found.avatar_id) == ("none", False, None)
    with pytest.raises(UnusableVideo, match="does not exist"):
        verify(tmp_path / "nothing.mp4")


def test_key_and_certificate_are_made_once_and_kept_from_others(home):
    Seal({"name": "x", "consent": {}, "versions": {}})
    key = home / "provenance" / "key.pem"
    assert key.stat().st_mode & 0o077 == 0 or os.name == "nt"
    before = key.read_bytes()
    Seal({"name": "x", "consent": {}, "versions": {}})
    assert key.read_bytes() == before


def test_a_half_or_broken_pair_is_said_before_anything_is_drawn(tiny_pipeline, tiny_avatar, speech, home, tmp_path):
    folder = home / "provenance"
    folder.mkdir(parents=True)
    (folder / "key.pem").write_text("no key")
    with pytest.raises(UnusableInput, match="certificate.pem"):
        tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "out.mp4")
    (folder / "certificate.pem").write_text("no certificate")
    with pytest.raises(UnusableInput, match="No video can be signed"):
        tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    shutil.rmtree(folder)


def test_a_label_is_seen_and_repeated_by_the_command(tiny_pipeline, tiny_avatar, speech, tmp_path):
    request = SpeakRequest(speech, tiny_avatar, label=True)
    assert request.label == "whole" and request.command().endswith("--label=whole")
    plain = next(read_frames(tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "plain.mp4")))
    shown = next(read_frames(tiny_pipeline.speak(request, tmp_path / "shown.mp4")))
    changed = np.abs(shown.astype(int) - plain).max(2) > 60
    assert changed[:32].any() and not changed[shown.shape[0] // 2 :].any()


def put_pair(home: Path, since: timedelta, until: timedelta) -> None:
    """A pair of ours that is valid between two moments, told from now."""
    folder, now = home / "provenance", datetime.now(timezone.utc)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in zip(("certificate.pem", "key.pem"), signing._new_pair(now + since, now + until)):
        (folder / name).write_bytes(data)


CARD_OF_NOBODY = {"name": "x", "consent": {}, "versions": {}}


@pytest.mark.parametrize(("since", "until"), [(400, 4000), (-4000, -10)])
def test_a_pair_that_was_made_while_the_clock_was_wrong_is_renewed(home, video, since, until):
    put_pair(home, timedelta(days=since), timedelta(days=until))
    before = (home / "provenance" / "key.pem").read_bytes()
    Seal(CARD_OF_NOBODY).sign(video)
    assert (home / "provenance" / "key.pem").read_bytes() != before
    assert verify(video).credentials == "valid" and verify(video).signed_here
    assert len(list(home.glob("provenance-until-*/key.pem"))) == 1, "the old one is kept"


def test_ones_own_certificate_out_of_its_dates_is_named_before_anything_is_drawn(home, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(signing, "AUTHORITY", "A real authority")
        put_pair(home, timedelta(days=-20), timedelta(days=-10))
    with pytest.raises(UnusableInput, match=r"certificate\.pem is valid from .* to .*, and today is"):
        Seal(CARD_OF_NOBODY)


def test_a_video_whose_certificate_has_ended_since_is_not_called_changed(home, video):
    put_pair(home, timedelta(days=-2), timedelta(seconds=2.5))
    Seal(CARD_OF_NOBODY).sign(video)
    time.sleep(3)
    found = verify(video)
    assert found.credentials in ("valid", "outdated") and "was not changed" in found.sentence()


@pytest.mark.parametrize(
    ("codes", "credentials_are"),
    [
        (["signingCredential.expired"], "outdated"),
        (["signingCredential.untrusted", "claimSignature.outsideValidity"], "outdated"),
        (["signingCredential.expired", "assertion.dataHash.mismatch"], "broken"),
        (["signingCredential.invalid"], "broken"),
        ([], "broken"),
    ],
)
def test_dates_are_told_from_changes_by_what_c2pa_says(home, video, monkeypatch, codes, credentials_are):
    class Reader:
        """What c2pa says of a file: signing one with another clock is not for a test."""

        try_create = classmethod(lambda cls, kind, file, context: cls())
        get_validation_state = staticmethod(lambda: "Invalid")
        get_active_manifest = staticmethod(lambda: {"claim_generator_info": [{"name": "GMTalker Studio"}]})
        get_validation_results = staticmethod(lambda: {"activeManifest": {"failure": [{"code": code} for code in codes]}})

    monkeypatch.setattr(c2pa, "Reader", Reader)
    assert verify(video).credentials == credentials_are


def test_who_signed_is_told_apart(home, video):
    Seal(CARD_OF_NOBODY).sign(video)
    assert "signed by this workspace" in verify(video).sentence()
    shutil.rmtree(home / "provenance")
    found = verify(video)
    assert found.credentials == "valid" and not found.signed_here and "does not know" in found.sentence()


def test_verify_tells_a_script_by_its_exit_code(video, tmp_path, capsys):
    data = bytearray(video.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed.mp4").write_bytes(data)
    ffmpeg("-i", video, "-c", "copy", tmp_path / "stripped.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=1", "-pix_fmt", "yuv420p", tmp_path / "other.mp4")
    codes = [main(["verify", str(tmp_path / f"{name}.mp4")]) for name in ("changed", "stripped", "other")]
    assert [main(["verify", str(video)]), *codes] == [0, 4, 4, 3]


def test_verify_on_the_command_line(video, capsys):
    assert main(["verify", str(video), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["credentials"] == "valid" and told["marked"] and told["sentence"].startswith("AI-generated")
    assert main(["verify", str(video.with_name("missing.mp4"))]) == 1
    assert "does not exist" in capsys.readouterr().err


# --- What the manifest says ----------------------------------------------------------------------------------------------------


def manifest_of(video: Path) -> dict:
    with open(video, "rb") as file:
        reader = c2pa.Reader("video/mp4", file)
        assert str(reader.get_validation_state()).lower() in ("valid", "trusted")
        return reader.get_active_manifest()


def assertions_of(video: Path, label: str) -> list[dict]:
    return [item["data"] for item in manifest_of(video)["assertions"] if item["label"].startswith(label)]


def test_a_manifest_tells_when_by_what_and_how_the_marks_are_read(bundled_video):
    created, marked = assertions_of(bundled_video, "c2pa.actions")[0]["actions"]
    age = datetime.now(timezone.utc) - datetime.fromisoformat(created["when"])
    assert timedelta() <= age < timedelta(hours=1) and marked["action"] == "c2pa.watermarked.bound"
    bindings = {item["alg"]: item["blocks"][0]["value"] for item in assertions_of(bundled_video, "c2pa.soft-binding")}
    identity = avatar_id(load_avatar().card)
    assert bindings == {"org.gmtalker.picture.1": identity, "org.gmtalker.sound.1": identity}
    avatar = assertions_of(bundled_video, "org.gmtalker.avatar")[0]
    assert len(avatar["video"]) == 32 and avatar["id"] == identity
    assert verify(bundled_video).made == created["when"] and created["when"][:10] in verify(bundled_video).sentence()


def test_two_videos_have_two_ids(home, video):
    ids = set()
    for _ in range(2):
        Seal(CARD_OF_NOBODY).sign(video)
        ids.add(assertions_of(video, "org.gmtalker.avatar")[0]["video"])
    assert len(ids) == 2


def test_a_full_frame_and_what_a_video_leads_are_composites(speech, home, tmp_path):
    made = GMTalkerPipeline.from_pretrained(device="cpu").speak(SpeakRequest(speech, full_frame=True), tmp_path / "full.mp4")
    assert assertions_of(made, "c2pa.actions")[0]["actions"][0]["digitalSourceType"] == COMPOSITE
    assert verify(made).composite and "with real pictures" in verify(made).sentence()
    ffmpeg("-i", bundled_clip("idle.mp4"), "-t", "0.6", tmp_path / "leading.mp4")
    command = ["reenact", "--video", str(tmp_path / "leading.mp4"), "--output", str(tmp_path / "led.mp4")]
    assert main(command) == 0 and verify(tmp_path / "led.mp4").composite


@pytest.mark.parametrize("state", ["valid", "broken", "none"])
def test_what_comes_in_with_credentials_is_named_and_broken_ones_are_no_good(home, video, tmp_path, state):
    source = tmp_path / "a source.mp4"
    shutil.copy(video, source)
    Seal(CARD_OF_NOBODY).sign(source)
    if state == "broken":
        data = bytearray(source.read_bytes())
        data[len(data) // 2] ^= 1
        source.write_bytes(data)
    if state == "none":
        ffmpeg("-i", video, "-c", "copy", source)
    Seal(CARD_OF_NOBODY, inputs=[source]).sign(video)
    found = verify(video)
    assert found.credentials == "valid"
    assert found.inputs == (() if state == "none" else (Input("a source.mp4", state),))
    assert ("had been changed after it was signed" in found.sentence()) == (state == "broken")


def test_a_recording_with_credentials_is_an_ingredient_of_what_says_it(tiny_pipeline, tiny_avatar, video, tmp_path):
    made = tiny_pipeline.speak(SpeakRequest(video, tiny_avatar), tmp_path / "made.mp4")
    assert verify(made).inputs == (Input(video.name, "valid"),)


def test_a_sound_alone_tells_whose_it_is(tiny_pipeline, tiny_avatar, home, tmp_path):
    made, sound = tiny_pipeline.speak(SpeakRequest(SPEECH, tiny_avatar), tmp_path / "made.mp4"), tmp_path / "sound.m4a"
    ffmpeg("-i", made, "-vn", "-b:a", "64k", sound)
    found = verify(sound)
    assert (found.credentials, found.marked, found.sound_marked) == ("none", False, True)
    assert found.avatar_id == avatar_id(load_avatar(tiny_avatar).card) and "as its sound says" in found.sentence()
    assert main(["verify", str(sound)]) == 4


def test_nothing_found_does_not_mean_that_nothing_is_there(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=1", "-pix_fmt", "yuv420p", tmp_path / "other.mp4")
    assert FOREIGN in verify(tmp_path / "other.mp4").sentence()


# --- Time stamps ---------------------------------------------------------------------------------------------------------------

TSA_CONFIGURATION = """
[tsa]
default_tsa = it
[it]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
signer_digest = sha256
accuracy = secs:1
ordering = no
tsa_name = no
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@pytest.fixture
def authority(tmp_path) -> Iterator[str]:
    """A time-stamp authority on this machine, by OpenSSL."""
    folder = tmp_path / "authority"
    folder.mkdir()
    (folder / "tsa.cnf").write_text(TSA_CONFIGURATION.format(folder=folder))
    (folder / "serial").write_text("01")
    names = ["-subj", "/O=Somebody/CN=A clock", "-addext", "extendedKeyUsage=critical,timeStamping"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{folder}/tsa.key"]
    usage = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=critical,digitalSignature"]
    made = ["openssl", "req", "-x509", *key, "-out", f"{folder}/tsa.pem", "-days", "2", *names, *usage]
    subprocess.run(made, check=True, capture_output=True)

    class Clock(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (folder / "query").write_bytes(self.rfile.read(int(self.headers["content-length"])))
            reply = ["openssl", "ts", "-reply", "-config", f"{folder}/tsa.cnf", "-queryfile", f"{folder}/query"]
            stamped = subprocess.run([*reply, "-out", f"{folder}/reply"], capture_output=True)
            self.send_response(200 if stamped.returncode == 0 else 500)
            self.send_header("content-type", "application/timestamp-reply")
            self.end_headers()
            self.wfile.write((folder / "reply").read_bytes() if stamped.returncode == 0 else stamped.stderr)

        def log_message(self, *values: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Clock) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_an_authority_stamps_the_time_where_it_is_asked_for(home, video, authority, monkeypatch):
    assert verify(video).time_stamp is None
    monkeypatch.setenv("GMTALKER_TSA", authority)
    Seal(CARD_OF_NOBODY).sign(video)
    found = verify(video)
    assert found.credentials == "valid" and found.time_stamp is not None and "time-stamp authority saw it" in found.sentence()


def test_an_authority_that_does_not_answer_is_named_before_anything_is_drawn(
    tiny_pipeline, tiny_avatar, speech, tmp_path, capsys
):
    words = [
        "--avatar",
        str(tiny_avatar),
        "--speech",
        str(speech),
        "--output",
        str(tmp_path / "x.mp4"),
        "--tsa",
        "http://127.0.0.1:9/",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMTALKER_TSA", "")
        patch.setattr("gmtalker.__main__.load_pipeline", lambda options: tiny_pipeline)
        assert main(["speak", *words]) == 1
    assert "time-stamp authority at http://127.0.0.1:9/ gives no stamp" in capsys.readouterr().err
    assert not (tmp_path / "x.mp4").exists()


# --- The visible label ---------------------------------------------------------------------------------------------------------


def luminance(picture: np.ndarray) -> np.ndarray:
    linear = np.where(picture <= 10, picture / 255 / 12.92, ((picture / 255 + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (1920, 1080), (1080, 1920), (144, 176), (64, 64)])
@pytest.mark.parametrize("level", [0, 90, 118, 128, 255])
def test_a_label_is_legible_on_every_picture(size, level):
    frame = np.full((*size, 3), level, np.uint8)
    for language, composite in ((language, composite) for language in ("en", "zh") for composite in (False, True)):
        labelled = Label("whole", language)(frame, 0, composite)
        light = luminance(labelled[(labelled != frame).any(2)].astype(float))
        assert (light.max() + 0.05) / (light.min() + 0.05) >= 4.5
        rows, columns = np.nonzero((labelled != frame).any(2))
        assert rows.max() < size[0] * 2 / 3 and columns.max() < size[1]


def test_a_label_in_intervals_is_seen_first_and_again():
    frame, label = np.zeros((128, 128, 3), np.uint8), Label("intervals")
    seen = [second for second in range(70) if label(frame, 25 * second, False).any()]
    assert seen == [*range(5), *range(30, 35), *range(60, 65)]
    assert all(Label()(frame, 25 * second, False).any() for second in range(70))


def test_labels_differ_by_kind_and_language():
    frame = np.zeros((256, 256, 3), np.uint8)
    drawn = {Label("whole", language)(frame, 0, composite).tobytes() for language in ("en", "zh") for composite in (False, True)}
    assert len(drawn) == 4
    for wrong in ({"shown": "none"}, {"shown": "x"}, {"language": "xx"}):
        with pytest.raises(ValueError):
            Label(**wrong)


# --- What others may try -------------------------------------------------------------------------------------------------------


def sign_as(video: Path, pair: tuple[bytes, bytes], avatar: object, program: str = "GMTalker Studio", url: str = "") -> None:
    """Sign a video as anybody can, with a manifest that claims what it likes."""
    signed = video.with_name("signed.mp4")
    created = {"action": "c2pa.created", "digitalSourceType": COMPOSITE}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}, {"label": "org.gmtalker.avatar", "data": avatar}]
    builder = c2pa.Builder({"claim_generator_info": [{"name": program, "version": "9"}], "assertions": assertions})
    if url:
        builder.set_no_embed()
        builder.set_remote_url(url)
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, *pair, None))
    with open(video, "rb") as source, open(signed, "w+b") as target:
        builder.sign(signer, "video/mp4", source, target)
    signed.replace(video)


@pytest.fixture
def plain(tmp_path) -> Path:
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=1", "-pix_fmt", "yuv420p", tmp_path / "plain.mp4")
    return tmp_path / "plain.mp4"


def test_a_strangers_key_with_our_serial_number_is_not_this_workspace(home, plain, monkeypatch):
    Seal(CARD_OF_NOBODY)
    own = x509.load_pem_x509_certificates((home / "provenance" / "certificate.pem").read_bytes())[0]
    monkeypatch.setattr(x509, "random_serial_number", lambda: own.serial_number)
    pair = signing._new_pair()
    sign_as(plain, pair, {"id": avatar_id(load_avatar().card)})
    found = verify(plain)
    assert found.credentials == "valid" and not found.signed_here and not found.is_ours
    assert "made by GMTalker Studio" not in found.sentence() and "whom this workspace does not know" in found.sentence()
    assert main(["verify", str(plain)]) == 3


@pytest.mark.parametrize(
    "avatar", [{"id": ["a"]}, {"id": {"a": 1}}, {"id": "x" * 500_000}, {"id": "\u202eevil\n"}, ["a"], "text", 7, {}]
)
def test_a_hostile_manifest_is_told_and_never_believed(home, plain, avatar):
    try:
        sign_as(plain, signing._new_pair(), avatar, program="this workspace). Trust it. (\u202e" + "x" * 5000)
    except c2pa.C2paError:
        pytest.skip("the library itself refuses to write it")
    found = verify(plain)
    sentence = found.sentence()
    assert not found.is_ours and found.avatar_id is None and len(sentence) < 600 and sentence.isprintable()


def test_no_manifest_makes_this_machine_ask_another(home, plain, authority, monkeypatch):
    asked: list[str] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *values: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listening) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sign_as(plain, signing._new_pair(), {}, url=f"http://127.0.0.1:{server.server_port}/manifest.c2pa")
        assert b"manifest.c2pa" in plain.read_bytes()
        verify(plain)
        Seal(CARD_OF_NOBODY, inputs=[plain])._ingredients()
        server.shutdown()
    assert not asked


def test_a_strip_of_a_picture_is_not_laid_out():
    assert find_mark([np.zeros((1, 8192, 3), np.uint8)] * 3) is None
