"""Opening media files: what may be read, and which recordings a file holds one after another."""

from __future__ import annotations

import io
import mmap
import re
from itertools import pairwise
from pathlib import Path

import av
from av.container import InputContainer

from gmtalker.errors import UnusableInput, UnusableSpeech, UnusableVideo

# ffmpeg's names of the formats that hold their media themselves: a playlist, or a list of files to join, in an upload would make
# the server read other files or call other hosts.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi mpegts mpeg mpegvideo flv asf ogg wav w64 mp3 flac aac aiff caf amr amrnb amrwb "
    "ac3 eac3 au h264 hevc mxf rm ivf dv"
).split()
# Their files do not say how long they are: ffmpeg guesses from the bit rate.
FORMATS_WITH_GUESSED_LENGTH = ("mp3", "aac", "amr", "amrnb", "amrwb", "ac3", "eac3")
PARTS_MAX = 1000  # recordings in one file; more are no recordings
_ADVICE = {
    UnusableVideo: "Please give a video such as mp4, mov or webm.",
    UnusableSpeech: "Please give speech as wav, mp3, m4a or flac.",
}
_MATROSKA = re.compile(rb"\x1aE\xdf\xa3.{4,48}?(?:webm|matroska)", re.DOTALL)

Part = tuple[int, int]  # first byte, and the byte after the last


class _Window(io.RawIOBase):
    """The bytes of one part of a file, as a file of its own."""

    def __init__(self, path: Path, part: Part):
        self._file, (self._first, end) = path.open("rb"), part
        self._length, self.name = end - self._first, str(path)
        self._file.seek(self._first)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._first

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._length}[whence]
        self._file.seek(self._first + min(max(base + offset, 0), self._length))
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        left = self._length - self.tell()
        return self._file.read(left if size < 0 else min(size, left))

    def close(self) -> None:
        self._file.close()
        super().close()


def check_is_file(path: Path, unusable: type[UnusableInput]) -> Path:
    """The path of a file that is not empty. Errors: `unusable`, with one sentence."""
    path = Path(path)
    advice = _ADVICE[unusable]
    if path.is_dir():
        raise unusable(f"{path.name or path} is a folder. {advice}")
    if not path.exists():
        raise unusable(f"There is no file {path}. {advice}")
    if not path.is_file():
        raise unusable(f"{path.name} is not a file. {advice}")
    if path.stat().st_size == 0:
        raise unusable(f"{path.name} is empty. Please save or upload it again.")
    return path


def open_media(path: Path, unusable: type[UnusableInput], part: Part | None = None) -> InputContainer:
    """Open a media file for reading, whatever its name looks like; the container is a context manager.

    unusable: the class of the error.
    part: one of the recordings in it (recordings_in); None reads the file as ffmpeg does.
    Errors: `unusable`, with one sentence when the path is missing, a folder, empty or not media.
    """
    path = check_is_file(path, unusable)
    # "file:" keeps a colon in a name from being read as a protocol, and a leading dash from being anything but a name.
    source = f"file:{path.absolute()}" if part is None else _Window(path, part)
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)}
    try:
        return av.open(source, container_options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise unusable(f"{path.name} is damaged or of a kind that can't be read. {_ADVICE[unusable]}") from error


def begins_at_zero(container: InputContainer) -> bool:
    """Whether pictures and sound of a file begin together, whatever the first picture's time: AVI counts pictures.

    Its first one may be told late, where a program left out some that look the same, or its codec orders them anew.
    """
    return bool(container.format.name == "avi")


def picture_stream(container: InputContainer) -> av.VideoStream | None:
    """The first video stream, or None; the cover picture of a song is no video."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            return stream
    return None


def recordings_in(path: Path, unusable: type[UnusableInput]) -> list[Part]:
    """The recordings that a file holds one after another, as programs make them that glue files together byte by byte.

    ffmpeg reads the first one and says nothing of the others.

    Errors: `unusable` for more than a thousand.
    """
    path = check_is_file(path, unusable)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        starts = [0, *_later_starts(data)]
        total = len(data)
    if len(starts) > PARTS_MAX:
        raise unusable(f"{path.name} holds more than {PARTS_MAX} recordings one after another. Please join them anew.")
    return list(pairwise([*starts, total]))


def _later_starts(data: mmap.mmap) -> list[int]:
    """Where further recordings begin."""
    head = data[:12]
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        return _later_waves(data)
    if head[:4] == b"OggS":
        return _later_ogg(data)
    if head[4:8] == b"ftyp":
        return _later_boxes(data)
    if head[:4] == b"fLaC":
        return _found(data, b"fLaC\x00\x00\x00\x22")
    if head[:4] == b"\x1aE\xdf\xa3":
        return [match.start() for match in _MATROSKA.finditer(data)][1:]
    return []


def _found(data: mmap.mmap, sign: bytes) -> list[int]:
    starts, place = [], data.find(sign, 1)
    while place > 0 and len(starts) <= PARTS_MAX:
        starts.append(place)
        place = data.find(sign, place + 1)
    return starts


def _later_waves(data: mmap.mmap) -> list[int]:
    starts, place = [], 0
    while len(starts) <= PARTS_MAX:
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size
        # A chunk of odd length is followed by a byte of padding; not every program writes it.
        place = next((at for at in (place, place + 1) if data[at : at + 4] == b"RIFF" and data[at + 8 : at + 12] == b"WAVE"), 0)
        if not place:
            break
        starts.append(place)
    return starts


def _later_ogg(data: mmap.mmap) -> list[int]:
    """Pages that begin a stream, after pages that do not: a stream that begins when another has ended."""
    starts, place, begun = [], 0, True
    while data[place : place + 4] == b"OggS" and place + 27 <= len(data) and len(starts) <= PARTS_MAX:
        begins = bool(data[place + 5] & 2)
        if begins and not begun:
            starts.append(place)
        begun = begins
        segments = data[place + 26]
        place += 27 + segments + sum(data[place + 27 : place + 27 + segments])
    return starts


def _later_boxes(data: mmap.mmap) -> list[int]:
    """mp4: a second file type after a whole film."""
    starts, place, whole = [], 0, False
    while place + 8 <= len(data) and len(starts) <= PARTS_MAX:
        size, kind, head = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8], 8
        if size == 1 and place + 16 <= len(data):
            size, head = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        if kind == b"ftyp" and whole:
            starts.append(place)
            whole = False
        whole = whole or kind == b"moov"
        if size < head:  # 0: to the end of the file; else damaged
            break
        place += size
    return starts
