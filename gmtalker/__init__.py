"""GMTalker: audio-driven emotional talking video portraits (arXiv 2312.07669). The public API; each name is loaded when used."""

import importlib

__version__ = "0.2.0"
_WHERE = {
    "GMTalkerPipeline": "gmtalker.pipeline",
    "SpeakRequest": "gmtalker.request",
    "EmotionKey": "gmtalker.tracks",
    "EmotionWeights": "gmtalker.tracks",
    "Avatar": "gmtalker.avatars.avatar",
    "load_avatar": "gmtalker.avatars.ready",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'gmtalker' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
