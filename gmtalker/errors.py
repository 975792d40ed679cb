"""Errors whose message is shown to the person as it stands: one sentence, what is wrong and what to do."""


def first_line(error: object) -> str:
    """What an error of somebody else's says first, for the end of a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


class UnusableInput(Exception):
    """What the person gave can't be used. The message is written for them."""


class UnusableVideo(UnusableInput):
    """An uploaded video that can't be read or shows no usable face."""


class UnusableSpeech(UnusableInput):
    """A speech file that can't be read or holds no sound."""


class UnusableAvatar(UnusableInput):
    """An avatar that is missing, incomplete or broken."""
