"""An invisible mark in every frame: 64 bits that survive re-encoding, scaling and cropping, with an error-correcting code.

Spread spectrum (Cox et al. 1997) with the host's own part cancelled (improved spread spectrum, Malvar and Florencio 2003): each
coded bit is one orthonormal pattern in a band of frequencies, repeated over the picture in tiles. What the picture itself holds
of the pattern is known while writing, so little is added where it speaks for the bit anyway. Tiles make the mark found again
wherever the picture was cut; one more pattern, always there, shows where they are. See docs/method.md section 13.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np

SIDE = 256  # pixels of the short side of the picture that patterns are laid over, whatever its own size
TILE = 64
BAND = (4.0, 9.0)  # waves a tile: coarser ones are seen, finer ones are lost in a small or much compressed video
POSITION_SHARE = 0.25  # of the band's waves: those of the pattern that shows where the tiles are
PAYLOAD = 5  # bytes; three more check them: of all positions that are tried, one video in 170,000 has a mark by chance
WORD, CODED = 16, 36  # bits of a word of the code, and what they become; four words are a payload with its check
BIT_STRENGTH, POSITION_STRENGTH = 31.0, 140.0  # of a coded bit's and of the position's unit-norm pattern, in levels of 255
FLAT, BUSY = 0.45, 0.6  # of the strength in a flat part of the picture, and by how much more for each level of detail
MARK_RMS_MAX = 2.45  # levels, root mean square, that the mark adds to a frame at most: 40.3 dB
GAIN_MAX = 3.0  # times the strength that one pattern may add against what the picture holds
EQUALISING = 0.1  # share of a bit's deficit to the mean level of all bits that it gets on top, a frame
INERTIA = 0.9  # how slowly what is added follows the picture, a frame: a pattern that jumps is seen
SHADING_SIGMA, EDGE_MAX = 2.5, 4.0  # pixels over which shading extends; levels that an edge counts for at most
SCALES = np.geomspace(0.76, 1.05, 128)  # of the original's short side, in that of what is left after cropping
READ_FRAMES_MAX, READ_PIXELS_MAX = 250, 250 * 1920 * 1080
ASPECT_MAX = 6  # of a picture that may hold a mark
# Standard deviations from which a known payload counts as found where nothing was cut off, and at any of the half million other
# positions: of videos without a mark one in a million, for each payload that is looked for.
LIKE_UNCUT, LIKE_CUT, KNOWN_TRIED = 5.0, 7.0, 16
TRIED_PER_SCALE, TRIED_MAX = 4, 95  # positions of the tiles that are tried, of each scale and in all


@cache
def _waves() -> tuple[np.ndarray, np.ndarray]:
    """(n,) how often each wave of the band goes down and across a tile; of mirrored pairs one."""
    across, down = np.meshgrid(np.fft.fftfreq(TILE) * TILE, np.fft.fftfreq(TILE) * TILE)
    inside = (np.hypot(across, down) >= BAND[0]) & (np.hypot(across, down) <= BAND[1])
    half = inside & ((down > 0) | ((down == 0) & (across > 0)))
    return down[half].astype(int), across[half].astype(int)


@cache
def _mixing() -> np.ndarray:
    """(2 n, 1 + 4 * CODED) float32 orthonormal columns, cosines above sines of the waves: the position, and each coded bit."""
    count = len(_waves()[0])
    random = np.random.Generator(np.random.PCG64(2312_07669))
    positional = random.random(count) < POSITION_SHARE  # waves of its own: bits never look like the position, wherever they are
    phases = random.uniform(0, 2 * np.pi, positional.sum())
    mixing = np.zeros((2, count, 1 + 4 * CODED))
    mixing[:, positional, 0] = np.stack([np.cos(phases), -np.sin(phases)]) / math.sqrt(positional.sum())
    mixed, _ = np.linalg.qr(random.standard_normal((2 * int((~positional).sum()), 4 * CODED)))
    mixing[:, ~positional, 1:] = mixed.reshape(2, -1, 4 * CODED)
    return mixing.reshape(2 * count, -1).astype(np.float32)


def _levels(folded: np.ndarray) -> np.ndarray:
    """(1 + 4 * CODED,) how much of each pattern is in (TILE, TILE).

    By the spectrum and einsum: BLAS would share so little out over all cores, which have frames to draw.
    """
    waves = np.fft.fft2(folded)[_waves()]
    return np.einsum("wp,w->p", _mixing(), np.concatenate([waves.real, -waves.imag]) * (math.sqrt(2) / TILE))


def _tile(amounts: np.ndarray) -> np.ndarray:
    """(TILE, TILE) the sum of so much (1 + 4 * CODED,) of each pattern, whose squares sum to one."""
    cosines, sines = np.split(np.einsum("wp,p->w", _mixing(), amounts), 2)
    spectrum = np.zeros((TILE, TILE), complex)
    spectrum[_waves()] = cosines - 1j * sines
    return np.fft.ifft2(spectrum).real.astype(np.float32) * (math.sqrt(2) * TILE)


@cache
def _code() -> np.ndarray:
    """(2 ** WORD, CODED) int8 of +-1: a random linear block code, read by comparing with every word (maximum likelihood)."""
    random = np.random.Generator(np.random.PCG64(14))  # of the first seeds the one whose words lie farthest apart
    generator = np.hstack([np.eye(WORD, dtype=np.uint8), random.integers(0, 2, (WORD, CODED - WORD), dtype=np.uint8)])
    words = np.unpackbits(np.arange(2**WORD, dtype=">u2").view(np.uint8).reshape(-1, 2), axis=1)
    return (1 - 2 * (words @ generator % 2)).astype(np.int8)


def _folded(detail: np.ndarray) -> np.ndarray:
    """(TILE, TILE) the sum of the tiles of (h, w) float32, cut-off ones filled with nothing."""
    height, width = detail.shape
    padded = np.zeros((-(-height // TILE) * TILE, -(-width // TILE) * TILE), np.float32)
    padded[:height, :width] = detail
    return padded.reshape(padded.shape[0] // TILE, TILE, padded.shape[1] // TILE, TILE).sum((0, 2))


def _detail(frame: np.ndarray) -> np.ndarray:
    """The part of a frame that can hold the mark, (h, w) float32 with a short side of SIDE: without shading, edges as low as
    texture."""
    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    scale = SIDE / min(luma.shape)
    height, width = (max(round(scale * side), SIDE) for side in luma.shape)
    # Through half of that size, so that a video made smaller holds as much of the picture's own detail as the large one.
    luma = cv2.resize(luma, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    luma = cv2.resize(luma, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(luma - cv2.GaussianBlur(luma, (0, 0), SHADING_SIGMA), -EDGE_MAX, EDGE_MAX)


class Watermark:
    """Puts one payload into the frames of one video, given in their order.

    payload: 5 bytes.
    Errors: ValueError for another length.
    Source: Cox et al. 1997; Malvar and Florencio 2003; docs/method.md section 13.
    """

    def __init__(self, payload: bytes) -> None:
        if len(payload) != PAYLOAD:
            raise ValueError(f"A mark holds {PAYLOAD} bytes, not {len(payload)}")
        self._signs = payload_signs(payload)
        self._goal = _goals()
        self._deficit = np.zeros(len(self._signs), np.float32)
        self._added: np.ndarray | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """A marked copy of a frame (height, width, 3) uint8 RGB."""
        detail = _detail(frame)
        height, width = detail.shape
        tiles = math.sqrt(height * width) / TILE

        def present(detail: np.ndarray) -> np.ndarray:
            return self._signs * _levels(_folded(detail)) / tiles

        wanted = np.clip(self._goal - present(detail) + self._deficit, 0, GAIN_MAX * self._goal)
        self._added = wanted if self._added is None else INERTIA * self._added + (1 - INERTIA) * wanted
        tile = _tile(self._signs * self._added / tiles)
        pattern = np.tile(tile, (-(-height // TILE), -(-width // TILE)))[:height, :width]
        pattern = pattern * np.clip(FLAT + cv2.blur(np.abs(detail), (9, 9)) * BUSY, FLAT, 2.0)
        pattern *= min(1.0, MARK_RMS_MAX / (float(np.sqrt(np.square(pattern).mean())) + 1e-9))
        if frame.shape[:2] != pattern.shape:
            pattern = cv2.resize(pattern, frame.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        marked = np.clip(frame + np.rint(pattern)[..., None], 0, 255).astype(np.uint8)
        # Masks and limits weaken some patterns more than others; those get more in the next frames.
        level = present(_detail(marked))[1:]
        self._deficit[1:] = np.clip(self._deficit[1:] + EQUALISING * (level.mean() - level), -BIT_STRENGTH, BIT_STRENGTH)
        return marked


def find_mark(frames: Iterable[np.ndarray], known: Collection[bytes] = ()) -> bytes | None:
    """Read the mark of a video.

    frames: (height, width, 3) uint8 RGB; the first READ_FRAMES_MAX are used.
    known: payloads that are also looked for as wholes, where too little is left to read one bit by bit: half the size at crf 28
        leaves 0.25 bits of each of 144, and a payload with its check has 64.
    Returns: the payload of 5 bytes, None where there is no mark.
    """
    detail = 0.0
    for frame in _readable(frames):
        detail = detail + _detail(frame)
    if not np.ndim(detail):
        return None
    whole = _Place(np.inf, _folded(detail), (0, 0))  # nothing was cut off
    scaled = [_folded(cv2.resize(detail, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)) for scale in SCALES]
    for place in [whole, *_places(scaled, np.eye(1 + 4 * CODED)[0], TRIED_PER_SCALE, TRIED_MAX)]:
        if payload := read_payload(place.levels()[None, 1:]):
            return payload
    for payload in known:
        pattern = payload_signs(payload) * _goals()
        cut = (place.likeness(payload) for place in _places(scaled, pattern / np.linalg.norm(pattern), 1, KNOWN_TRIED))
        if whole.likeness(payload) > LIKE_UNCUT or max(cut) > LIKE_CUT:
            return payload
    return None


def _readable(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """As many of the frames as a mark is looked for in; none of a strip, which would be laid out as large as its sides differ."""
    left = READ_PIXELS_MAX
    for frame in islice(frames, READ_FRAMES_MAX):
        height, width = frame.shape[:2]
        if max(height, width) > ASPECT_MAX * min(height, width) or left <= 0:
            return
        left -= height * width
        yield frame


class _Place(NamedTuple):
    """Where the tiles may lie in a picture.

    agreement: with the pattern that was looked for.
    folded: (TILE, TILE) the sum of the tiles, at one scale.
    where: how far down and across they are shifted.
    """

    agreement: float
    folded: np.ndarray
    where: tuple[int, int]

    def levels(self) -> np.ndarray:
        """(1 + 4 * CODED,) how much of each pattern is there."""
        return _levels(np.roll(self.folded, (-self.where[0], -self.where[1]), (0, 1)))

    def likeness(self, payload: bytes) -> float:
        """How far the levels of the bits lie on the side of a payload, in standard deviations of what another's would give."""
        levels = self.levels()[1:]
        return float(payload_signs(payload)[1:] @ levels / (np.linalg.norm(levels) + 1e-9))


def _places(scaled: Sequence[np.ndarray], amounts: np.ndarray, per_scale: int, most: int) -> list[_Place]:
    """Where a pattern of these amounts (1 + 4 * CODED,), whose squares sum to one, is most likely in folded pictures."""
    pattern, places = np.fft.rfft2(_tile(amounts)).conj(), []
    for folded in scaled:
        waves = np.fft.rfft2(folded)
        # By their phases alone: the picture's own waves are of very different heights.
        agreement = np.fft.irfft2(waves / (np.abs(waves) + 1e-9) * pattern, (TILE, TILE))
        for where in np.argpartition(agreement, -per_scale, axis=None)[-per_scale:]:
            down, across = divmod(int(where), TILE)
            places.append(_Place(float(agreement.flat[where]), folded, (down, across)))
    return sorted(places, key=lambda place: -place.agreement)[:most]


def _goals() -> np.ndarray:
    """(1 + 4 * CODED,) float32: how much of each pattern is wanted in a frame."""
    return np.concatenate([[POSITION_STRENGTH], np.full(4 * CODED, BIT_STRENGTH)]).astype(np.float32)


def payload_signs(payload: bytes) -> np.ndarray:
    """(1 + 4 * CODED,) float32 of +-1: the side on which the position and each coded bit of a payload lie."""
    return np.concatenate([[1], *_code()[np.frombuffer(coded_payload(payload), ">u2")]]).astype(np.float32)


def read_payload(levels: np.ndarray) -> bytes | None:
    """The payload of the first of several readings (n, 4 * CODED) whose check is right; None where none is."""
    coded = levels.reshape(-1, CODED).T.astype(np.float32)
    words = (_code().astype(np.float32) @ coded).argmax(0).astype(">u2").reshape(-1, 4)
    found = (row.tobytes() for row in words)
    return next((row[:PAYLOAD] for row in found if coded_payload(row[:PAYLOAD]) == row), None)


def coded_payload(payload: bytes) -> bytes:
    """The 8 bytes that the code carries: a payload of 5 and three that check it."""
    return payload + (zlib.crc32(b"GMTalker Studio" + payload) & 0xFFFFFF).to_bytes(3, "big")
