"""Decoding in a process of its own: a stranger's file may take the decoder down, or too much memory or time, but nothing else.

A function under @apart runs in a worker process, which takes one request after another and is kept between them. What it
gives comes back as JSON and plain numbers; nothing that the worker sends is run or unpickled here.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import inspect
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

import gmtalker
from gmtalker.errors import UnusableInput, UnusableSpeech, UnusableVideo

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

MEMORY_BYTES = 6 * 2**30  # address space of a worker: pictures of 8K, a few dozen of which a decoder holds, take 3 GB
CPU_SECONDS = 120  # of a worker from one result to the next: the survey of two hours of sound takes half of that
IDLE_MAX = 3  # workers that are kept
TABLE_BYTES = 2**24  # of a file that it writes: of the colours of HDR, which ffmpeg reads from a file
PIPE_BYTES = 2**20
ARRAY_BYTES = 2**30  # more in one result is none of ours
ERRORS: dict[str, type[UnusableInput]] = {error.__name__: error for error in (UnusableInput, UnusableSpeech, UnusableVideo)}
NAMED = "unusable"  # the parameter that says which error an unusable file is
_INSIDE = "GMTALKER_APART"  # set in a worker

Function = TypeVar("Function", bound=Callable[..., Any])


class Broken(Exception):
    """A worker broke off in the middle of a request."""


# --- The caller's side ---------------------------------------------------------------------------------------------------------


def apart(unusable: type[UnusableInput] = UnusableVideo, decoded: Callable[[Any], Any] = lambda value: value) -> Callable:
    """Decorates a function that reads a media file: it runs in a worker.

    The first parameter is the path; other arguments and the result are JSON, or the function is a generator of arrays. A
    parameter `unusable` takes the class of the error.

    unusable: the error of a file that takes the worker down, where no such parameter says it.
    decoded: makes the result of its JSON.
    """

    def decorate(function: Function) -> Function:
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def arrays(*given: object, **named: object) -> Iterator[np.ndarray]:
                if _INSIDE in os.environ:
                    yield from function(*given, **named)
                    return
                with closing(_results(*_request(function, unusable, given, named))) as results:
                    yield from results

            return arrays  # type: ignore[return-value]

        @functools.wraps(function)
        def value(*given: object, **named: object) -> object:
            if _INSIDE in os.environ:
                return function(*given, **named)
            with closing(_results(*_request(function, unusable, given, named))) as results:
                return decoded(next(results))

        return value  # type: ignore[return-value]

    return decorate


def _request(
    function: Callable, unusable: type[UnusableInput], given: tuple, named: dict[str, object]
) -> tuple[dict, str, type[UnusableInput]]:
    """What a worker is told, the name of the file, and the error where it can't be read."""
    bound = inspect.signature(function).bind(*given, **named)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    path = next(iter(arguments.values()))
    error = arguments.get(NAMED, unusable)
    if NAMED in arguments:
        arguments[NAMED] = error.__name__
    values = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in arguments.items()}
    asked = {"module": function.__module__, "name": function.__qualname__, "arguments": values, "folder": os.getcwd()}
    return asked, Path(path).name, error


def _results(request: dict, name: str, unusable: type[UnusableInput]) -> Iterator[Any]:
    """What a worker gives for a request. Errors: those of the function; `unusable` when the file takes the worker down."""
    worker = _take()
    is_whole = False
    try:
        yield from worker.ask(request)
        is_whole = True
    except GeneratorExit:
        is_whole = worker.stop()
        raise
    except UnusableInput:
        is_whole = True
        raise
    except Broken as error:
        why = worker.end()
        raise unusable(f"{name} can't be read: {why}. Please save it again in a common format.") from error
    finally:
        if is_whole:
            _put_back(worker)
        else:
            worker.end()


class _Worker:
    """A process that decodes, and the pipes to it."""

    def __init__(self) -> None:
        project = str(Path(gmtalker.__file__).resolve().parent.parent)
        paths = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
        # One thread of the linear algebra: each would reserve memory that counts against the limit.
        settings = {_INSIDE: "1", "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gmtalker.media.apart", str(MEMORY_BYTES), str(CPU_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | settings,
            start_new_session=True,  # Ctrl-C is for the caller, who ends it
        )
        _widen(self.process.stdout)

    def ask(self, request: dict) -> Iterator[Any]:
        """Send a request. Yields: arrays, or the one value."""
        self._send(json.dumps(request).encode())
        while (result := self._result()) is not None:
            yield result

    def stop(self) -> bool:
        """End a request in the middle. Returns: whether the worker can take another one."""
        try:
            self._send(b"")
            while self._result() is not None:
                pass
        except (Broken, UnusableInput):
            return self.process.poll() is None
        return True

    def end(self) -> str:
        """End the process. Returns: why it had ended, if it had by itself."""
        try:
            self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:
                continue
        took_too_long = code == -getattr(signal, "SIGXCPU", 0)
        return "it took too long" if took_too_long else "it took the decoder down"

    def _send(self, line: bytes) -> None:
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Broken from error

    def _result(self) -> Any:
        """The next result; None at the end. Errors: what the function raised; Broken."""
        try:
            head = json.loads(self.process.stdout.readline())
            kind = head["kind"]
            if kind == "array":
                return self._array(head)
            if kind == "value":
                return head["value"]
            if kind == "unusable":
                raise ERRORS[head["error"]](head["message"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Broken from error
        if kind == "failed":
            raise RuntimeError(head["message"])
        return None

    def _array(self, head: dict) -> np.ndarray:
        dtype = {"uint8": np.uint8, "float32": np.float32}[head["dtype"]]
        shape = [int(side) for side in head["shape"]]
        if math.prod(shape) * np.dtype(dtype).itemsize > ARRAY_BYTES:
            raise Broken
        array = np.empty(shape, dtype)
        view, filled = memoryview(array).cast("B") if array.size else memoryview(b""), 0
        while filled < len(view):
            count = self.process.stdout.readinto(view[filled:])
            if not count:
                raise Broken
            filled += count
        return array


_idle: list[_Worker] = []
_lock = threading.Lock()


def _take() -> _Worker:
    with _lock:
        while _idle:
            worker = _idle.pop()
            if worker.process.poll() is None:
                return worker
    return _Worker()


def _put_back(worker: _Worker) -> None:
    with _lock:
        if len(_idle) < IDLE_MAX:
            _idle.append(worker)
            return
    worker.process.kill()
    worker.end()


@atexit.register
def _end_all() -> None:
    with _lock:
        for worker in _idle:
            worker.process.kill()
            worker.end()
        _idle.clear()


if hasattr(os, "register_at_fork"):  # the pipes of a forked process lead to its parent's workers
    os.register_at_fork(after_in_child=_idle.clear)


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe hold a picture, where the system can: fewer turns from process to process."""
    try:
        from fcntl import F_SETPIPE_SZ, fcntl

        fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[arg-type]
    except (ImportError, OSError):
        pass


# --- The worker's side ---------------------------------------------------------------------------------------------------------


def main(memory_bytes: int, cpu_seconds: int) -> None:
    """Answer requests until the caller is gone."""
    _limit(memory_bytes)
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no result
    for name in ("gmtalker.media.video", "gmtalker.media.audio"):
        importlib.import_module(name)
    while line := stdin.readline():
        if line.strip():  # an empty one stops a request that is over already
            try:
                _answer(json.loads(line), stdin, stdout, cpu_seconds)
            except BrokenPipeError:  # the caller is gone
                os._exit(0)


def _answer(request: dict, stdin: IO[bytes], stdout: IO[bytes], cpu_seconds: int) -> None:
    _allow(cpu_seconds)
    try:
        result = _call(request)
        if not inspect.isgenerator(result):
            _write(stdout, {"kind": "value", "value": asdict(result) if is_dataclass(result) else result})
        else:
            for array in result:
                _write(stdout, {"kind": "array", "dtype": str(array.dtype), "shape": array.shape}, array)
                _allow(cpu_seconds)
                if select.select([stdin], [], [], 0)[0]:  # it wants no more
                    result.close()
                    break
        _write(stdout, {"kind": "end"})
    except UnusableInput as error:
        _write(stdout, {"kind": "unusable", "error": type(error).__name__, "message": str(error)})
    except MemoryError:
        name = Path(next(iter(request["arguments"].values()))).name
        error = request["arguments"].get(NAMED, "UnusableVideo")
        _write(stdout, {"kind": "unusable", "error": error, "message": f"{name} takes too much memory to read."})
    except BrokenPipeError:
        raise
    except Exception:  # noqa: BLE001 - the caller shows it
        _write(stdout, {"kind": "failed", "message": traceback.format_exc()})


def _call(request: dict) -> Any:
    function = getattr(importlib.import_module(request["module"]), request["name"])
    arguments = request["arguments"]
    os.chdir(request["folder"])  # a path may be relative to where the caller is
    if NAMED in arguments:
        arguments[NAMED] = ERRORS[arguments[NAMED]]
    return function(**arguments)


def _write(stdout: IO[bytes], head: dict, array: np.ndarray | None = None) -> None:
    stdout.write(json.dumps(head, default=np.ndarray.tolist).encode() + b"\n")
    if array is not None:
        stdout.write(np.ascontiguousarray(array).data)
    stdout.flush()


def _limit(memory_bytes: int) -> None:
    """No file is written but a table of colours, no core dumped, and no more memory taken than the largest film needs."""
    if resource is None:
        return
    limits = ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_FSIZE, TABLE_BYTES), (resource.RLIMIT_CORE, 0))
    for kind, most in limits:
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):  # macOS has no limit of the address space
            continue


def _allow(cpu_seconds: int) -> None:
    """From now on, so much time of the processor."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_seconds, hard))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
