"""Paths of the files that come with the program: generic stages, bundled avatars, example speech."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).resolve().parent / "_assets"  # of an installed package; in a checkout they are at its top level
ASSETS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parent.parent / "assets"
GENERIC = ASSETS / "generic"
BUNDLED = ASSETS / "avatars"
SPEECHES = ASSETS / "speech"
SPEECH = SPEECHES / "english.flac"
