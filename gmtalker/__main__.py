"""python -m gmtalker: make an avatar speak, measure it, pretrain the generic stages."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from gmtalker.errors import UnusableInput
from gmtalker.tracks import EMOTIONS, over_full
from personalize.jobs import SIZES

if TYPE_CHECKING:
    from gmtalker.pipeline import GMTalkerPipeline, Progress

UNUSABLE, WRONG_USAGE = 1, 2
DATASETS = ("mead", "cremad", "lsp", "hdtf", "voxceleb2")
STAGES = ("speech", "expression", "motion", "head", "face")


class WrongUsage(Exception):
    """The command line asks for something that does not exist; the message names what does."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0 done, 1 the input can't be used, 2 wrong usage; says why in one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UnusableInput as error:
        return _said(error, UNUSABLE)
    except WrongUsage as error:
        return _said(error, WRONG_USAGE)
    except KeyboardInterrupt:
        return _said("Stopped.", UNUSABLE)
    except Exception as error:  # noqa: BLE001 - the last line of defence: nobody is shown a traceback
        if os.environ.get("GMTALKER_DEBUG"):
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}".rstrip(".")
        return _said(f"Something went wrong inside this program ({what}); GMTALKER_DEBUG=1 shows where.", UNUSABLE)
    return 0


def _said(sentence: object, status: int) -> int:
    print(" ".join(str(sentence).split()), file=sys.stderr)
    return status


# --- What can be asked ---------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gmtalker", description="Make an avatar speak, and measure it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    speak = commands.add_parser("speak", help="make a video of an avatar that says a speech")
    _add_avatar(speak)
    speak.add_argument("--speech", type=Path, required=True, metavar="F", help="a sound file, or a video with sound")
    speak.add_argument("--output", type=Path, required=True, metavar="F.mp4")
    mood = speak.add_mutually_exclusive_group()
    mood.add_argument("--emotion", metavar="E", help=f"such as happy=0.7,sad=0.1; emotions: {', '.join(EMOTIONS)}")
    mood.add_argument("--timeline", metavar="F.json", help='a file, or itself: [{"time": 0.0, "emotion": {"happy": 0.8}}]')
    mood.add_argument("--script", type=Path, metavar="F.txt", help='what is said, with tags: "[happy 0.8] What a day!"')
    speak.add_argument("--intensity", type=float, default=1.0, metavar="X", help="0 neutral, 1 as asked (default), 2 exaggerated")
    speak.add_argument("--seed", type=int, default=0, metavar="N", help="another take of the same speech (default 0)")
    for part in ("head", "blink", "gaze"):
        speak.add_argument(f"--{part}", type=float, default=1.0, metavar="X", help=f"how much {part} movement (default 1)")
    speak.add_argument("--full-frame", action="store_true", help="in the person's own footage, at its size")
    speak.add_argument("--label", action="store_true", help="say in the picture that it is AI-generated")
    speak.add_argument("--tracks", type=Path, metavar="F.safetensors", help="also save what the face does in each frame")
    _add_device(speak)
    speak.add_argument("--json", action="store_true", help="progress and result as JSON lines on stdout")
    speak.set_defaults(run=_speak)

    reenact = commands.add_parser("reenact", help="make a video of an avatar that does what the person in a video does")
    _add_avatar(reenact)
    reenact.add_argument("--video", type=Path, required=True, metavar="F")
    reenact.add_argument("--output", type=Path, required=True, metavar="F.mp4")
    reenact.add_argument("--label", action="store_true", help="say in the picture that it is AI-generated")
    _add_device(reenact)
    reenact.add_argument("--json", action="store_true", help="progress and result as JSON lines on stdout")
    reenact.set_defaults(run=_reenact)

    verify = commands.add_parser("verify", help="say whether a video was made by this program, and changed since")
    verify.add_argument("video", type=Path, metavar="F")
    verify.add_argument("--json", action="store_true", help="what was found as JSON on stdout")
    verify.set_defaults(run=_verify)

    evaluate = commands.add_parser("evaluate", help="measure an avatar on held-out videos of its person")
    _add_avatar(evaluate)
    evaluate.add_argument("--video", type=Path, nargs="+", metavar="F")
    evaluate.add_argument("--dataset", choices=DATASETS, help="instead of --video: the test clips of a public set...")
    evaluate.add_argument("--root", type=Path, metavar="DIR", help="...as it lies on disk")
    evaluate.add_argument("--person", metavar="P", help="whose clips of the set (default: the avatar's name)")
    evaluate.add_argument("--everybody", action="store_true", help="train and measure an avatar of every test person of the set")
    evaluate.add_argument("--minutes", type=float, default=10.0, metavar="M", help="of training for each of them (10)")
    evaluate.add_argument("--i-have-consent", action="store_true", help="that they agreed to be made into avatars")
    evaluate.add_argument("--start", type=float, default=0.0, metavar="S", help="from second S of each video (default 0)")
    evaluate.add_argument("--json", type=Path, required=True, metavar="F", help="where the measures are written")
    evaluate.add_argument("--judge", type=Path, metavar="F.pt", help="a TorchScript classifier: is the emotion asked for seen?")
    evaluate.add_argument("--labelled", action="append", default=[], metavar="F=happy", help="a real clip for --judge, too")
    evaluate.add_argument("--identity", type=Path, metavar="F.onnx", help="insightface's network: is it still the same person?")
    evaluate.add_argument("--pictures", type=Path, metavar="DIR", help="a folder for the traces of the lips")
    _add_device(evaluate)
    evaluate.set_defaults(run=_evaluate)

    emotions = commands.add_parser("emotions", help="measure the generic stages: emotions, head motion, lips of strangers")
    emotions.add_argument("--json", type=Path, required=True, metavar="F", help="where the measures are written")
    emotions.add_argument("--generic", metavar="DIR", help="the generic stages (default: the bundled ones)")
    emotions.add_argument("--baseline", type=Path, metavar="DIR", help="also measure `pretrain expression --baseline`'s result")
    emotions.add_argument("--data", type=Path, metavar="DIR", help="also compare with the test clips of a MANIFEST.csv")
    emotions.add_argument("--leave-out", default="", metavar="P,Q", help="people of --data that are not compared with")
    emotions.add_argument("--adapt", type=float, default=0.0, metavar="M", help="and adapt M minutes to a part of each long clip")
    emotions.add_argument("--speech", type=Path, nargs="+", default=(), metavar="F", help="also say these sound files")
    emotions.add_argument("--pictures", type=Path, metavar="DIR", help="a folder for pictures of the mixture and the motion")
    _add_device(emotions)
    emotions.set_defaults(run=_emotions)

    bench = commands.add_parser("bench", help="speed and memory on this machine, stage by stage")
    _add_avatar(bench)
    bench.add_argument("--json", type=Path, required=True, metavar="F", help="where the figures are written")
    bench.add_argument("--long", type=float, nargs="*", default=(), metavar="M", help="and M minutes of speech: memory and drift")
    bench.add_argument("--heads", type=Path, nargs="+", metavar="CLIP", help="instead: train our head and the reference's")
    bench.add_argument(
        "--marks", type=Path, nargs="+", metavar="CLIP", help="instead: does the mark survive, and no CLIP hold one?"
    )
    bench.add_argument("--minutes", type=float, default=10.0, metavar="M", help="for each of --heads (10)")
    _add_device(bench)
    bench.set_defaults(run=_bench)

    pretrain = commands.add_parser("pretrain", help="train a generic stage on a set of clips")
    pretrain.add_argument("stage", choices=STAGES)
    _add_dataset(pretrain)  # pretrain speech --speech-encoder needs none
    pretrain.add_argument("--output", type=Path, required=True, metavar="DIR")
    pretrain.add_argument("--minutes", type=float, metavar="M", help="stop after so many minutes; the same command goes on later")
    pretrain.add_argument("--steps", type=int, metavar="N", help="expression only: so many steps in the place of minutes")
    pretrain.add_argument("--speech-encoder", metavar="H", help="speech only: take this HuBERT (folder or Hub name) as it is")
    pretrain.add_argument("--baseline", action="store_true", help="expression only: by label instead of by mixture, to compare")
    pretrain.add_argument("--leave-out", default="", metavar="P,Q", help="head only: people it must never see")
    pretrain.add_argument("--size", type=int, choices=SIZES, default=256, help="head only: pixels of a side that it draws (256)")
    _add_device(pretrain)
    pretrain.set_defaults(run=_pretrain)
    return parser


def _add_avatar(command: argparse.ArgumentParser) -> None:
    command.add_argument("--avatar", metavar="A", help="a name in the workspace, a folder or a Hub id (default: the bundled one)")


def _add_dataset(command: argparse.ArgumentParser) -> None:
    where = command.add_mutually_exclusive_group()
    where.add_argument("--data", type=Path, metavar="DIR", help="a folder whose clips a MANIFEST.csv describes")
    where.add_argument("--root", type=Path, metavar="DIR", help="a public set as it lies on disk; --dataset says which")
    command.add_argument("--dataset", choices=DATASETS, help="the public set that --root holds")


def _set_of(options: argparse.Namespace) -> tuple[Path, str]:
    """Where the clips are and how they lie there. Errors: WrongUsage."""
    if options.data is None and options.root is None:
        raise WrongUsage("Say where the clips are: --data DIR, or --dataset mead --root DIR.")
    if (options.root is None) != (options.dataset is None):
        raise WrongUsage("--root and --dataset belong together: --dataset mead --root DIR.")
    return (options.data, "manifest") if options.root is None else (options.root, options.dataset)


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", metavar="D", help="cpu, cuda or mps (default: cuda where there is one)")


def parse_emotion(text: str) -> dict[str, float]:
    """ "happy=0.7,sad=0.1" -> {"happy": 0.7, "sad": 0.1}. Errors: WrongUsage."""
    emotion: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, weight = part.partition("=")
        name = name.strip()
        if name not in EMOTIONS:
            raise WrongUsage(f"There is no emotion {name!r}; choose from {', '.join(EMOTIONS)}.")
        if name in emotion:
            raise WrongUsage(f"{name} is given twice.")
        try:
            emotion[name] = float(weight) if equals else 1.0
        except ValueError as error:
            raise WrongUsage(f"The weight of {name} must be a number, as in {name}=0.7, not {weight.strip()!r}.") from error
    if not emotion:
        raise WrongUsage("--emotion needs weights, as in happy=0.7,sad=0.1.")
    return emotion


def read_timeline(given: str) -> list:
    """The keys of a timeline file, or of a timeline that is given as JSON itself. Errors: UnusableInput when it can't be read."""
    itself = given.lstrip().startswith("[")
    try:
        return json.loads(given if itself else Path(given).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        name = "The timeline" if itself else Path(given).name
        raise UnusableInput(f"{name} is not a timeline: it can't be read as JSON.") from error


def read_script(path: Path, speech: Path) -> list:
    """The keys of a script with emotion tags. Errors: UnusableInput when it or the speech can't be read."""
    from gmtalker.audio import read_speech, silent_frames
    from gmtalker.emotion_script import timeline_of_script
    from gmtalker.models.mel import frames_for

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UnusableInput(f"{path.name} can't be read as text.") from error
    waveform = read_speech(speech)
    try:
        return timeline_of_script(text, silent_frames(waveform, frames_for(len(waveform))))
    except ValueError as error:
        raise UnusableInput(f"{error}.") from error


# --- Commands ------------------------------------------------------------------------------------------------------------------


def _speak(options: argparse.Namespace) -> None:
    emotion = parse_emotion(options.emotion) if options.emotion is not None else {}
    timeline = read_timeline(options.timeline) if options.timeline is not None else None
    _check_output(options.output, ".mp4")
    if options.tracks is not None:
        _check_output(options.tracks, ".safetensors")
    if options.script is not None:
        timeline = read_script(options.script, options.speech)

    from gmtalker.pipeline import SpeakRequest  # late: wrong usage should not wait for the networks' libraries

    try:
        request = SpeakRequest(
            speech=options.speech,
            avatar=options.avatar,
            emotion=emotion,
            timeline=timeline,
            intensity=options.intensity,
            seed=options.seed,
            head=options.head,
            blink=options.blink,
            gaze=options.gaze,
            full_frame=options.full_frame,
            label=options.label,
        )
    except ValueError as error:
        raise WrongUsage(error) from error
    if any(over_full(weights) for weights in ([emotion] if timeline is None else [key["emotion"] for key in timeline])):
        print("The emotion weights sum to more than 1; they are scaled to 1.", file=sys.stderr)
    pipeline = _pipeline(options)
    with _Bar(options.json) as bar:
        pipeline.speak(request, options.output, progress=bar, tracks=options.tracks)
    _done(options, output=str(options.output), **({"tracks": str(options.tracks)} if options.tracks else {}))


def _reenact(options: argparse.Namespace) -> None:
    _check_output(options.output, ".mp4")
    from gmtalker.audio import read_sound_or_none
    from personalize.tracking import track_video

    pipeline = _pipeline(options)
    sound = read_sound_or_none(options.video)
    with _Bar(options.json) as bar:
        track = track_video(options.video, pipeline.face_model)
        performance = pipeline.reenact(track, options.avatar, speech=sound)
        pipeline.film(performance, options.output, progress=bar, label=options.label)
    _done(options, output=str(options.output))


def _verify(options: argparse.Namespace) -> None:
    from gmtalker.provenance import verify

    findings = verify(options.video)
    print(json.dumps(findings.to_json(), ensure_ascii=False) if options.json else findings.sentence())


def _evaluate(options: argparse.Namespace) -> None:
    _check_output(options.json, ".json")
    from gmtalker.avatar import load_avatar
    from personalize.evaluation import evaluate_avatar
    from personalize.identity import judge_at_hand

    if not options.start >= 0:
        raise WrongUsage("--start must be 0 or more seconds.")
    if bool(options.video) == bool(options.dataset) or bool(options.dataset) != bool(options.root):
        raise WrongUsage("Say what to measure on: --video F..., or --dataset mead --root DIR.")
    if options.labelled and not options.judge:
        raise WrongUsage("--labelled clips are for --judge F.pt to name.")
    if options.everybody:
        _evaluate_everybody(options)
        return
    labelled = dict(_labelled_clip(text) for text in options.labelled)
    avatar = load_avatar(options.avatar)
    videos, sounds, start = options.video, {}, options.start
    if options.dataset:
        from personalize.datasets import clips_to_measure

        rows, start = clips_to_measure(options.root, options.dataset, options.person or avatar.name)
        start = max(start, options.start)
        videos, sounds = [row.path for row in rows], {row.path: row.heard_in for row in rows}
    judge = None
    if options.judge is not None:
        from personalize.emotion_judge import EmotionJudge, emotion_accuracy

        judge = EmotionJudge(options.judge)  # before the long part: a wrong file should not cost it
    identity = judge_at_hand(options.identity)
    pipeline = _pipeline(options)
    measures = evaluate_avatar(avatar, videos, pipeline, start, _tell, sounds, options.pictures, identity)
    if judge is not None:
        from gmtalker.benchmark import SPEECH

        _tell("judging emotions")
        measures |= emotion_accuracy(judge, pipeline, avatar, SPEECH, labelled)
    _write_measures(measures, options.json)


def _evaluate_everybody(options: argparse.Namespace) -> None:
    if not options.dataset or options.judge or options.person or options.avatar:
        raise WrongUsage("--everybody measures a whole set: --dataset mead --root DIR, and nobody in particular.")
    if not options.i_have_consent:
        raise WrongUsage("Nobody is made into an avatar without consent; add --i-have-consent if the set's people gave it.")
    if not options.minutes > 0:
        raise WrongUsage("--minutes must be more than 0.")
    from personalize.identity import judge_at_hand
    from personalize.public_benchmark import measure_public_set

    identity = judge_at_hand(options.identity)
    measures = measure_public_set(options.root, options.dataset, options.minutes, _pipeline(options), _tell, identity)
    _write_measures(measures, options.json)


def _labelled_clip(text: str) -> tuple[Path, str]:
    """ "clip.mp4=happy" -> the clip and its emotion. Errors: WrongUsage."""
    clip, equals, emotion = text.rpartition("=")
    if not equals or emotion not in EMOTIONS:
        raise WrongUsage(f"--labelled takes CLIP=EMOTION with one of {', '.join(EMOTIONS)}, not {text!r}.")
    return Path(clip), emotion


def _emotions(options: argparse.Namespace) -> None:
    _check_output(options.json, ".json")
    from gmtalker.models.expression_generator import ExpressionGenerator
    from gmtalker.models.loading import load_strict
    from personalize.generic_measures import measure_generic

    if not 0 <= options.adapt < math.inf or (options.adapt and options.data is None):
        raise WrongUsage("--adapt takes minutes, and needs the test clips of --data DIR.")
    pipeline = _pipeline(options)
    baseline = None if options.baseline is None else load_strict(ExpressionGenerator, options.baseline).to(pipeline.device)
    measures = measure_generic(
        pipeline, baseline, options.data, _names(options.leave_out), _tell, options.pictures, options.adapt, options.speech
    )
    _write_measures(measures, options.json)


def _bench(options: argparse.Namespace) -> None:
    _check_output(options.json, ".json")
    from gmtalker.benchmark import measure

    if not all(0 < minutes < math.inf for minutes in options.long):
        raise WrongUsage("--long takes minutes.")
    if options.heads:
        if not 0 < options.minutes < math.inf:
            raise WrongUsage("--minutes must be more than 0.")
        from personalize.head_comparison import compare_heads

        picture = options.json.with_suffix(".png")
        _write_json(compare_heads(options.heads, options.minutes, _pipeline(options), _tell, picture), options.json)
        return
    if options.marks:
        from gmtalker.mark_benchmark import measure_mark

        _write_json(measure_mark(_pipeline(options), options.marks, _tell), options.json)
        return
    _write_json(measure(_pipeline(options), options.avatar, long=options.long), options.json)


def _pretrain(options: argparse.Namespace) -> None:
    if options.minutes is not None and not options.minutes > 0:
        raise WrongUsage("--minutes must be more than 0.")
    if options.steps is not None and (options.stage != "expression" or options.steps < 1 or options.minutes is not None):
        raise WrongUsage("--steps takes a number of steps of pretrain expression, in the place of --minutes.")
    if options.speech_encoder and options.stage != "speech":
        raise WrongUsage("--speech-encoder says what pretrain speech takes: pretrain speech --speech-encoder NAME.")
    from personalize import pretraining
    from personalize.datasets import training_rows

    if options.speech_encoder:
        pretraining.adopt_hubert(options.speech_encoder, options.output)
        return
    if options.baseline and options.stage != "expression":
        raise WrongUsage("--baseline is another expression generator: pretrain expression --baseline.")
    material = training_rows(*_set_of(options))
    train = getattr(pretraining, f"pretrain_{options.stage}")
    limits = {} if options.stage == "face" else {"minutes": options.minutes, "device": options.device}
    if options.stage == "head":
        limits |= {"leave_out": _names(options.leave_out), "size": options.size}
    if options.stage == "expression":
        limits |= {"by_label": options.baseline, "steps": options.steps}
    train(material, options.output, **limits)  # the face is solved for, not trained: it takes no time to limit


def _pipeline(options: argparse.Namespace) -> GMTalkerPipeline:
    from gmtalker.device import choose_device
    from gmtalker.pipeline import GMTalkerPipeline

    try:
        device = choose_device(options.device)
    except ValueError as error:
        raise WrongUsage(error) from error
    return GMTalkerPipeline.from_pretrained(getattr(options, "generic", None), device=device)


def _names(listed: str) -> tuple[str, ...]:
    """ "a,b" -> ("a", "b")."""
    return tuple(filter(None, listed.split(",")))


def _check_output(path: Path, suffix: str) -> None:
    if path.suffix.lower() != suffix:
        raise WrongUsage(f"The output {path.name} must be named with {suffix}.")
    if path.is_dir():
        raise UnusableInput(f"{path} is a folder; give a file to write.")
    if not path.absolute().parent.is_dir():
        raise UnusableInput(f"The folder {path.parent} does not exist; make it first.")


def _done(options: argparse.Namespace, **result: str) -> None:
    print(json.dumps({"done": True} | result, ensure_ascii=False) if options.json else options.output)


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _write_measures(measures: dict, path: Path) -> None:
    """As JSON, and as a Markdown table of the same name beside it."""
    from personalize.results_table import write_table

    _write_json(measures, path)
    write_table(_finite(measures), path)


def _write_json(figures: dict, path: Path) -> None:
    text = json.dumps(_finite(figures), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    unfinished = path.with_name(f".writing-{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    print(text, end="")


def _finite(value: object) -> object:
    """A measure that could not be taken is null: JSON has no "not a number"."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Bar:
    """Progress as a bar on a terminal, as JSON lines for machines, and as nothing in a log file."""

    NAMES = {"listening": "Listening", "expression": "Acting", "drawing": "Drawing"}

    def __init__(self, as_json: bool) -> None:
        self.as_json, self.bar, self.stage, self.percent = as_json, None, None, None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, progress: Progress) -> None:
        begins = progress.stage != self.stage
        self.stage = progress.stage
        if self.as_json:
            self._print_line(progress, begins)
            return
        if begins:
            from tqdm import tqdm

            self.__exit__()
            self.bar = tqdm(total=progress.total, desc=self.NAMES[self.stage], unit=" frames", disable=None, leave=False)
        self.bar.update(progress.done - self.bar.n)

    def _print_line(self, progress: Progress, begins: bool) -> None:
        percent = 100 * progress.done // progress.total
        if begins or percent != self.percent:  # a line a frame would be more text than anybody reads
            left = None if progress.seconds_left is None else round(progress.seconds_left, 1)
            print(json.dumps({"stage": progress.stage, "percent": percent, "seconds_left": left}), flush=True)
        self.percent = percent


if __name__ == "__main__":
    sys.exit(main())
