"""Formats that a video is written in: what each file holds, and how ffmpeg encodes it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

RATES = {name: Fraction(name) for name in ("24", "25", "30", "50", "60")} | {"29.97": Fraction(30000, 1001)}  # frames a second
DEFAULT_RATE = "25"
CANVASES = {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (720, 720), "4:5": (720, 900)}  # width and height in pixels
PLAYED = ("mp4", "green", "webm-alpha")  # formats that every browser plays
BT709 = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv")
COLOURS = "scale=out_color_matrix=bt709:out_range=tv"
AAC = ("-c:a", "aac", "-b:a", "128k", "-ar", "48000")


@dataclass(frozen=True)
class VideoFormat:
    """How a file is written.

    suffix: of the file.
    container: ffmpeg's name of it; None for a folder of pictures, which becomes a zip.
    filters: before the encoder.
    video, sound: options of ffmpeg's encoders; none where the file has no such stream.
    has_alpha: whether the person's outline is kept.
    media_type: under which it carries content credentials; None where C2PA has no way to put them into the file.
    """

    suffix: str
    container: str | None
    filters: str
    video: tuple[str, ...]
    sound: tuple[str, ...] = AAC
    has_alpha: bool = False
    media_type: str | None = "video/mp4"

    @property
    def is_mp4(self) -> bool:
        """Whether its index can stand at the begin of the file."""
        return self.container in ("mp4", "mov")


H264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-threads", "1", *BT709)
HEVC = ("-c:v", "libx265", "-preset", "fast", "-crf", "20", "-tag:v", "hvc1", "-x265-params", "log-level=error", *BT709)
AV1 = ("-c:v", "libsvtav1", "-preset", "9", "-crf", "28", *BT709)
VP9 = ("-c:v", "libvpx-vp9", "-crf", "20", "-b:v", "0", "-deadline", "realtime", "-cpu-used", "5", "-auto-alt-ref", "0", *BT709)
PRORES = ("-c:v", "prores_ks", "-profile:v", "4444", "-alpha_bits", "16", "-vendor", "apl0", *BT709)
PALETTE = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=bayer"
OPUS, PCM = ("-c:a", "libopus", "-b:a", "128k", "-ar", "48000"), ("-c:a", "pcm_s16le", "-ar", "48000")
WEBP = ("-c:v", "libwebp_anim", "-quality", "85", "-loop", "0")
OPAQUE, TRANSPARENT = f"{COLOURS},format=yuv420p", f"{COLOURS},format=yuva420p"
FORMATS = {
    "mp4": VideoFormat(".mp4", "mp4", OPAQUE, H264),
    "hevc": VideoFormat(".mp4", "mp4", OPAQUE, HEVC),
    "av1": VideoFormat(".mp4", "mp4", OPAQUE, AV1),
    "green": VideoFormat(".mp4", "mp4", OPAQUE, H264),
    "webm-alpha": VideoFormat(".webm", "webm", TRANSPARENT, VP9, OPUS, True, None),
    "prores-alpha": VideoFormat(".mov", "mov", f"{COLOURS},format=yuva444p10le", PRORES, PCM, True, "video/quicktime"),
    "gif": VideoFormat(".gif", "gif", PALETTE, ("-c:v", "gif"), (), media_type="image/gif"),
    "webp": VideoFormat(".webp", "webp", "format=yuv420p", WEBP, (), media_type="image/webp"),
    "png": VideoFormat(".zip", None, "format=rgba", ("-c:v", "png"), PCM, True, None),
    "wav": VideoFormat(".wav", "wav", "", (), PCM, media_type="audio/wav"),
}
MP4 = FORMATS["mp4"]
