"""The table beside a JSON file shows every number, and the yardsticks with what sets them apart."""

from gmtalker.measure.table import write_table


def test_every_number_stands_in_the_table(tmp_path):
    measures = {"avatar": "a", "psnr": 29.5, "motion": {"made": {"blinks_a_minute": 20}}, "lips": {"by_clip": {"x.mp4": 0.5}}}
    write_table(measures, tmp_path / "evaluate_a.json")
    text = (tmp_path / "evaluate_a.md").read_text()
    assert "| psnr | 29.5 | EAT 21.8 |" in text and "not to be compared" in text
    assert "| made, blinks a minute | 20 |" in text and "| by clip, x.mp4 | 0.5 |" in text


def test_no_yardstick_no_column(tmp_path):
    write_table({"motion": {"made": 1}}, tmp_path / "m.json")
    text = (tmp_path / "m.md").read_text()
    assert "published" not in text and "| made | 1 |" in text
