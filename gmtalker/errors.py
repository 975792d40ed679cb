"""Errors whose message is shown to the user as it is: one sentence, what is wrong and what to do."""


def first_line(error: object) -> str:
    """First line of a library's error, without its full stop, to end a message with."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


class UnusableInput(Exception):
    """What the user gave can't be used; the message is written for them."""


class UnusableVideo(UnusableInput):
    """A video can't be read or shows no usable face."""


class UnusableSpeech(UnusableInput):
    """A speech file can't be read or holds no sound."""


class UnusableAvatar(UnusableInput):
    """An avatar is missing, incomplete or broken."""


class UnusableWeights(UnusableAvatar):
    """A network's config or weights, of an avatar or of the generic stages, can't be loaded."""
