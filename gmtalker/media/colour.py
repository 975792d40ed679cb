"""From what a camera wrote to plain RGB: high dynamic range, wide gamuts, matrices that a file does not name, half pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc

TABLE_NODES = 33  # to a side of the table of colours: an error of 1 of 255 at most
HLG_PEAK, SDR_WHITE = 1000.0, 100.0  # nits of a screen for HLG, and of white on an ordinary one
HLG_GAMMA = 1.2  # of that screen
KNEE = 0.7  # of white, from which on highlights are pressed together
SDR_GAMMA = 2.4  # of an ordinary screen (ITU-R BT.1886)
HIGH_DEFINITION = 720  # pixels of the shorter side, from which on a file without a matrix means BT.709, below it BT.601
UNSPECIFIED = 2  # ffmpeg's number for a colour space that is not told

# Linear RGB to linear BT.709 (ITU-R BT.2087; SMPTE EG 432-1).
_TO_709 = {
    ColorPrimaries.BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    ColorPrimaries.SMPTE432: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}


class ToRgb:
    """Converts the pictures of one video, as its first one is told to be.

    Source: ITU-R BT.2100 for HLG and PQ; highlights are pressed together as an exponential towards white.
    """

    def __init__(self, first: av.VideoFrame):
        transfer, primaries = first.color_trc, first.color_primaries
        self.table = colour_table(transfer, primaries) if transfer in _HDR or primaries in _TO_709 else None
        is_high = min(first.width, first.height) >= HIGH_DEFINITION
        self.matrix = Colorspace.ITU709 if first.colorspace == UNSPECIFIED and is_high else None
        self._graph: Graph | None = None
        self._kind: tuple | None = None

    def __call__(self, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 of a decoded picture."""
        if self.table is None:
            picture = frame.reformat(format="rgb24", width=width, height=height, src_colorspace=self.matrix)
            array: np.ndarray = picture.to_ndarray()
            return array
        kind = (frame.format.name, frame.width, frame.height, width, height)
        if kind != self._kind:
            self._graph, self._kind = self._with_table(frame, width, height), kind
        self._graph.push(frame)
        array = self._graph.pull().to_ndarray()
        return array

    def _with_table(self, frame: av.VideoFrame, width: int, height: int) -> Graph:
        graph = Graph()
        with tempfile.NamedTemporaryFile("w", suffix=".cube") as file:  # read when the filter is made
            file.write(f"LUT_3D_SIZE {TABLE_NODES}\n")
            file.writelines(f"{r:.5f} {g:.5f} {b:.5f}\n" for r, g, b in self.table.reshape(-1, 3))
            file.flush()
            filters = [
                graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base),
                graph.add("scale", w=str(width), h=str(height)),
                graph.add("format", pix_fmts="gbrp10le"),
                graph.add("lut3d", file=file.name),
                graph.add("format", pix_fmts="rgb24"),
                graph.add("buffersink"),
            ]
            graph.link_nodes(*filters).configure()
        return graph


def colour_table(transfer: int, primaries: int) -> np.ndarray:
    """What each colour of a file is in BT.709, (blue, green, red, 3) in 0 to 1.

    transfer, primaries: ffmpeg's numbers.
    """
    nodes = np.linspace(0, 1, TABLE_NODES)
    blue, green, red = np.meshgrid(nodes, nodes, nodes, indexing="ij")
    written = np.stack([red, green, blue], axis=-1)
    light = _HDR[transfer](written) if transfer in _HDR else written**SDR_GAMMA
    matrix = _TO_709.get(primaries)
    light = light if matrix is None else light @ np.array(matrix).T
    light = np.clip(light, 0, None)
    if transfer == ColorTrc.ARIB_STD_B67:  # by channel, as what makes HLG of ordinary films does: by luminance skin turns pale
        light = light**HLG_GAMMA * (HLG_PEAK / SDR_WHITE)
    most = light.max(-1, keepdims=True)  # by the largest channel: hues stay
    pressed = KNEE + (1 - KNEE) * (1 - np.exp(-(most - KNEE) / (1 - KNEE)))
    light = light * np.where(most > KNEE, pressed / np.maximum(most, 1e-9), 1.0) if transfer in _HDR else np.minimum(light, 1)
    table: np.ndarray = light ** (1 / SDR_GAMMA)
    return table


def _hlg(written: np.ndarray) -> np.ndarray:
    """Light of the scene, so that a screen's gamma makes of it whites of an ordinary screen."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene: np.ndarray = np.where(written <= 0.5, written**2 / 3, (np.exp((written - c) / a) + b) / 12)
    return scene


def _pq(written: np.ndarray) -> np.ndarray:
    """Light in whites of an ordinary screen."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = written ** (1 / m2)
    light: np.ndarray = (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * (10_000 / SDR_WHITE)
    return light


_HDR = {ColorTrc.ARIB_STD_B67: _hlg, ColorTrc.SMPTE2084: _pq}


def whole_pictures(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Pictures without the combs of half pictures, where the stream says that it holds such: ffmpeg's bwdif."""
    graph: Graph | None = None
    kind: tuple | None = None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        now = (frame.format.name, frame.width, frame.height)
        if now != kind:
            yield from _pulled(graph)
            graph, kind = _deinterlacer(frame), now
        graph.push(frame)
        yield from _pulled(graph, ends=False)
    yield from _pulled(graph)


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")).configure()
    return graph


def _pulled(graph: Graph | None, ends: bool = True) -> Iterator[av.VideoFrame]:
    if graph is None:
        return
    if ends:
        graph.push(None)
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
