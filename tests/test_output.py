"""A finished film: every format, background, canvas and caption; what can't be is told; the marks are in each."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import write_speech
from media import bundled_clip, ffmpeg

from gmtalker.__main__ import main
from gmtalker.errors import UnusableInput
from gmtalker.media.captions import CAPTION_SIZES, Captioner, Cue, cues_of, font_for, read_cues, wrapped, write_cues
from gmtalker.media.composer import Composer, cut_out
from gmtalker.media.composition import Composition
from gmtalker.media.formats import CANVASES, FORMATS, RATES
from gmtalker.media.video import read_frames, read_info
from gmtalker.output import OutputOptions
from gmtalker.pipeline import GMTalkerPipeline
from gmtalker.provenance.verification import verify
from gmtalker.request import SpeakRequest, request_file

SECONDS = 1.0


@pytest.fixture(scope="module")
def pipeline() -> GMTalkerPipeline:
    return GMTalkerPipeline.from_pretrained()


@pytest.fixture
def speech(tmp_path, home) -> Path:
    return write_speech(tmp_path / "speech.wav", SECONDS)


@pytest.fixture
def make(pipeline, speech, tmp_path):
    """Makes a video of the bundled avatar with options of the output; gives its file."""

    def make(name: str = "out", text: str | None = None, **output: object) -> Path:
        options = OutputOptions(**output)
        request = SpeakRequest(None if text else speech, text=text, output=options)
        return pipeline.speak(request, tmp_path / f"{name}{options.file.suffix}")

    return make


def frames_and_sound(path: Path) -> tuple[int, Fraction, float]:
    """Number of frames, frames a second, seconds of sound."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames, rate = sum(1 for _ in container.decode(video=0)), stream.average_rate
    with av.open(str(path)) as container:
        seconds = (
            sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0)) if container.streams.audio else 0.0
        )
    return frames, rate, seconds


@pytest.mark.parametrize("format", [name for name, kind in FORMATS.items() if kind.video and kind.container and name != "webp"])
def test_every_format_is_as_long_as_the_speech_and_marked(make, format):
    video = make(format=format)
    frames, rate, sound = frames_and_sound(video)
    assert frames == 25 and rate == 25
    assert sound == pytest.approx(1.0 if FORMATS[format].sound else 0.0, abs=0.05)
    found = verify(video)
    assert found.marked == (format != "gif")  # whose 256 colours hold no mark: its manifest alone tells
    assert (found.credentials == "valid") == (FORMATS[format].media_type is not None)
    assert request_file(video).is_file()


def test_a_moving_webp_holds_every_frame(make):
    from PIL import Image

    with Image.open(make(format="webp")) as image:
        assert image.n_frames == 25 and image.size == (256, 256)


def test_frames_and_sound_alone(make):
    with zipfile.ZipFile(make(format="png")) as packed:
        names = packed.namelist()
        assert names == [*(f"{number:06}.png" for number in range(1, 26)), "speech.wav"]
        picture = cv2.imdecode(np.frombuffer(packed.read(names[3]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (256, 256, 4) and (picture[..., 3] == 0).mean() > 0.2 and (picture[..., 3] == 255).mean() > 0.3
    sound = make(format="wav")
    with av.open(str(sound)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 48_000
    assert verify(sound).credentials == "valid"  # its mark needs some four seconds to be read


@pytest.mark.parametrize("fps", sorted(RATES))
def test_every_frame_rate_keeps_the_time(make, fps):
    frames, rate, sound = frames_and_sound(make(fps=fps))
    assert rate == RATES[fps] and frames == round(RATES[fps]) and sound == pytest.approx(frames / float(rate), abs=0.05)


def test_more_frames_show_the_same_movement(make):
    usual, more = (np.stack([*read_frames(make(fps, fps=fps), float(RATES[fps]))]).astype(int) for fps in ("25", "50"))
    assert len(more) == 2 * len(usual)
    same = np.abs(more[::2][: len(usual)] - usual).mean()
    between = np.abs(more[1:-1:2] - (more[:-2:2] + more[2::2]) / 2).mean()
    assert same < 2.5 and between < 2.5  # what a codec and a mark do


# --- Backgrounds ---------------------------------------------------------------------------------------------------------------


def test_the_outline_leaves_no_halo_over_another_colour(make, tmp_path):
    """Over red, where the person is not, there is red, and from two pixels outside the edge nothing else."""
    video = make(format="webm-alpha")
    over = tmp_path / "over.png"
    red = ("-f", "lavfi", "-i", "color=red:size=256x256:rate=25")
    alpha = tmp_path / "alpha.png"
    ffmpeg(
        "-c:v",
        "libvpx-vp9",
        "-i",
        video,
        *red,
        "-filter_complex",
        "[1][0]overlay=shortest=1",
        "-frames:v",
        10,
        "-update",
        1,
        over,
    )
    ffmpeg("-c:v", "libvpx-vp9", "-i", video, "-vf", "alphaextract", "-frames:v", 9, "-update", 1, alpha)
    picture = cv2.imread(str(over)).astype(int)
    outside = cv2.imread(str(alpha), cv2.IMREAD_GRAYSCALE) < 128
    assert 0.2 < outside.mean() < 0.7
    far = cv2.erode(outside.astype(np.uint8), np.ones((5, 5))) > 0
    assert (
        np.abs(picture[far] - [0, 0, 254]).max(-1).mean() < 2 and (np.abs(picture[far] - [0, 0, 254]).max(-1) > 40).mean() < 0.002
    )
    # Just inside, the edge has no more of the blue wall that was behind the person than the hair and shirt have.
    rim = (cv2.dilate(outside.astype(np.uint8), np.ones((7, 7))) > 0) & ~outside
    blue = picture[..., 0] - picture[..., 2] > 60
    assert (blue & rim).sum() <= 0.02 * rim.sum()


def test_what_is_inside_the_person_is_theirs():
    """A hole in the outline within a face is filled; colours at the edge come from inside."""
    frame = np.zeros((64, 64, 4), np.uint8)
    frame[..., :3] = (0, 0, 255)  # the wall
    frame[16:, 16:48] = (200, 100, 50, 255)
    frame[16, 16:48, :3] = frame[16:, 16, :3] = (100, 50, 150)  # mixed with the wall
    frame[30:33, 30:33, 3] = 90
    kept = cut_out(frame)
    assert (kept[17:, 18:46, 3] == 255).all() and (kept[..., 3][:8] == 0).all()
    seen = kept[kept[..., 3] > 0]
    assert np.abs(seen[:, :3].astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize("canvas", [*CANVASES, "320x200"])
def test_a_picture_is_behind_in_every_canvas(make, tmp_path, canvas):
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((30, 50, 3), (40, 200, 90), np.uint8))
    frame = next(read_frames(make(canvas=canvas, background=str(tmp_path / "wall.png"))))
    width, height = CANVASES.get(canvas, (320, 200))
    assert frame.shape == (height, width, 3)
    assert np.abs(frame[: height // 12, width // 4 : -width // 4].reshape(-1, 3).mean(0) - [90, 200, 40]).max() < 8
    assert np.abs(frame[-height // 8 :, width * 2 // 5 : width * 3 // 5].reshape(-1, 3).mean(0) - [90, 200, 40]).max() > 30


def test_a_video_behind_goes_on_and_begins_again():
    composer = Composer(Composition(str(bundled_clip("idle.mp4")), "16:9"), 64, 64, Fraction(50))
    nobody = np.zeros((64, 64, 4), np.uint8)
    shown = [composer(nobody) for _ in range(2 * 250 + 3)]
    assert np.array_equal(shown[0], shown[500]) and not np.array_equal(shown[0], shown[120])
    assert read_info(bundled_clip("idle.mp4")).seconds == 5.0


def test_who_stands_in_a_corner_is_there():
    frame = np.full((100, 100, 3), 200, np.uint8)
    for place, rows, columns in (("top-left", slice(0, 60), slice(0, 60)), ("bottom-right", slice(-60, None), slice(-60, None))):
        composition = Composition("black", "300x200", place, 0.25, "circle")
        picture = Composer(composition, 100, 100, Fraction(25))(frame)
        light = picture[..., 0] > 100
        assert light.sum() == pytest.approx(np.pi * 25**2, rel=0.05) and light[rows, columns].sum() == light.sum()


def test_a_background_that_can_not_be_read_is_told(make, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.mp4").write_text("no video")
    for name, sentence in (
        ("text.png", "as a picture"),
        ("text.mp4", "neither a picture nor a video"),
        ("none.jpg", "no background"),
    ):
        with pytest.raises(UnusableInput, match=sentence):
            make(background=str(tmp_path / name))
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".mp4" and path.name.startswith("out")]


def test_an_avatar_without_an_outline_says_what_else_can_be_done(tiny_pipeline, tiny_avatar, speech, tmp_path):
    request = SpeakRequest(speech, tiny_avatar, output=OutputOptions(background="white"))
    with pytest.raises(UnusableInput, match="shape square or circle"):
        tiny_pipeline.speak(request, tmp_path / "o.mp4")
    square = SpeakRequest(speech, tiny_avatar, output=OutputOptions(background="white", canvas="16:9", shape="square", size=0.5))
    assert read_info(tiny_pipeline.speak(square, tmp_path / "o.mp4")).width == 1280


# --- Captions ------------------------------------------------------------------------------------------------------------------

WORDS = [Cue(text, 0.4 * number, 0.4 * number + 0.3) for number, text in enumerate("One two. Three four five six".split())]


def test_captions_end_with_sentences_and_hold_no_longer_than_the_next(tmp_path):
    cues = cues_of([*WORDS, Cue("later", 9.0, 9.3)])
    assert [cue.text for cue in cues] == ["One two.", "Three four five six", "later"]
    assert all(before.end <= after.begin for before, after in zip(cues, cues[1:]))
    assert cues[1].end == pytest.approx(2.8) and cues[2].end - cues[2].begin >= 0.8
    long = cues_of([Cue("word", number * 0.2, number * 0.2 + 0.1) for number in range(100)])
    assert max(len(cue.text) for cue in long) <= 64 and " ".join(cue.text for cue in long).split() == ["word"] * 100
    for suffix in (".srt", ".vtt"):
        write_cues(cues, tmp_path / f"c{suffix}")
        again = read_cues(tmp_path / f"c{suffix}")
        assert [cue.text for cue in again] == [cue.text for cue in cues]
        assert [cue.begin for cue in again] == pytest.approx([cue.begin for cue in cues], abs=0.001)


def test_captions_of_others_are_read(tmp_path):
    (tmp_path / "a.srt").write_text("\ufeff1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Hello</i>\r\nthere\r\n\r\n2\r\n0:00:03,000 --> 0:00:04,000\r\nBye\r\n", encoding="utf-8", newline="")  # fmt: skip  # noqa: E501
    cues = read_cues(tmp_path / "a.srt")
    assert cues == (Cue("Hello\nthere", 1.0, 2.5), Cue("Bye", 3.0, 4.0))
    for name, text in (("b.srt", "no captions"), ("c.vtt", "WEBVTT\n\n"), ("d.srt", "")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UnusableInput, match=name):
            read_cues(tmp_path / name)
    with pytest.raises(UnusableInput, match="can't be read"):
        read_cues(tmp_path / "none.srt")


@pytest.mark.parametrize(
    "text", ["Hello", "שלום עולם", "مرحبا بالعالم", "Straße «Ελλάδα»", "W" * 300, "two\nlines", "word " * 60], ids=range(7)
)
def test_captions_of_any_script_stand_within_the_picture(text):
    for height, width in ((256, 256), (720, 1280), (640, 360), (64, 64)):
        for place in ("bottom", "middle", "top"):
            frame = np.full((height, width, 3), 128, np.uint8)
            captioned = Captioner([Cue(text, 0, 1)], place)(frame, 0.5)
            changed = np.argwhere((captioned != frame).any(-1))
            assert len(changed) and captioned.shape == frame.shape and (captioned.max() > 200 or min(height, width) == 64)
    assert np.array_equal(Captioner([Cue(text, 0, 1)])(frame, 1.0), frame)  # over


def test_captions_are_as_large_as_asked_for():
    frame = np.full((720, 720, 3), 128, np.uint8)
    changed = [np.any(Captioner([Cue("Hi.", 0, 1)], size=size)(frame, 0.5) != frame, -1).sum() for size in CAPTION_SIZES]
    assert changed == sorted(changed) and changed[2] > 2 * changed[0]


def test_words_without_spaces_are_divided_and_a_missing_font_is_told(monkeypatch):
    lines = list(wrapped("这是一个很长的句子没有空格" * 3, len, 10))
    assert max(map(len, lines)) <= 10 and "".join(lines) == "这是一个很长的句子没有空格" * 3
    latin = font_for("a")
    monkeypatch.setattr("gmtalker.media.captions._fonts", lambda: (latin,))
    with pytest.raises(UnusableInput, match="No font .* '漢'"):
        font_for("a漢")


def test_a_text_becomes_a_captioned_film_with_a_file_of_what_is_said(make, tmp_path):
    video = make(text="[happy] Good morning. Have a nice day!", captions="spoken", subtitles="vtt")
    bare = make("bare", text="[happy] Good morning. Have a nice day!")
    cues = read_cues(video.with_suffix(".vtt"))
    assert [cue.text for cue in cues] == ["Good morning.", "Have a nice day!"]
    for with_words, without, number in zip(read_frames(video), read_frames(bare), range(1000)):
        rows = np.abs(with_words.astype(int) - without).mean(-1)[215:250, 60:196]
        said = any(cue.begin + 0.05 < number / 25 < cue.end - 0.05 for cue in cues)
        assert (rows.mean() > 15) >= said
    saved = SpeakRequest.load(request_file(video))
    assert saved.text == "[happy] Good morning. Have a nice day!" and saved.output.captions == "spoken"
    manifest = json.dumps(verify(video).to_json())
    assert "GRID s1" in manifest


def test_the_voice_is_declared_in_the_manifest(make):
    import c2pa

    video = make(text="Hello.")
    with open(video, "rb") as file:
        manifest = json.loads(c2pa.Reader("video/mp4", file).json())
    (active,) = manifest["manifests"].values()
    assertions = {each["label"]: each["data"] for each in active["assertions"]}
    actions = next(data for label, data in assertions.items() if label.startswith("c2pa.actions"))["actions"]
    assert any("synthetic voice heart" in action.get("description", "") for action in actions)
    assert next(data for label, data in assertions.items() if "gmtalker" in label)["voice"] == "heart"


# --- The command line ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--format", "mpeg"], "format must be one of mp4"),
        (["--fps", "23"], "fps must be one of"),
        (["--canvas", "9:17"], "canvas must be one of"),
        (["--canvas", "9:16", "--place", "above"], "place must be one of"),
        (["--place", "left"], "need a canvas"),
        (["--captions", "F.txt"], "captions must be"),
        (["--captions", "spoken"], "need it as a text"),
        (["--voice", "heart"], "with a recording there is none"),
        (["--full-frame", "--background", "white"], "own background"),
    ],
)
def test_what_contradicts_itself_is_wrong_usage(tmp_path, speech, capsys, options, sentence):
    assert main(["speak", "--speech", str(speech), "--output", str(tmp_path / "o.mp4"), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_the_suffix_names_the_format_and_the_command_repeats_the_request(tmp_path, home, capsys):
    out = tmp_path / "o.webm"
    words = ["--text", "Hi — there's “me”.", "--canvas", "1:1", "--size", "0.5", "--fps", "30", "--place", "left"]
    assert main(["speak", *words, "--output", str(out)]) == 0
    request = SpeakRequest.load(request_file(out))
    assert request.output == OutputOptions("webm-alpha", "30", canvas="1:1", size=0.5, place="left")
    script = request.command(str(tmp_path / "again.webm")).replace("python -m gmtalker", "printf '%s\\n'")
    printed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert main(printed) == 0 and request_file(tmp_path / "again.webm").read_text() == request_file(out).read_text()
    assert main(["speak", *words, "--output", str(tmp_path / "o.txt")]) == 2
    shutil.rmtree(home)
