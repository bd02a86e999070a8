"""The house: what each folder may import, no circles, no global settings."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from system.version import VERSION

CODE = Path(__file__).parent.parent / "DEQModel"
MAY_IMPORT = {  # a folder and what it is built upon, beside itself
    "system": set(),
    "modules": set(),
    "utils": {"modules"},
    "models": {"system", "modules", "utils"},
    "data": {"system"},
    "config": {"system", "modules", "utils", "models", "data"},
    "runs": {"system", "config", "data"},
    "evaluation": {"system", "modules", "data", "models", "config", "runs"},
    "training": {"system", "modules", "utils", "data", "models", "config", "runs", "evaluation", "generation"},
    "generation": {"system", "modules", "data", "models", "config", "evaluation"},
    "synthetic": {"system", "modules", "utils", "models", "config", "training"},
    "sharing": {"system", "data", "models", "config", "runs", "evaluation"},
    "": {
        "system",
        "config",
        "models",
        "runs",
        "training",
        "evaluation",
        "generation",
        "sharing",
        "synthetic",
    },  # scripts
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(CODE).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in CODE.rglob("*.py") if "__pycache__" not in path.parts}


def folder_of(module: str) -> str:
    folder, dot, _ = module.partition(".")
    return folder if dot or folder in MAY_IMPORT else ""


def imports(path: Path) -> set[str]:
    """The project's files that a file imports, wherever in it, under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = f"modules.{node.module}" if node.level else node.module
            # the engine's folder is a package of its own too, under another name
            within = path.parent.name == folder_of(module) == "modules"
            assert node.level == within, f"{path}: imports are absolute, but those within the engine"
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= (names & FILES.keys()) or {module}
    return found & FILES.keys()


def test_every_folder_imports_what_it_is_built_upon():
    assert {folder_of(module) for module in FILES} == MAY_IMPORT.keys()
    for module, path in FILES.items():
        allowed = MAY_IMPORT[folder_of(module)] | {folder_of(module)}
        for other in imports(path):
            assert folder_of(other) in allowed, f"{path.relative_to(CODE)} imports {other}"
            assert folder_of(other), f"{path.relative_to(CODE)} imports a script"


def test_modules_and_models_speak_of_values_not_of_flags():
    """Their mistakes are ValueErrors, which the command line puts into its own words."""
    for module, path in FILES.items():
        if folder_of(module) in ("modules", "utils", "models"):
            assert "system.errors" not in imports(path), path
            assert "UserError" not in path.read_text(encoding="utf-8"), path


def test_no_circles():
    graph = {module: imports(path) - {module} for module, path in FILES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the files of a circle


def test_no_file_changes_global_settings():
    forbidden = {"set_default_dtype", "set_default_device", "set_default_tensor_type"}
    for path in CODE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not attributes & forbidden, path
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"sys.path.append", "sys.path.insert", "sys.path.extend"}, path


def test_the_version_is_that_of_the_package():
    assert re.search(r'^version = "(.*)"', (CODE.parent / "pyproject.toml").read_text(), re.MULTILINE)[1] == VERSION


def test_imports_are_sorted_with_all_that_is_the_projects_own():
    text = (CODE.parent / "pyproject.toml").read_text()
    listed = re.findall(r'"(\w+)"', re.search(r"known-first-party = \[(.*?)\]", text, re.DOTALL)[1])
    own = [path.stem for path in CODE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert sorted(listed) == sorted(own)
