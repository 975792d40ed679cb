"""Errors whose message is shown to the person as it stands: one sentence, what is wrong and what to do."""


class UnusableInput(Exception):
    """What the person gave can't be used. The message is written for them."""


class UnusableVideo(UnusableInput):
    """An uploaded video that can't be read or shows no usable face."""


class UnusableSpeech(UnusableInput):
    """A speech file that can't be read or holds no sound."""


class UnusableAvatar(UnusableInput):
    """An avatar that is missing, incomplete or broken."""
