"""Imports run one way; the page alone knows gradio, training alone knows accelerate."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("studio", "gmtalker", "personalize")
SOURCES = sorted([*ROOT.glob("app.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])
# A module may import its own layer and those under it. The longest matching name counts.
LAYERS = {
    "gmtalker.errors": 0,
    "gmtalker.device": 0,
    "gmtalker.tracks": 0,
    "gmtalker.models": 1,
    "gmtalker.audio": 2,
    "gmtalker.video": 2,
    "gmtalker.face_model": 2,
    "gmtalker.renderer": 2,
    "gmtalker.lip_guard": 2,
    "gmtalker.full_frame": 3,
    "gmtalker.composing": 2,
    "gmtalker.emotion_script": 2,
    "gmtalker.speaking_style": 2,
    "gmtalker.avatar": 3,
    "gmtalker.hub": 3,
    "gmtalker.watermark": 2,
    "gmtalker.provenance": 3,
    "gmtalker.pipeline": 4,
    "gmtalker.benchmark": 4,
    "gmtalker.mark_benchmark": 4,
    "personalize": 5,
    "app": 6,
    "studio": 6,
    "gmtalker.__main__": 6,
    "personalize.__main__": 6,
}
PAGE = ("app", "studio")
TRAINING = ("training", "fitting")  # how the names of the modules that train end


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file; names taken from a package count as its modules where they are."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found.add(node.module)
            if (ROOT / Path(*node.module.split("."))).is_dir():
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int | None:
    names = [name for name in LAYERS if module == name or module.startswith(name + ".")]
    return LAYERS[max(names, key=len)] if names else None


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_only_its_layer_and_those_under_it(path):
    module = module_name(path)
    if module in ("gmtalker", "personalize"):
        pytest.skip("a package by itself has no layer")
    own = layer(module)
    assert own is not None, f"{module} has no layer yet: name one in LAYERS"
    for name in imported(path):
        if (other := layer(name)) is not None:
            assert other <= own, f"{module} must not import {name}"


def test_gradio_is_imported_by_the_page_alone():
    assert [module_name(path) for path in SOURCES if uses(path, "gradio") and module_name(path).split(".")[0] not in PAGE] == []


def test_accelerate_is_imported_by_training_alone():
    users = [module_name(path) for path in SOURCES if uses(path, "accelerate")]
    assert [name for name in users if not name.startswith("personalize.") or not name.endswith(TRAINING)] == []


def test_models_read_no_files_but_their_own_loading():
    readers = {"pathlib", "os", "json", "av", "cv2", "PIL", "safetensors", "safetensors.torch"}
    for path in SOURCES:
        if path.parent.name == "models" and path.stem not in ("loading", "__init__"):
            assert not imported(path) & readers, f"{module_name(path)} maps tensors to tensors"


def uses(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in imported(path))
