"""The one clock and the few numbers that everything agrees on. Imports nothing."""

FPS = 25  # video frames a second, in every track and every video
SAMPLE_RATE = 16_000  # of speech, Hz
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640
EMOTIONS = ("neutral", "angry", "contempt", "disgusted", "fear", "happy", "sad", "surprised")  # MEAD's, in this order everywhere
SIZES = (256, 512, 1024)  # pixels of a side that a head can be drawn at


def frames_for(samples: int) -> int:
    """Video frames of a speech: the one rule of length.

    samples: at SAMPLE_RATE.
    Returns: ceil(samples / SAMPLES_PER_FRAME).
    """
    return -(-samples // SAMPLES_PER_FRAME)
