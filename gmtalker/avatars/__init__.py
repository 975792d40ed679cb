"""Avatars: folders of data, where they are kept, made ready to speak."""
