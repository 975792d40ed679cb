"""Structure of the code in numbers: sizes, long functions, import circles and layers, missing docstrings."""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

SOURCES = ("app.py", "gmtalker", "personalize", "studio", "serve")
# Groups from the top to the bottom. A module may import its own group and those below it; the longest matching name counts.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("app",),
    ("studio",),
    ("personalize",),
    ("gmtalker.__main__",),
    ("gmtalker.measure",),
    ("gmtalker.pretrain",),
    ("gmtalker.training",),
    ("gmtalker.command_line",),
    ("gmtalker.batch",),
    ("gmtalker.pipeline",),
    ("gmtalker.performance",),
    ("gmtalker.streaming",),
    ("gmtalker.stages",),
    ("gmtalker.source",),
    ("gmtalker.request",),
    ("gmtalker.output",),
    ("gmtalker.text_to_speech",),
    ("gmtalker.emotion_script", "gmtalker.emotion_of_voice"),
    ("gmtalker.provenance",),
    ("gmtalker.avatars",),
    ("gmtalker.hub",),
    ("gmtalker.face",),
    ("gmtalker.media",),
    ("gmtalker.models",),
    ("gmtalker.tracks",),
    ("gmtalker.emotion_words",),
    ("gmtalker.clock", "gmtalker.errors", "gmtalker.device", "gmtalker.files", "gmtalker.assets", "gmtalker.progress"),
)
NO_LAYER = "gmtalker"  # the public API: gmtalker/__init__.py gathers its names from every layer
LINE_LIMITS, PARAMETER_LIMIT = (40, 60), 8
KINDS = {"function": "functions", "config": "network configs (exempt)", "dataclass": "dataclasses (no function)"}
_parsed = cache(ast.parse)  # by text and name: the same file is read for several rows
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A source file: its path from the root, and its dotted name, that of the folder for an __init__.py."""

    path: str
    name: str
    lines: int
    tree: ast.Module


@dataclass(frozen=True)
class Function:
    """A function or method. lines: without decorators; parameters: without self, cls, *args and **kwargs."""

    path: str
    line: int
    name: str
    lines: int
    parameters: int
    kind: str  # "function", "config" (an __init__ under @register_to_config) or "dataclass" (its fields, as parameters)


@dataclass(frozen=True)
class Finding:
    """A place that a row of the table counts. Of an import, name is the module it stands in and value the one imported."""

    path: str
    line: int
    name: str
    value: str


def modules(root: str | Path) -> list[Module]:
    """Every source file under root that counts, sorted by path."""
    found, root = [], Path(root)
    for path in sorted(path for source in SOURCES for path in [root / source, *(root / source).rglob("*.py")] if path.is_file()):
        text, inside = path.read_text(encoding="utf-8"), path.relative_to(root)
        name = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        found.append(Module(inside.as_posix(), name, text.count("\n"), _parsed(text, str(path))))
    return found


def functions(root: str | Path) -> list[Function]:
    """Every function and method, nested ones and the __init__ of dataclasses too; lambdas do not count."""
    return [function for module in modules(root) for function in _functions_in(module.tree, module.path)]


def _functions_in(node: ast.AST, path: str, prefix: str = "", in_class: bool = False) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Definition):
            yield from _functions_in(child, path, prefix, in_class)
            continue
        name, is_class = prefix + child.name, isinstance(child, ast.ClassDef)
        decorators = {ast.unparse(item).split("(")[0].split(".")[-1] for item in child.decorator_list}
        if is_class and "dataclass" in decorators:
            fields = sum(isinstance(item, ast.AnnAssign) for item in child.body)
            yield Function(path, child.lineno, name, 0, fields, "dataclass")
        elif not is_class:
            taken = len(child.args.posonlyargs + child.args.args + child.args.kwonlyargs)
            taken -= in_class and "staticmethod" not in decorators
            kind = "config" if child.name == "__init__" and "register_to_config" in decorators else "function"
            yield Function(path, child.lineno, name, child.end_lineno - child.lineno + 1, taken, kind)
        yield from _functions_in(child, path, f"{name}.", is_class)


def imports(root: str | Path, for_types: bool = True) -> list[Finding]:
    """Imports of one module here by another, anywhere in a file, parent packages left out; for_types: under TYPE_CHECKING too."""
    names, found = {module.name for module in modules(root)}, []
    for module in modules(root):
        nodes = list(ast.walk(module.tree))
        guards = [node for node in nodes if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
        guarded = {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom) and (for_types or node not in guarded):
                imported = sorted(_modules_named(node, module, names) - {module.name})
                found += [Finding(module.path, node.lineno, module.name, name) for name in imported]
    return found


def _modules_named(node: ast.Import | ast.ImportFrom, module: Module, names: set[str]) -> set[str]:
    """Modules here that a statement names; `from package import name` means the module of that name where there is one."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & names
    package = module.name if module.path.endswith("__init__.py") else module.name.rpartition(".")[0]
    source = resolve_name("." * node.level + (node.module or ""), package)
    inner = {f"{source}.{alias.name}" for alias in node.names}
    return (inner if inner <= names else inner | {source}) & names


def circles(root: str | Path) -> list[tuple[str, ...]]:
    """Modules that import each other in a circle, sorted, a tuple for each circle. Imports for types only do not count."""
    reached: dict[str, set[str]] = {module.name: set() for module in modules(root)}
    for item in imports(root, for_types=False):
        reached[item.name].add(item.value)
    for middle, beyond in reached.items():  # Warshall's transitive closure
        for found in reached.values():
            found |= beyond if middle in found else set()
    return sorted({tuple(sorted(o for o in found if name in reached[o])) for name, found in reached.items() if name in found})


def layer(name: str) -> int | None:
    """Place of a module in LAYERS, 0 at the top; None when it has none."""
    places = {prefix: place for place, group in enumerate(LAYERS) for prefix in group if f"{name}.".startswith(f"{prefix}.")}
    return places[max(places, key=len)] if places else None


def without_layer(root: str | Path) -> list[Module]:
    """Modules that have no place in LAYERS."""
    return [module for module in modules(root) if module.name != NO_LAYER and layer(module.name) is None]


def upward(root: str | Path) -> list[Finding]:
    """Imports from a higher layer, those for types too; modules without a layer are left out."""
    arrows = ((item, layer(item.name), layer(item.value)) for item in imports(root))
    return [item for item, own, other in arrows if own is not None and other is not None and other < own]


def undocumented(root: str | Path) -> list[Finding]:
    """Public classes, functions and methods without a docstring: no leading underscore, not nested in a function."""
    return [finding for module in modules(root) for finding in _bare(module.tree.body, module.path)]


def _bare(body: list[ast.stmt], path: str, prefix: str = "") -> Iterator[Finding]:
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield Finding(path, node.lineno, prefix + node.name, type(node).__name__)
            if isinstance(node, ast.ClassDef):
                yield from _bare(node.body, path, f"{prefix}{node.name}.")


def table(root: str | Path) -> dict[str, int | str | list[Finding]]:
    """Rows: a title, and a value or the places it counts."""
    files, written, arrows, rings, homeless = modules(root), functions(root), imports(root), circles(root), without_layer(root)
    long = [Finding(item.path, item.line, item.name, str(item.lines)) for item in written]
    wide = [(f.kind, Finding(f.path, f.line, f.name, str(f.parameters))) for f in written if f.parameters > PARAMETER_LIMIT]
    return {
        "files": len(files),
        "lines": sum(module.lines for module in files),
        "largest file": "{1} ({0})".format(*max((module.lines, module.path) for module in files)),
        "functions": sum(item.kind != "dataclass" for item in written),
        **{f"functions > {limit} lines": [item for item in long if int(item.value) > limit] for limit in LINE_LIMITS},
        **{f"{title} > {PARAMETER_LIMIT} parameters": [f for own, f in wide if own == kind] for kind, title in KINDS.items()},
        "circular imports": len(rings),
        "modules in circles": sum(map(len, rings)),
        "imports within circles": [f for f in imports(root, False) if any({f.name, f.value} <= {*ring} for ring in rings)],
        "imports that run up": "n/a" if homeless else upward(root),
        "files without a layer": [Finding(m.path, 1, m.name, "no layer") for m in homeless],
        "imports gmtalker -> personalize": [f for f in arrows if [f.name[:8], f.value[:11]] == ["gmtalker", "personalize"]],
        "public names without docstring": undocumented(root),
        "modules without docstring": [Finding(m.path, 1, m.name, "no docstring") for m in files if not ast.get_docstring(m.tree)],
    }


def main() -> None:
    """Print the table; the tests hold the limits, so the exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent, help="a checkout")
    parser.add_argument("--json", type=Path, help="write values and places to this file")
    parser.add_argument("--list", action="store_true", help="name each place: path:line name value")
    chosen = parser.parse_args()
    rows = table(chosen.root)
    values = {key: len(row) if isinstance(row, list) else row for key, row in rows.items()}
    places = {key: [f"{f.path}:{f.line} {f.name} {f.value}" for f in row] for key, row in rows.items() if isinstance(row, list)}
    print("| structure | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in values.items()), sep="\n")
    for key, lines in places.items() if chosen.list else ():
        print(f"\n{key}:", *lines, sep="\n")
    if chosen.json:
        chosen.json.write_text(json.dumps({"values": values, "places": places}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
