"""The house stays as it is drawn: layers, no circles, short functions, documented names; who may import what."""

import ast
from pathlib import Path

import pytest

from tools import structure

ROOT = Path(__file__).resolve().parent.parent
PAGE = ("app", "studio")
TRAINING = ("gmtalker.training", "gmtalker.pretrain")
READERS = {"pathlib", "os", "json", "av", "cv2", "PIL", "safetensors", "safetensors.torch"}


def named(findings: list) -> list[str]:
    return [f"{finding.path}:{finding.line} {finding.name} {finding.value}" for finding in findings]


def imported(module: structure.Module) -> set[str]:
    """Every package and module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def users_of(package: str) -> list[str]:
    found = [
        module.name
        for module in structure.modules(ROOT)
        if any(name == package or name.startswith(f"{package}.") for name in imported(module))
    ]
    assert found, f"nobody imports {package}: is it spelled right?"
    return found


def test_every_module_has_a_layer():
    assert [module.name for module in structure.without_layer(ROOT)] == []
    folders = {path.parent.relative_to(ROOT).parts[:2] for path in ROOT.glob("gmtalker/*/*.py")}
    layers = {name for group in structure.LAYERS for name in group}
    assert {".".join(folder) for folder in folders} <= layers, "a folder without a layer of its own"


def test_imports_run_one_way():
    assert named(structure.upward(ROOT)) == []


def test_there_are_no_circles_not_even_within_a_folder():
    assert structure.circles(ROOT) == []


def test_an_upward_import_and_a_circle_would_be_found(tmp_path):
    (tmp_path / "gmtalker" / "face").mkdir(parents=True)
    (tmp_path / "gmtalker" / "face" / "one.py").write_text("from gmtalker.face import two\nimport gmtalker.pipeline\n")
    (tmp_path / "gmtalker" / "face" / "two.py").write_text("def late():\n    from gmtalker.face.one import name\n")
    (tmp_path / "gmtalker" / "pipeline.py").write_text("")
    assert structure.circles(tmp_path) == [("gmtalker.face.one", "gmtalker.face.two")]
    assert [finding.value for finding in structure.upward(tmp_path)] == ["gmtalker.pipeline"]


def test_no_import_is_relative():
    nodes = [(module.name, node) for module in structure.modules(ROOT) for node in ast.walk(module.tree)]
    assert [name for name, node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


@pytest.mark.parametrize(("limit", "most"), [(60, 0), (40, 2)])
def test_functions_are_short(limit, most):
    long = [item for item in structure.functions(ROOT) if item.lines > limit]
    assert len(long) <= most, [f"{item.path}:{item.line} {item.name} {item.lines}" for item in long]


def test_no_function_takes_more_than_eight_parameters():
    """But the constructors of networks, whose configurations they are."""
    wide = [f for f in structure.functions(ROOT) if f.kind == "function" and f.parameters > structure.PARAMETER_LIMIT]
    assert [f"{item.path}:{item.line} {item.name} {item.parameters}" for item in wide] == []


def test_every_public_name_says_what_it_is():
    assert named(structure.undocumented(ROOT)) == []
    assert [module.name for module in structure.modules(ROOT) if not ast.get_docstring(module.tree)] == []


def test_gradio_is_imported_by_the_page_alone():
    assert [name for name in users_of("gradio") if name.split(".")[0] not in PAGE] == []


def test_accelerate_is_imported_by_training_alone():
    assert [name for name in users_of("accelerate") if not name.startswith(TRAINING)] == []


def test_models_read_no_files_but_their_own_weights():
    networks = [module for module in structure.modules(ROOT) if module.name.startswith("gmtalker.models.")]
    readers = [module.name for module in networks if imported(module) & READERS]
    assert readers == ["gmtalker.models.weights"]


def test_no_file_names_motion_columns_by_number():
    """tracks.py names them: POSE, BLINK, GAZE."""
    raw = []
    for module in structure.modules(ROOT):
        for node in ast.walk(module.tree) if module.name != "gmtalker.tracks" else ():
            if isinstance(node, ast.Slice) and ast.unparse(node) in ("6:8", "8:10", ":6"):
                raw.append(f"{module.path}:{node.lineno}")
    assert raw == []
