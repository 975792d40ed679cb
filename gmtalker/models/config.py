"""The networks' config.json: options that once had another name, or did not exist, are still read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from diffusers.configuration_utils import ConfigMixin


class NetworkConfig(ConfigMixin):
    """A config that can be read under former option names, by load_strict and by diffusers' from_pretrained alike.

    FORMER_NAMES: former name to present name; files are written with the present names only.
    LATER_OPTIONS: what an option is in files that were written before it existed.
    """

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {}
    LATER_OPTIONS: ClassVar[Mapping[str, object]] = {}
    if TYPE_CHECKING:
        config: Any  # options by name, as attributes: diffusers fills it

    @classmethod
    def with_present_names(cls, config: Mapping[str, object]) -> dict[str, object]:
        """The options of a config file as __init__ takes them; unknown ones are left for the caller to refuse.

        Errors: ValueError when an option is given under both names.
        """
        for former, present in cls.FORMER_NAMES.items():
            if former in config and present in config:
                raise ValueError(f"{former} and {present} are the same option")
        return {**cls.LATER_OPTIONS, **{cls.FORMER_NAMES.get(name, name): value for name, value in config.items()}}

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, object], **kwargs: object) -> tuple[dict, dict, dict]:
        """What diffusers' from_config calls, with the present names."""
        return super().extract_init_dict(cls.with_present_names(config_dict), **kwargs)
