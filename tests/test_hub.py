"""Avatars and generic stages through a Hub on localhost, with the client's own code between: what goes there comes back the
same, nothing half, and what goes wrong is one sentence."""

import errno
import json
import shutil
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CONSENT, write_speech
from hub_server import DROP_DOWNLOADS, DROP_UPLOADS
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import gmtalker.hub
from gmtalker.avatars.avatar import data_files, read_card, save_card
from gmtalker.avatars.on_hub import pull_avatar, push_avatar, resolve, update_avatar
from gmtalker.avatars.ready import load_avatar
from gmtalker.avatars.storage import delete_avatar, export_avatar, find_avatar, import_avatar, list_avatars, rename_avatar
from gmtalker.errors import UnusableAvatar, UnusableInput
from gmtalker.pipeline import GMTalkerPipeline
from personalize.__main__ import main
from personalize.share import share_avatar

ANN, BOB = "hf_ann", "hf_bob"
REPO = "ann/tiny"


@pytest.fixture
def shared(hub, tiny_avatar, home):
    """The repo of the tiny avatar, which is on the Hub for everybody."""
    share_avatar(tiny_avatar, REPO, private=False, token=ANN)
    return hub.repos["model", REPO]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another workspace, empty; calling it goes there."""

    def go():
        monkeypatch.setenv("GMTALKER_HOME", str(tmp_path / "else where"))
        return tmp_path / "else where" / "avatars"

    return go


@pytest.fixture
def no_waiting(monkeypatch):
    """The client's pauses between its tries."""
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda seconds: None))


def sentence(call, *arguments, error=UnusableInput, **options) -> str:
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said and len(said) < 250
    return said


def left_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def files_of(folder) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in data_files(folder).items()}


# --- There and back ------------------------------------------------------------------------------------------------------------


def test_an_avatar_comes_back_the_same(hub, tiny_pipeline, tiny_avatar, elsewhere, tmp_path):
    speech = write_speech(tmp_path / "speech.wav", 0.5)
    still, frames = tiny_pipeline.still(tiny_avatar, {"happy": 1.0}), list(tiny_pipeline(speech, tiny_avatar, {"sad": 0.7}))
    repo, address = share_avatar(tiny_avatar, token=ANN)
    assert repo == REPO and address == f"{hub.endpoint}/{REPO}"
    assert hub.repos["model", REPO].private
    assert "hub" not in json.loads(hub.repos["model", REPO].files["avatar.json"])
    elsewhere()
    folder = pull_avatar(REPO, token=ANN)
    assert np.array_equal(tiny_pipeline.still("tiny", {"happy": 1.0}), still)
    assert all(np.array_equal(*pair) for pair in zip(tiny_pipeline(speech, REPO, {"sad": 0.7}), frames, strict=True))
    assert read_card(folder)["hub"] == {"repo": REPO, "revision": hub.repos["model", REPO].commits[-1][0]}
    assert read_card(folder)["consent"] == CONSENT and not list(folder.rglob(".*"))


def test_where_an_avatar_is_named_its_repo_may_stand_and_without_a_network_too(shared, elsewhere, monkeypatch, hub):
    here = elsewhere()
    asked = len(hub.requests)
    sentence(find_avatar, REPO, error=UnusableAvatar)  # which only looks: nothing is pulled
    sentence(export_avatar, REPO, here / "x.zip", error=UnusableAvatar)
    assert len(hub.requests) == asked and left_in(here) == []
    folder = resolve(REPO)
    assert find_avatar(REPO) == load_avatar(REPO).folder == folder
    assert [entry.name for entry in list_avatars() if not entry.bundled] == ["tiny"]
    rename_avatar("tiny", "Somebody else")
    asked = len(hub.requests)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    assert read_card(find_avatar(REPO))["name"] == "Somebody else"
    assert time.monotonic() - began < 0.5 and len(hub.requests) == asked


def test_whoever_shared_an_avatar_finds_it_by_its_repo(shared, tiny_avatar, home):
    assert find_avatar(REPO) == home / "avatars" / "tiny"
    assert share_avatar(tiny_avatar, private=False, token=ANN)[0] == REPO  # again, where it was before
    assert not update_avatar(tiny_avatar)


def test_a_second_push_is_what_an_update_fetches(shared, tiny_avatar, home, elsewhere, hub):
    here = elsewhere()
    pull_avatar(REPO, name="My one")
    assert not update_avatar("My one")
    folder = find_avatar("My one")
    (folder / "emotion_offsets.safetensors").touch()  # of the version before; gone in the next
    card = json.loads(shared.files["avatar.json"]) | {"measures": {"psnr": 31.0}}
    shared.commit(shared.files | {"avatar.json": json.dumps(card).encode()})
    assert update_avatar("My one")
    assert read_card(folder)["measures"] == {"psnr": 31.0} and read_card(folder)["name"] == "My one"
    assert not (folder / "emotion_offsets.safetensors").exists() and left_in(here) == [folder.name]
    first = shared.commits[1][0]
    pull_avatar(REPO, revision=first)
    assert read_card(folder)["measures"] == {} and read_card(folder)["hub"]["revision"] == first
    assert "revision" in sentence(pull_avatar, REPO, revision="v9")
    assert "has no repo" in sentence(update_avatar, "GRID s1", error=UnusableAvatar)


def test_what_an_avatar_no_longer_has_leaves_its_repo(hub, tiny_avatar, home):
    poster = home / "avatars" / "tiny" / "poster.jpg"
    poster.write_bytes(b"\xff\xd8")
    share_avatar(tiny_avatar, REPO, token=ANN)
    assert "poster.jpg" in hub.repos["model", REPO].files
    poster.unlink()
    share_avatar(tiny_avatar, token=ANN)
    assert "poster.jpg" not in hub.repos["model", REPO].files and ".gitattributes" in hub.repos["model", REPO].files


def test_a_taken_name_is_never_overwritten(shared, elsewhere, avatar_folder):
    here = elsewhere()
    shutil.copytree(avatar_folder, here / "tiny")
    before = files_of(find_avatar("tiny"))
    assert "already" in sentence(pull_avatar, REPO, name="tiny", error=UnusableAvatar)
    folder = pull_avatar(REPO)
    assert read_card(folder)["name"] == REPO and find_avatar(REPO) == folder
    assert files_of(find_avatar("tiny")) == before


def test_an_archive_may_not_claim_a_repo(shared, tiny_avatar, elsewhere, tmp_path):
    packed = export_avatar(tiny_avatar, tmp_path / "a.zip")
    elsewhere()
    folder = import_avatar(packed)
    assert "hub" not in read_card(folder) and resolve(REPO) != folder


# --- Who may see it, and who agreed --------------------------------------------------------------------------------------------


def test_nobody_sees_it_unless_asked_for(hub, tiny_avatar):
    share_avatar(tiny_avatar, REPO, token=ANN)
    assert "no ann/tiny" in sentence(pull_avatar, REPO, name="other", token=BOB)
    assert "token" in sentence(pull_avatar, REPO, name="other")
    share_avatar(tiny_avatar, REPO, private=False, token=ANN)
    assert not hub.repos["model", REPO].private
    assert "everybody" in sentence(share_avatar, tiny_avatar, REPO, token=ANN)  # private was asked for, and it isn't


@pytest.mark.parametrize("key", ["who", "when", "words"])
def test_without_consent_nothing_is_pushed(hub, tiny_avatar, home, key):
    folder = home / "avatars" / "tiny"
    card = read_card(folder)
    save_card(folder, card | {"consent": card["consent"] | {key: " "}})
    assert key in sentence(share_avatar, tiny_avatar, REPO, token=ANN, error=UnusableAvatar)
    assert key in sentence(push_avatar, tiny_avatar, REPO, "# card", token=ANN, error=UnusableAvatar)
    save_card(folder, card | {"consent": {name: text for name, text in card["consent"].items() if name != key}})
    assert "agreed" in sentence(push_avatar, str(folder), REPO, "# card", token=ANN, error=UnusableAvatar)
    assert hub.requests == []


def test_a_repo_of_something_else_is_left_alone(hub, tiny_avatar):
    hub.add("ann/llm", {"config.json": b"{}", "model.safetensors": b"weights"}, private=True)
    assert "something else" in sentence(share_avatar, tiny_avatar, "ann/llm", token=ANN)
    assert set(hub.repos["model", "ann/llm"].files) == {".gitattributes", "config.json", "model.safetensors"}
    assert "'tiny'" in sentence(share_avatar, tiny_avatar, "tiny", token=ANN)
    assert "bob" in sentence(share_avatar, tiny_avatar, "bob/tiny", token=ANN)  # not hers to make
    assert ("model", "bob/tiny") not in hub.repos


def test_the_card_says_what_it_is_whose_and_how_it_is_used(hub, tiny_avatar, home):
    folder = home / "avatars" / "tiny"
    (folder / "emotions.jpg").write_bytes(b"\xff\xd8")
    source = {"seconds": 63.5, "clips": 2, "picture": [640, 480], "speech_seconds": 60.0, "labelled_emotions": ["happy"]}
    save_card(folder, read_card(folder) | {"source": source, "measures": {"psnr": 31.5}, "name": "tiny"})
    share_avatar(tiny_avatar, REPO, token=ANN)
    card = hub.repos["model", REPO].files["README.md"].decode()
    wanted = (
        "license: other\nlicense_name:",
        "(emotions.jpg)",
        "63.5",
        "640 × 480",
        "| happy |",
        "| psnr | 31.5 |",
        "generated by AI",
    )
    for text in (*wanted, f"--avatar={REPO}", f'"{REPO}", emotion=', *CONSENT.values()):
        assert text in card, text
    assert "poster.jpg" not in card  # there is none
    share_avatar(tiny_avatar, REPO, token=ANN, licence="cc-by-4.0")
    assert "\nlicense: cc-by-4.0\n" in hub.repos["model", REPO].files["README.md"].decode()
    with pytest.raises(ValueError, match="licence"):
        share_avatar(tiny_avatar, REPO, token=ANN, licence="mine\nprivate: no")


# --- What goes wrong ------------------------------------------------------------------------------------------------------------


def test_without_a_network_it_is_said_at_once(hub, tiny_avatar, monkeypatch, tiny_generic):
    monkeypatch.setattr(gmtalker.hub, "ANSWER_SECONDS", 0.5)
    with socket.socket() as silent:  # takes the call and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for endpoint in ("http://127.0.0.1:9", f"http://127.0.0.1:{silent.getsockname()[1]}", "http://no.such.host.invalid"):
            monkeypatch.setenv("HF_ENDPOINT", endpoint)
            began = time.monotonic()
            for call in (
                lambda: pull_avatar("ann/other"),
                lambda: share_avatar(tiny_avatar, REPO, token=ANN),
                lambda: GMTalkerPipeline.from_pretrained("ann/stages", device="cpu"),
            ):
                said = sentence(call)
                assert "network" in said and endpoint in said
            assert time.monotonic() - began < 5


def test_an_address_that_is_no_hub_is_said(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.endpoint}/elsewhere/")
    assert "404" in sentence(pull_avatar, REPO)


def test_each_refusal_has_a_sentence_of_its_own(shared, hub, home, elsewhere):
    here = elsewhere()
    said = [
        sentence(pull_avatar, REPO, token="hf_wrong"),
        sentence(pull_avatar, "ann/nothing", token=ANN),
        sentence(pull_avatar, "no repo at all"),
    ]
    shared.gated = True
    said.append(sentence(pull_avatar, REPO, token=BOB))
    for wanted, text in zip(("valid token", "no ann/nothing", "owner/name", "gated"), said, strict=True):
        assert wanted in text
    assert len(set(said)) == 4 and left_in(here) == []
    assert "valid token" in sentence(GMTalkerPipeline.from_pretrained, REPO, token="hf_wrong")
    assert "valid token" in sentence(share_avatar, "GRID s1", "ann/new")  # nobody is logged in
    assert "valid token" in sentence(share_avatar, "GRID s1")


def test_half_an_upload_leaves_nothing_on_the_hub(hub, tiny_avatar, home, no_waiting):
    before = files_of(home / "avatars" / "tiny")
    hub.faults.add(DROP_UPLOADS)
    assert "line broke" in sentence(share_avatar, tiny_avatar, REPO, token=ANN)
    assert ("model", REPO) not in hub.repos and files_of(home / "avatars" / "tiny") == before
    hub.faults.clear()
    share_avatar(tiny_avatar, REPO, token=ANN)
    first = dict(hub.repos["model", REPO].files)
    hub.faults.add(DROP_UPLOADS)
    (home / "avatars" / "tiny" / "poster.jpg").write_bytes(b"\xff\xd8 another")
    assert "line broke" in sentence(share_avatar, tiny_avatar, token=ANN)
    assert hub.repos["model", REPO].files == first  # what was there is there still


def test_half_a_download_leaves_nothing_here(shared, hub, elsewhere, no_waiting):
    here = elsewhere()
    hub.faults.add(DROP_DOWNLOADS)
    assert "line broke" in sentence(pull_avatar, REPO)
    assert left_in(here) == []
    hub.faults.clear()
    folder = pull_avatar(REPO)
    before = files_of(folder)
    shared.commit(shared.files | {"face.safetensors": shared.files["face.safetensors"] + b"x"})
    hub.faults.add(DROP_DOWNLOADS)
    assert "line broke" in sentence(update_avatar, "tiny")
    assert files_of(folder) == before and left_in(here) == [folder.name]
    hub.faults.clear()
    assert "broken" in sentence(update_avatar, "tiny", error=UnusableAvatar)  # it came, and is none
    assert files_of(folder) == before and left_in(here) == [folder.name]


@pytest.mark.parametrize("writer", ["huggingface_hub.file_download._chmod_and_move", "gmtalker.avatars.on_hub.save_card"])
def test_a_full_disk_leaves_nothing_and_loses_nothing(shared, elsewhere, monkeypatch, writer):
    here = elsewhere()
    folder = pull_avatar(REPO)
    before = files_of(folder)
    shared.commit(shared.files | {"README.md": b"# another"})

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(writer, full)
        assert "room" in sentence(update_avatar, "tiny")
        assert "room" in sentence(pull_avatar, REPO, name="second")
    with monkeypatch.context() as broken:
        broken.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
        assert "room" in sentence(update_avatar, "tiny")
    assert files_of(folder) == before and left_in(here) == [folder.name]


# --- Strangers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["weights.pkl", "head_generator/pytorch_model.bin", "setup.py", "../escaped.json", "a/../../b.json", "/etc/x.json", "c:\\x"],
)
def test_code_and_ways_out_are_refused_before_anything_is_fetched(hub, avatar_folder, home, name):
    hub.add("bob/evil", files_of(avatar_folder) | {name: b"\x80\x04."})
    assert "nothing was fetched" in sentence(pull_avatar, "bob/evil", error=UnusableAvatar)
    assert not any("resolve" in request for request in hub.requests) and left_in(home / "avatars") == []


def test_what_is_too_much_is_refused_before_anything_is_fetched(hub, avatar_folder, home):
    files = files_of(avatar_folder)
    hub.add("bob/huge", files, sizes={"face.safetensors": 10 * 2**30})
    hub.add("bob/many", files | {f"a{number}.json": b"{}" for number in range(80)})
    hub.add("bob/other", {"config.json": b"{}"})
    assert "10240 MB" in sentence(pull_avatar, "bob/huge", error=UnusableAvatar)
    assert "too large" in sentence(pull_avatar, "bob/many", error=UnusableAvatar)
    assert "not an avatar" in sentence(pull_avatar, "bob/other", error=UnusableAvatar)
    assert not any("resolve" in request for request in hub.requests) and left_in(home / "avatars") == []


def test_more_than_was_declared_is_never_written(hub, avatar_folder, home):
    """The index and the headers say little, the body does not end: it is cut off, not fetched."""
    liar = hub.add("bob/liar", files_of(avatar_folder), endless={"face.safetensors": 10 * 2**30})
    began = time.monotonic()
    assert "more than its index says" in sentence(pull_avatar, "bob/liar", error=UnusableInput)
    assert time.monotonic() - began < 10 and hub.sent < 100 * 2**20 and left_in(home / "avatars") == []
    liar.endless, liar.sizes = {}, {"face.safetensors": len(liar.files["face.safetensors"]) - 1}
    sentence(pull_avatar, "bob/liar")
    assert left_in(home / "avatars") == []


def test_other_shapes_and_broken_cards_are_refused_after_fetching(hub, avatar_folder, home):
    files = files_of(avatar_folder)
    config = json.loads(files["head_generator/config.json"])
    other = json.dumps(config | {"widths": [8, 8, 16]}).encode()
    hub.add("bob/shape", files | {"head_generator/config.json": other})
    hub.add("bob/card", files | {"avatar.json": b'{"name": 3}'})
    hub.add("bob/hub", files | {"avatar.json": json.dumps(json.loads(files["avatar.json"]) | {"hub": "ann/tiny"}).encode()})
    for repo in ("bob/shape", "bob/card", "bob/hub"):
        assert repo.split("/")[1] in sentence(pull_avatar, repo, error=UnusableAvatar) and left_in(home / "avatars") == []


def test_what_no_avatar_is_made_of_is_not_fetched(hub, avatar_folder, home):
    hub.add("bob/more", files_of(avatar_folder) | {"LICENSE": b"free", "index.html": b"<script>"})
    folder = pull_avatar("bob/more")
    assert not (folder / "index.html").exists() and not (folder / "LICENSE").exists()


# --- Generic stages -------------------------------------------------------------------------------------------------------------


def test_stages_come_back_the_same_and_are_kept(hub, tiny_pipeline, tiny_avatar, tmp_path, monkeypatch):
    speech = write_speech(tmp_path / "speech.wav", 0.5)
    frames = list(tiny_pipeline(speech, tiny_avatar, {"happy": 0.5}))
    assert tiny_pipeline.push_to_hub("ann/stages", token=ANN) == f"{hub.endpoint}/ann/stages"
    repo = hub.repos["model", "ann/stages"]
    assert repo.private and not [
        name for name in repo.files if not name.endswith((".json", ".safetensors", ".md", ".gitattributes"))
    ]
    assert 'from_pretrained("ann/stages")' in repo.files["README.md"].decode()
    where = {"device": "cpu", "cache_dir": tmp_path / "cache"}
    again = GMTalkerPipeline.from_pretrained("ann/stages", token=ANN, **where)
    assert all(np.array_equal(*pair) for pair in zip(again(speech, tiny_avatar, {"happy": 0.5}), frames, strict=True))
    assert ModelCard(again.card).data.license_name == "research-demo" and ModelCard(again.card).data.library_name == "diffusers"
    again.push_to_hub("bob/stages", token=BOB)  # on from there, with its own card
    card = hub.repos["model", "bob/stages"].files["README.md"].decode()
    assert card.count("## Use") == 1 and 'from_pretrained("bob/stages")' in card and "ann/stages" not in card
    assert [line for line in card.splitlines() if line.startswith("# ")] == ["# Generic stages of GMTalker Studio"]
    asked = len(hub.requests)
    GMTalkerPipeline.from_pretrained("ann/stages", local_files_only=True, **where)
    assert len(hub.requests) == asked
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    GMTalkerPipeline.from_pretrained("ann/stages", **where)  # what was fetched before will do
    assert "without the network" in sentence(GMTalkerPipeline.from_pretrained, "ann/others", local_files_only=True, **where)


@pytest.mark.parametrize("part", ["speech_encoder", "expression_generator", "motion_generator", "face_model"])
def test_a_stage_that_a_repo_lacks_is_the_bundled_one(hub, tiny_generic, tmp_path, monkeypatch, part):
    monkeypatch.setattr("gmtalker.stages.GENERIC", tiny_generic)
    files = {name: content for name, content in files_of(tiny_generic).items() if not name.startswith(part)}
    hub.add("ann/parts", files)
    with pytest.warns(UserWarning, match=f"does not hold {part}; the bundled") as warned:
        pipeline = GMTalkerPipeline.from_pretrained("ann/parts", device="cpu", cache_dir=tmp_path)
    places = [warning.filename for warning in warned if "the bundled" in str(warning.message)]
    assert places == [__file__]  # the line that asked for them
    if part != "face_model":
        bundled = load_file(tiny_generic / part / "diffusion_pytorch_model.safetensors")
        assert all((tensor.cpu() == bundled[name].float()).all() for name, tensor in getattr(pipeline, part).state_dict().items())


def test_stages_that_are_broken_or_none_are_refused(hub, tiny_generic, tmp_path):
    files = files_of(tiny_generic)
    weights = "motion_generator/diffusion_pytorch_model.safetensors"
    hub.add("ann/half", {name: content for name, content in files.items() if name != weights})
    hub.add("ann/none", {"config.json": b"{}"})
    hub.add("ann/empty", {"model_index.json": b"{}"})
    hub.add("ann/mixed", {name: content for name, content in files.items() if not name.startswith("speech")})
    hub.add("ann/large", files, sizes={weights: 10 * 2**30})
    load = GMTalkerPipeline.from_pretrained
    where = {"device": "cpu", "cache_dir": tmp_path}
    assert "motion_generator" in sentence(load, "ann/half", error=UnusableAvatar, **where)  # never random weights
    assert "model_index.json" in sentence(load, "ann/none", **where)
    assert "none of" in sentence(load, "ann/empty", **where)
    with pytest.warns(UserWarning):
        assert "trained with" in sentence(load, "ann/mixed", **where)  # the bundled encoder is of another size
    assert "too large" in sentence(load, "ann/large", **where)


# --- The command line -----------------------------------------------------------------------------------------------------------


def test_the_commands_share_pull_update_and_export(hub, tiny_avatar, elsewhere, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", ANN)
    assert main(["share", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"avatar": "tiny", "repo": REPO, "address": f"{hub.endpoint}/{REPO}"}
    elsewhere()
    assert main(["pull", REPO, "--name", "Guest"]) == 0 and "Guest" in capsys.readouterr().out
    assert main(["update", "Guest"]) == 0 and "up to date" in capsys.readouterr().out
    assert main(["share", "Guest", "--repo", "ann/guest", "--public", "--token", ANN]) == 0
    assert not hub.repos["model", "ann/guest"].private
    capsys.readouterr()
    for words, code in (
        (["pull", "ann/nothing"], 1),
        (["share", "nobody"], 1),
        (["share", "Guest", "--license", "!"], 2),
        (["delete", "bob/thing", "--yes"], 1),  # names no repo to be fetched first
    ):
        assert main(words) == code
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    for archive, pulled in (("here already.zip", False), ("pulled first.zip", True)):
        asked = len(hub.requests)
        assert main(["export", "ann/guest", "--output", str(tmp_path / archive)]) == 0
        assert (len(hub.requests) > asked) == pulled
        assert read_card(import_avatar(tmp_path / archive, archive))["name"] == archive
        delete_avatar("Guest")
