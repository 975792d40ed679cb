"""The clock and the few constants that all modules share. Imports nothing."""

FPS = 25  # video frames a second, in every track and every video
SAMPLE_RATE = 16_000  # of speech, Hz
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640
EMOTIONS = ("neutral", "angry", "contempt", "disgusted", "fear", "happy", "sad", "surprised")  # MEAD's, in this order everywhere
SIZES = (256, 512, 1024)  # sides of generated heads, in pixels
LARGEST_AMOUNT = 3.0  # times a person's own movement
MOTIONS = ("own", "still", "lively")  # manners in which a person's head and eyes move
LABELS = ("none", "whole", "intervals")  # when the visible label is seen
LABEL_LANGUAGES = ("en", "zh")
LARGEST_INTENSITY = 2.0  # of an emotion; 1 is as strong as people's


def frames_for(samples: int) -> int:
    """Number of video frames of a speech.

    samples: at SAMPLE_RATE.
    Returns: ceil(samples / SAMPLES_PER_FRAME).
    """
    return -(-samples // SAMPLES_PER_FRAME)
