"""The layers of the house: a module imports only from layers below its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dcexp"

LAYERS = [
    {"typecheck", "holder", "artifacts", "scale", "claim", "tracker", "provenance", "embedded", "model", "mistakes"}
    | {"web", "published", "assets", "fp32", "signals", "pixels", "hub"},
    {"engines"},
    {"stage"},
    {"store"},
    {"sources", "filters", "reshard", "training", "tasks"},
    {"part", "checks"},
    {"evaluation", "scoring"},
    {"pipeline"},
    {"leaderboard", "verification", "download", "clustering"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
# what the others of the lowest layer build on, in this order
MAY_SHARE = {"typecheck": 0, "holder": 0, "web": 0, "published": 0, "artifacts": 1}
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imports(path: Path) -> set[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            whole = node.module == "dcexp"
            found += [f"dcexp.{alias.name}" for alias in node.names] if whole else [node.module or ""]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return {name for name in found if name.startswith("dcexp.")}


def test_every_module_has_a_layer():
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in MODULES} - {"__init__"}
    assert rooms <= set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for other in {room(name) for name in imports(path)} - {own, "__init__"}:
        shared = other in MAY_SHARE and MAY_SHARE[other] < MAY_SHARE.get(own, 9)
        assert level(other) < level(own) or (level(own) == 0 and shared), f"{own} imports {other}"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=str)
def test_init_files_are_empty(path):
    assert path.read_text() == ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 200


def test_only_the_cli_knows_hydra():
    knowing = {p.relative_to(PACKAGE).as_posix() for p in MODULES if "hydra" in names(p) or "omegaconf" in names(p)}
    assert knowing == {"cli.py"}


def names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    return found | {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
