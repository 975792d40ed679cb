"""Label files of phones, on the 25 fps clock: what is said, and what the lips do for it."""

from __future__ import annotations

import numpy as np
import pytest

from gmtalker.clock import FPS
from gmtalker.models.articulation import CLOSED, ROUNDED, SPEAKING
from gmtalker.models.speech_encoder import IGNORED
from gmtalker.pretrain.speech_labels import PHONES, STOP_SHUT, articulation_of, phone_classes, read_segments

FRAME = 1 / FPS


def segments_of(*phones: tuple[str, float]) -> list[tuple[float, float, str]]:
    """Phones one after another, of so many frames each."""
    ends = np.cumsum([frames for _, frames in phones]) * FRAME
    starts = [0.0, *ends[:-1]]
    return [(float(start), float(end), name) for start, end, (name, _) in zip(starts, ends, phones)]


def names_of(classes: np.ndarray) -> list[str]:
    return [PHONES[index] if index != IGNORED else "?" for index in classes]


def column(target: np.ndarray, which: int) -> str:
    """A column of the articulation as text: 1, 0, or ? where unknown."""
    return "".join("?" if np.isnan(value) else str(int(value)) for value in target[:, which])


# --- Files ---------------------------------------------------------------------------------------------------------------------


def test_emodbs_files_are_read_and_a_line_without_a_phone_goes_on_with_the_last(tmp_path):
    labels = tmp_path / "a.lablaut"
    lines = ("_d\t-sth", "\t-sth", "dasp", "aI\t\t2", "Q")
    ends = (0.08, 0.12, 0.16, 0.24, 0.28)
    labels.write_text("signal a\nnfields 1\n#\n" + "".join(f"    {end}   -1 {line}\n" for end, line in zip(ends, lines)))
    segments = read_segments(labels)
    assert segments == [
        (0.0, 0.08, "_d"), (0.08, 0.12, "_d"), (0.12, 0.16, "dasp"), (0.16, 0.24, "aI"), (0.24, 0.28, "Q"),
    ]  # fmt: skip
    assert names_of(phone_classes(segments, 8)) == ["d", "d", "d", "d", "aI", "aI", "?", "?"]


def test_files_of_synthetic_speech_are_read(tmp_path):
    """As tools/synthesise_speech.py writes them: an end and a name a line, without a head."""
    labels = tmp_path / "a.lab"
    labels.write_text("0.0800 pau\n0.1200 m\n0.2000 uw\n0.2800 t\n")
    segments = read_segments(labels)
    assert segments == [(0.0, 0.08, "pau"), (0.08, 0.12, "m"), (0.12, 0.2, "uw"), (0.2, 0.28, "t")]
    assert names_of(phone_classes(segments, 8)) == ["sil", "sil", "m", "u", "u", "t", "t", "?"]


def test_a_line_that_names_nothing_before_any_phone_is_unknown(tmp_path):
    labels = tmp_path / "a.lablaut"
    labels.write_text("#\n 0.04 -1 \t-sth\n 0.08 -1 a\n")
    assert names_of(phone_classes(read_segments(labels), 2)) == ["?", "a"]


@pytest.mark.parametrize(("spelled", "phone"), [("pau", "sil"), ("sh", "S"), ("er", "6"), ("_b", "b"), ("!t", "t"), ("hh", "h")])
def test_other_spellings_are_the_same_phone(spelled, phone):
    assert names_of(phone_classes([(0.0, 0.04, spelled)], 1)) == [phone]


# --- Lips ----------------------------------------------------------------------------------------------------------------------


def test_lips_are_closed_at_m_and_rounded_at_u_and_nobody_speaks_in_a_pause():
    target = articulation_of(segments_of(("pau", 2), ("m", 2), ("uw", 2), ("t", 1), ("a", 1)), 10)
    assert column(target, CLOSED) == "00110000??"
    assert column(target, ROUNDED) == "00001100??"
    assert column(target, SPEAKING) == "00111111??"


def test_the_second_part_of_a_stop_is_unknown():
    target = articulation_of(segments_of(("a", 4), ("p", 10), ("a", 4)), 18)
    shut = round(10 * STOP_SHUT + 1e-9)
    assert column(target, CLOSED)[:4] == "0000" and column(target, CLOSED)[14:] == "0000"
    stop = column(target, CLOSED)[4:14]
    assert stop in ("1" * shut + "?" * (10 - shut), "1" * (shut - 1) + "?" * (11 - shut)) and "0" not in stop
    assert column(target, SPEAKING) == "1" * 18


def test_a_nasal_is_closed_to_its_end():
    assert column(articulation_of(segments_of(("a", 1), ("m", 5), ("a", 1)), 7), CLOSED) == "0111110"


@pytest.mark.parametrize("name", ["m", "p", "b"])
@pytest.mark.parametrize("start", [3.0, 3.1, 3.45, 3.8])
def test_closures_shorter_than_a_frame_are_kept(name, start):
    """At double speed a labial lasts 20 to 30 ms, and may lie across the border of two frames."""
    for length in (0.4, 0.6, 0.75):
        target = articulation_of(segments_of(("a", start), (name, length), ("a", 4)), 8)
        closed = np.flatnonzero(target[:, CLOSED] == 1)
        assert len(closed) == 1 and start - 1 < closed[0] <= start + length


def test_the_release_of_a_stop_is_unknown():
    target = articulation_of(segments_of(("_b", 2), ("!b", 1), ("a", 2)), 5)
    assert column(target, CLOSED)[0] == "1" and column(target, CLOSED)[2:] == "?00"


def test_labels_stop_where_the_recording_stops_and_the_other_way_round():
    segments = segments_of(("a", 2), ("m", 3), ("u", 3))
    assert column(articulation_of(segments, 3), CLOSED) == "001"
    assert column(articulation_of(segments, 10), CLOSED) == "00111000??"
    assert column(articulation_of([], 2), SPEAKING) == "??"
    assert names_of(phone_classes([], 2)) == ["?", "?"]
