"""Avatars that are ready to speak: loaded, on the device, with a renderer and their own speaking style."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from gmtalker.avatars.avatar import Avatar, read_avatar
from gmtalker.avatars.consent import check_usable
from gmtalker.avatars.drawing_engine import DrawingEngine, drawing_engine
from gmtalker.avatars.on_hub import resolve
from gmtalker.avatars.speaking_style import with_speaking_style
from gmtalker.errors import UnusableAvatar
from gmtalker.face.model import FaceModel
from gmtalker.face.renderer import Renderer
from gmtalker.models.expression_generator import ExpressionGenerator

AVATARS_KEPT = 4  # loaded avatars held in memory


@dataclass(frozen=True, eq=False)
class ReadyAvatar:
    """An avatar with what speaking and drawing need.

    avatar: its networks are on the device.
    renderer: draws the person's face model.
    expression_generator: the generic one, or a copy with the person's speaking style in its weights.
    engine: runs the head generator.
    """

    avatar: Avatar
    renderer: Renderer
    expression_generator: ExpressionGenerator
    engine: DrawingEngine


# An avatar as every stage takes it: loaded, by name, folder or repo (resolve), or None for the bundled one.
AvatarLike = Avatar | ReadyAvatar | str | Path | None


def load_avatar(name_or_folder: str | Path | None = None) -> Avatar:
    """Find an avatar, check it and load it.

    name_or_folder: a name, a folder, a repo on the Hub ("owner/name"), or None for the bundled one.
    Errors: UnusableAvatar when it is missing, holds code, is too large, or misses a weight; UnusableInput when the Hub does not
        give it.
    """
    return read_avatar(resolve(name_or_folder))


def size_of(avatar: Avatar) -> int:
    """Pixels on a side of the avatar's picture."""
    return int(avatar.head_generator.config.size)


class ReadyAvatars:
    """The avatars in memory, the last used ones; safe to use from several threads."""

    def __init__(self, expression_generator: ExpressionGenerator, face_model: FaceModel, device: torch.device) -> None:
        """expression_generator: the generic one."""
        self.expression_generator, self.face_model, self.device = expression_generator, face_model, device
        self._ready: OrderedDict[object, ReadyAvatar] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, avatar: AvatarLike) -> ReadyAvatar:
        """An avatar made ready, or as it was made ready before; one that was trained again since is loaded again.

        Errors: as load_avatar; UnusableAvatar when it does not fit the generic stages, or the consent to it has ended.
        """
        if isinstance(avatar, ReadyAvatar):
            check_usable(avatar.avatar.card)
            return avatar
        key: object
        if isinstance(avatar, Avatar):
            folder, key = avatar.folder, avatar
        else:
            folder = resolve(avatar).resolve()
            card = folder / "avatar.json"
            key = (folder, card.stat().st_mtime_ns if card.exists() else None)
        with self._lock:
            known = next((ready for wanted, ready in self._ready.items() if key == wanted or key is ready.avatar), None)
            if known is None:
                known = self._prepare(avatar if isinstance(avatar, Avatar) else read_avatar(folder))
                self._ready[key] = known
                while len(self._ready) > AVATARS_KEPT:
                    self._ready.popitem(last=False)
        check_usable(known.avatar.card)  # each time: it may have been withdrawn since
        return known

    def _prepare(self, avatar: Avatar) -> ReadyAvatar:
        avatar.head_generator.to(self.device, memory_format=torch.channels_last)
        avatar.emotion_mapping.to(self.device)
        generator = self.expression_generator
        if avatar.speaking_style is not None:
            generator = with_speaking_style(generator, avatar.speaking_style)
        offsets = avatar.emotion_offsets
        if offsets is not None and offsets.expression.shape[1] != generator.config.coefficient_dim:
            raise UnusableAvatar(f"The emotions of {avatar.name!r} are of another face model; train it again.")
        renderer = Renderer(self.face_model, avatar.face, size_of(avatar))
        return ReadyAvatar(avatar, renderer, generator, drawing_engine(avatar.head_generator, self.device))
