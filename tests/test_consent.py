"""A consent has bounds, ends, is proved and withdrawn; what is refused is told in one sentence and stands in the audit log."""

from __future__ import annotations

import json
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from conftest import write_speech
from media import bundled_clip, ffmpeg

from gmtalker.__main__ import main as speak
from gmtalker.avatars.audit import recorded
from gmtalker.avatars.avatar import card_json, read_card, save_card
from gmtalker.avatars.consent import avatar_id, mark_withdrawn, tombstone, withdrawn_avatars
from gmtalker.avatars.on_hub import pull_avatar, update_avatar
from gmtalker.avatars.storage import export_avatar, find_avatar, import_avatar, list_avatars
from gmtalker.avatars.workspace import owned_by
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.hub import push_files
from gmtalker.provenance.verification import verify
from gmtalker.request import SpeakRequest
from personalize import proof
from personalize.__main__ import main
from personalize.check import Report, check_clip
from personalize.consent import GROWN_UP, HEIRS, Consent
from personalize.request import TrainRequest
from personalize.share import share_avatar
from personalize.train import train_avatar
from personalize.withdraw import withdraw_avatar

ANN, BOB = "hf_ann", "hf_bob"
YESTERDAY, TOMORROW = (str(date.today() + timedelta(days=days)) for days in (-1, 1))


def actions() -> list[str]:
    return [line["action"] for line in recorded()]


def with_consent(name: str, **bounds: str) -> Path:
    folder = find_avatar(name)
    card = read_card(folder)
    save_card(folder, card | {"consent": card["consent"] | bounds})
    return folder


@pytest.fixture
def speech(tmp_path) -> Path:
    return write_speech(tmp_path / "speech.wav", seconds=1.0)


# --- Bounds --------------------------------------------------------------------------------------------------------------------


def test_a_consent_says_who_what_for_where_and_until_when(tmp_path, capsys):
    given = Consent.given_now("Ann", uses=" lessons ", places="our website", until=TOMORROW)
    assert (given.uses, given.places, given.until) == ("lessons", "our website", TOMORROW) and "withdraw" in given.withdrawal
    for wrong in ({"until": "soon"}, {"until": "2027-13-01"}, {"uses": "x" * 501}, {"until": YESTERDAY}):
        with pytest.raises(ValueError):
            Consent.given_now("Ann", **wrong)
    assert Consent("Ann", given.when, given.words, until=YESTERDAY).until == YESTERDAY  # an old card is read all the same


def test_the_command_keeps_whose_consent_it_is_and_its_bounds(home, tmp_path, monkeypatch, capsys):
    asked: list[TrainRequest] = []
    monkeypatch.setattr("personalize.__main__._work", lambda options, job, request: asked.append(request) or 0)
    clip = bundled_clip("idle.mp4")
    words = ["train", str(clip), "--name", "Teacher", "--i-have-consent"]
    assert main([*words, "--consent-of", "Ann Lee", "--for", "lessons", "--where", "school", "--until", TOMORROW]) == 0
    given = asked[-1].consent
    assert (given.who, given.uses, given.places, given.until) == ("Ann Lee", "lessons", "school", TOMORROW)
    assert GROWN_UP in given.words
    assert TrainRequest.from_json(asked[-1].to_json()) == asked[-1]
    assert main([*words, "--name", "Other", "--heirs"]) == 0 and HEIRS in asked[-1].consent.words
    assert main([*words, "--until", YESTERDAY]) == 2 and "which is over" in capsys.readouterr().err
    assert main([*words, "--until", "soon"]) == 2 and "a date such as 2027-12-31" in capsys.readouterr().err


def test_after_its_last_day_nothing_is_made_and_nothing_shared(tiny_pipeline, tiny_avatar, speech, tmp_path, hub):
    with_consent(tiny_avatar, until=str(date.today()))
    tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "today.mp4")
    with_consent(tiny_avatar, until=YESTERDAY)
    for make in (
        lambda: tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "late.mp4"),
        lambda: tiny_pipeline.still(tiny_avatar),
        lambda: share_avatar(tiny_avatar, token=ANN),
    ):
        with pytest.raises(UnusableAvatar, match=f"agreed until {YESTERDAY}"):
            make()
    assert not (tmp_path / "late.mp4").exists() and actions() == ["refused"] * 3
    with_consent(tiny_avatar, until="nonsense")
    with pytest.raises(UnusableAvatar, match="can't be read"):
        tiny_pipeline.still(tiny_avatar)


def test_a_training_whose_consent_ended_while_it_waited_is_refused(home):
    late = Consent("Ann", "2026-01-01T00:00:00+00:00", "I agree.", until=YESTERDAY)
    with pytest.raises(UnusableInput, match="which is over; ask them again"):
        train_avatar(TrainRequest("Ann", [bundled_clip("idle.mp4")], late), lambda progress: None)
    assert actions() == ["refused"] and not list_avatars()[1:]


# --- Withdrawn -----------------------------------------------------------------------------------------------------------------


def test_a_withdrawn_avatar_is_gone_refused_and_told_by_verify(tiny_pipeline, tiny_avatar, speech, home, tmp_path, capsys):
    identity = avatar_id(read_card(find_avatar(tiny_avatar)))
    assert main(["export", tiny_avatar, "--output", str(tmp_path / "kept.zip")]) == 0
    tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "video.mp4")
    assert verify(tmp_path / "video.mp4").withdrawn is None
    assert main(["withdraw", tiny_avatar]) == 2 and find_avatar(tiny_avatar)  # nobody is there to be asked
    assert main(["withdraw", tiny_avatar, "--yes"]) == 0
    assert list(withdrawn_avatars()) == [identity] and all(entry.bundled for entry in list_avatars())
    found = verify(tmp_path / "video.mp4")
    assert found.withdrawn and found.avatar == tiny_avatar and "The consent to this avatar was withdrawn" in found.sentence()
    import_avatar(tmp_path / "kept.zip")  # a copy that somebody kept
    with pytest.raises(UnusableAvatar, match="withdrew their consent"):
        tiny_pipeline.speak(SpeakRequest(speech, tiny_avatar), tmp_path / "again.mp4")
    assert speak(["speak", "--avatar", tiny_avatar, "--speech", str(speech), "--output", str(tmp_path / "x.mp4")]) == 1
    assert "withdrew their consent" in capsys.readouterr().err
    assert actions() == ["exported", "deleted", "withdrawn", "imported", "refused", "refused"]


def test_a_copy_elsewhere_refuses_at_its_next_update(tiny_pipeline, tiny_avatar, home, hub):
    repo, _ = share_avatar(tiny_avatar, "ann/tiny", private=False, token=ANN)
    with owned_by("bob"):
        pull_avatar(repo, "Hers", token=BOB)
        tiny_pipeline.still("Hers")
    assert withdraw_avatar(tiny_avatar, ANN) is None
    with owned_by("bob"):
        with pytest.raises(UnusableAvatar, match="withdrew their consent on"):
            update_avatar("Hers", BOB)
        with pytest.raises(UnusableAvatar, match="withdrew their consent"):
            tiny_pipeline.still("Hers")
        with pytest.raises(UnusableAvatar, match="withdrew their consent on"):
            pull_avatar(repo, "Anew", token=BOB)


def test_what_the_hub_does_not_let_go_is_told(tiny_avatar, home, hub, capsys):
    share_avatar(tiny_avatar, "ann/tiny", token=ANN)
    (home / "token").write_text(f"{BOB}\n")
    assert main(["withdraw", tiny_avatar, "--yes", "--token-file", str(home / "token")]) == 1
    assert "still on the Hub as ann/tiny" in capsys.readouterr().err
    assert withdrawn_avatars() and all(entry.bundled for entry in list_avatars())


def test_the_bundled_one_is_nobodys_to_withdraw(home):
    with pytest.raises(UnusableAvatar, match="not yours to withdraw"):
        withdraw_avatar(list_avatars()[0].name)
    assert not withdrawn_avatars()


def test_nobody_withdraws_an_avatar_of_somebody_else(home, hub, tmp_path):
    bundled = list_avatars()[0]
    import_avatar(export_avatar(bundled.name, tmp_path / "a.zip"), "A copy")
    with pytest.raises(UnusableAvatar, match="a copy of one that comes with the program"):
        withdraw_avatar("A copy")
    assert not withdrawn_avatars()


def test_a_repo_withdraws_only_what_came_from_it(tiny_pipeline, tiny_avatar, home, hub):
    card = read_card(find_avatar(tiny_avatar))
    push_files(
        {"avatar.json": card_json(tombstone(card, "2026-11-30T00:00:00+00:00")).encode()}, "bob/evil", "avatar.json", False, BOB
    )
    with pytest.raises(UnusableAvatar, match="withdrew their consent"):
        pull_avatar("bob/evil", token=BOB)
    assert not withdrawn_avatars()
    tiny_pipeline.still(tiny_avatar)


def test_withdrawals_at_once_are_all_noted(home):
    cards = [{"name": str(number), "consent": {"who": str(number)}} for number in range(20)]
    with ThreadPoolExecutor(20) as crowd:
        list(crowd.map(mark_withdrawn, cards))
    assert len(withdrawn_avatars()) == 20


# --- Proved --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip() -> Report:
    return check_clip(bundled_clip("idle.mp4"))


@pytest.fixture
def film(tmp_path) -> Path:
    """The person of the bundled avatar with a voice."""
    write_speech(tmp_path / "voice.wav", 5.0)
    ffmpeg("-i", bundled_clip("preview.mp4"), "-i", tmp_path / "voice.wav", "-map", "0:v", "-map", "1:a", tmp_path / "film.mp4")
    return tmp_path / "film.mp4"


def words_of(sentence: str) -> str:
    return sentence.rpartition(": ")[2].rstrip(".")


def test_a_film_with_the_words_proves_it_and_is_not_kept(home, film, clip):
    words = words_of(proof.ask())
    found = proof.prove(film, clip, lambda sound: f"I agree that… {words.title()}!")
    assert found.words == words and len(found.sha256) == 64 and len(set(words.split())) == 3
    given = Consent.given_now("Ann", proof=asdict(found))
    assert json.loads(json.dumps(TrainRequest("x", [film], given).to_json()))["consent"]["proof"]["sha256"] == found.sha256
    assert not [path for path in home.rglob("*.mp4")]


def test_other_or_old_words_prove_nothing(home, film, clip, monkeypatch):
    words = words_of(proof.ask())
    with pytest.raises(UnusableInput, match="is not heard in film.mp4"):
        proof.prove(film, clip, lambda sound: f"I agree: {' '.join(words.split()[:2])}")
    with pytest.raises(UnusableInput, match="is not heard"):  # one try alone
        proof.prove(film, clip, lambda sound: f"I agree: {words}")


def test_only_the_sentence_itself_is_an_answer_and_only_the_last_one_asked_for(home, monkeypatch):
    words = ["lemon", "garden", "window"]
    assert proof._says("i agree that an avatar of me is made lemon garden window".split(), words)
    for heard in (
        "lemon garden window",
        "i agree window garden lemon",
        "i agree lemon and garden window",
        "lemon garden window i agree",
    ):
        assert not proof._says(heard.split(), words)
    everything = f"i agree {proof.WORDS} lemon garden window {proof.WORDS} {proof.WORDS}"
    assert not proof._says(everything.split(), words)
    proof.ask()
    last = words_of(proof.ask())
    assert proof._asked() == last
    monkeypatch.setattr(proof, "VALID_SECONDS", 0.0)
    assert proof._asked() is None


def test_another_face_proves_nothing(home, film, clip, monkeypatch):
    words = words_of(proof.ask())
    monkeypatch.setattr("personalize.check_faults.face_difference", lambda first, other, model: 1.0)
    with pytest.raises(UnusableInput, match="is another than in"):
        proof.prove(film, clip, lambda sound: words)


def test_a_film_without_a_face_or_recogniser_is_told(home, film, clip, tmp_path, monkeypatch):
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=256x256:rate=25:duration=5", "-i", tmp_path / "voice.wav", tmp_path / "none.mp4")
    with pytest.raises(UnusableInput, match="No face is seen in none.mp4"):
        proof.prove(tmp_path / "none.mp4", clip, lambda sound: "")
    monkeypatch.delenv("GMTALKER_RECOGNISER", raising=False)
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(UnusableInput, match="name one in GMTALKER_RECOGNISER"):
        proof.prove(film, clip)


def said(text: str) -> np.ndarray:
    """A voice that says a text, (samples,) at 16 kHz."""
    from hibari import SAMPLE_RATE, Hibari
    from scipy.signal import resample_poly

    return resample_poly(Hibari()(text), 16_000, SAMPLE_RATE).astype(np.float32)


def test_a_real_recogniser_hears_the_sentence_and_no_other(home):
    hear = proof.recogniser()
    for words in ("dragon island jacket", "elephant hammer apple"):  # the second is misheard without the list of words
        heard = proof._plain(hear(said(proof.SENTENCE.format(words=words)))).split()
        assert proof._says(heard, words.split()) and not proof._says(heard, words.split()[::-1])
    heard = proof._plain(hear(said("The weather is nice today, and the dragon met an island with a jacket."))).split()
    assert not proof._says(heard, "dragon island jacket".split())


def test_the_command_refuses_a_film_of_other_words_and_logs_it(home, film, monkeypatch, capsys):
    monkeypatch.setattr(proof, "recogniser", lambda: lambda sound: "something else")
    words = ["train", str(bundled_clip("idle.mp4")), "--name", "Ann", "--i-have-consent", "--consent-film", str(film)]
    assert main(words) == 1 and "is not heard in film.mp4" in capsys.readouterr().err
    assert main(["log"]) == 0 and "refused  Ann" in capsys.readouterr().out


# --- The audit log -------------------------------------------------------------------------------------------------------------


def test_the_audit_log_is_each_ones_own_and_private(tiny_avatar, home, tmp_path, capsys):
    packed = _packed(tmp_path)
    with owned_by("ann"):
        import_avatar(packed, "Hers")
        assert [(line["action"], line["who"]) for line in recorded()] == [("imported", "ann")]
    assert "imported" not in actions()
    assert main(["log", "--json"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert line["action"] == "exported" and line["when"] and stat.S_IMODE((home / "audit.jsonl").stat().st_mode) == 0o600


def _packed(folder: Path) -> Path:
    return export_avatar("tiny", folder / "tiny.zip")


def test_a_broken_line_hides_no_other(tiny_avatar, home, tmp_path):
    _packed(tmp_path)
    with open(home / "audit.jsonl", "a") as file:
        file.write("{broken\n")
    _packed(tmp_path)
    assert actions() == ["exported", "exported"]
