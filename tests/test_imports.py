"""Imports run downwards only, from the commands to what they are built on."""

import ast

from conftest import ROOT

FLOORS = [  # a module imports from its own floor and from those above it in this list
    {"command"},
    {"tf1", "sources"},
    {"models", "losses", "two_model", "data"},
    {"training"},
    {"dcgan_keras", "generate"},
    {"reproduce"},
]


def room(name):
    return name.split(".")[0]


def test_imports_run_downwards_only():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    paths = [*ROOT.glob("*.py"), *(path for name in floor for path in (ROOT / name).glob("*.py"))]
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in paths} == floor.keys()
    for path in paths:
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in map(room, imported):
                same = name == own or floor.get(name) == floor[own] != floor["tf1"]
                assert name not in floor or floor[name] < floor[own] or same, f"{path.name} imports {name}"
