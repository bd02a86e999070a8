"""The files of the engine import each other one way, imports for type checkers included."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

MODULES = Path(__file__).parent.parent / "DEQModel" / "modules"


def imported(path):
    """Names of the engine's files that this one imports anywhere."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    sources = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {source.removeprefix("modules.") for source in sources if source.startswith("modules.")}


def test_imports_have_no_circles():
    graph = {path.stem: imported(path) for path in MODULES.glob("*.py")}
    order = [*TopologicalSorter(graph).static_order()]  # raises where there is a circle
    assert order.index("report") < order.index("tracker") < order.index("solver") < order.index("broyden")
    assert order.index("solvers") < order.index("deq")
