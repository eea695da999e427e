"""The plan of the house holds: import arrows, the size of a room, and every command's --help."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections import Counter
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fcas_nnunet
from fcas_nnunet.integration.environment.checks import OLDEST_PYTHON
from fcas_nnunet.integration.environment.trainer_lookup import all_shim_folders

PACKAGE = Path(fcas_nnunet.__file__).parent
REPOSITORY = PACKAGE.parent
#: Arrows run up these lists only: a room leans on the rooms before it that are named beside it, and on itself.
ROOMS = {
    "": (),  # the ground: the modules at the package's top
    "labels": ("",),
    "config": ("", "labels"),
    "datasets": ("", "labels", "config"),
    "integration": ("", "labels", "config"),
    "evaluation": ("", "labels", "config"),
    "generator": ("", "labels", "config"),
    "commands": ("", "labels", "config", "datasets", "integration", "evaluation", "generator"),
}
#: The folders of a room, in the order in which they lean on each other; "" are the modules at the room's top.
FOLDERS = {
    "datasets": ("phantom", ""),
    "integration": ("dataset", "environment", "preprocessing", "provenance", "models", "cal", "nnunet_ext"),
    "evaluation": ("", "statistics", "viewing", "segmentation", "images", "confidence", "report", "reading"),
    "generator": ("mgm", "confidence", "data", "sources", "optimisation", "autoencoder", "tcdm", ""),
    "commands": (
        "cli", "runtime", "", "convert", "merge", "masks", "confidence", "generate", "evaluate", "report", "reading",
        "demo",
    ),
}  # fmt: skip
MOST_MODULES = 15
#: Lines: of a module, of a file of tests or a script, and of a function.
LARGEST_MODULE, LARGEST_OTHER, LONGEST_FUNCTION = 400, 400, 60
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Extras that users choose; what is imported of them waits until it is asked for.
EXTRAS = ("lpips", "hf", "tensorboard")
#: Declared and imported by others on our behalf.
THROUGH_OTHERS = {"tensorboard": "torch.utils.tensorboard"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at any depth; relative imports made absolute."""
    names: set[str] = set()
    package = (PACKAGE.name, *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*base, node.module or "")).strip(".")
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def home_of(dotted: str) -> tuple[str, str] | None:
    """(room, folder) of the module that a dotted name of this package belongs to; None for names from elsewhere."""
    parts = dotted.split(".")
    if parts[0] != PACKAGE.name:
        return None
    folders = []
    for part in parts[1:]:
        if not (PACKAGE.joinpath(*folders, part)).is_dir():
            break
        folders.append(part)
    return (folders[0] if folders else "", folders[1] if len(folders) > 1 else "")


def relative_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_the_rooms_are_those_of_the_plan() -> None:
    folders = {path.parent.relative_to(PACKAGE).parts for path in modules()}
    rooms = {parts[0] if parts else "" for parts in folders}
    assert rooms == set(ROOMS)
    below = {room: {parts[1] for parts in folders if len(parts) > 1 and parts[0] == room} for room in ROOMS}
    assert {room: names for room, names in below.items() if names} == {
        room: {name for name in names if (PACKAGE / room / name).is_dir() and name} for room, names in FOLDERS.items()
    }


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for path in modules():
        parts = path.parent.relative_to(PACKAGE).parts
        room, folder = (*parts, "", "")[:2]
        for name in imported_names(path):
            home = home_of(name)
            if home is None or home == (room, folder):
                continue
            order = FOLDERS.get(room, ("",))
            if not (home[0] in ROOMS[room] or (home[0] == room and order.index(home[1]) < order.index(folder))):
                wrong.append(f"{relative_id(path)} -> {name}")
    assert sorted(wrong) == []


def test_no_import_comes_back_to_where_it_began() -> None:
    names = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in modules()}
    graph = {name: {found for dotted in imported_names(path) for found in (dotted, dotted.rpartition(".")[0])
                    if found in names and found != name} for name, path in names.items()}  # fmt: skip
    list(TopologicalSorter(graph).static_order())  # a CycleError names the modules


def test_a_folder_can_be_overlooked() -> None:
    counts = Counter(str(path.parent.relative_to(REPOSITORY)) for path in modules() if path.stem != "__init__")
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_only_the_integration_touches_nnunet() -> None:
    users = [relative_id(path) for room in ROOMS.keys() - {"", "integration", "commands"}
             for path in (PACKAGE / room).rglob("*.py") for name in imported_names(path)
             if name.split(".")[0] == "nnunetv2"]  # fmt: skip
    assert users == []


def test_the_ground_does_not_touch_nnunet_or_torch() -> None:
    """Every command imports it, `--help` too: it has to be light."""
    heavy = {name: relative_id(path) for path in PACKAGE.glob("*.py") for name in imported_names(path)
             if name.split(".")[0] in {"nnunetv2", "torch", "monai"}}  # fmt: skip
    assert not heavy


@pytest.mark.parametrize("folder", all_shim_folders(), ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_nnunets_leaf_folders_hold_one_shim(folder: Path) -> None:
    """nnU-Net imports every module it finds there, and drops it again: a second one would be lost (facts of 2.8.1)."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    shims = [path for path in files if path.name != "__init__.py"]
    assert len(shims) == 1
    nodes = list(ast.walk(ast.parse(shims[0].read_text(encoding="utf-8"))))
    definitions = [node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Lambda)]
    assert not definitions, "the shim must hold imports only: classes defined there cannot be pickled"
    relative = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
    assert not relative, "relative imports fail in an external trainer folder"
    assert {name.split(".")[0] for name in imported_names(shims[0])} == {PACKAGE.name}


def test_what_users_can_mend_is_raised_as_their_fault() -> None:
    """A plain ValueError or FileNotFoundError would be taken for a fault of ours, with a traceback."""
    plain = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            raised = node.exc.func if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
            if isinstance(raised, ast.Name) and raised.id in ("ValueError", "FileNotFoundError"):
                plain.append(f"{relative_id(path)}:{raised.lineno}")
    assert plain == [], "raise faults.InputError or MissingFileError"


def test_a_file_holds_one_idea() -> None:
    most = {PACKAGE: LARGEST_MODULE, REPOSITORY / "tests": LARGEST_OTHER, REPOSITORY / "scripts": LARGEST_OTHER}
    too_long = [str(path.relative_to(REPOSITORY)) for folder, lines in most.items() for path in folder.rglob("*.py")
                if len(path.read_text(encoding="utf-8").splitlines()) > lines]  # fmt: skip
    assert too_long == [], "give each idea its own file"


def test_a_function_fits_a_page() -> None:
    too_long = []
    for path in modules():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        too_long += [f"{relative_id(path)}: {node.name}" for node in functions
                     if (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION]  # fmt: skip
    assert too_long == []


def console_scripts() -> list[tuple[str, str, str]]:
    """(command, module, function) for every line under [project.scripts]."""
    scripts: dict[str, str] = PROJECT["scripts"]
    return [(command, *target.split(":")) for command, target in scripts.items()]  # type: ignore[misc]


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    lines = PROJECT["dependencies"] + [line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    names = {name.split(".")[0] for path in modules() for name in imported_names(path)}
    foreign = names - set(sys.stdlib_module_names) - {PACKAGE.name}
    distributions = packages_distributions()
    imported = {name: {canonicalize_name(found) for found in distributions.get(name, [name])} for name in foreign}
    assert {name: found for name, found in imported.items() if not found & declared} == {}
    unused = declared - {distribution for found in imported.values() for distribution in found}
    assert {name for name in unused if name not in THROUGH_OTHERS} == set()


@pytest.mark.parametrize("name", ["nnunetv2", "monai", "diffusers", "accelerate"])
def test_packages_whose_insides_are_used_are_capped(name: str) -> None:
    """Trainers override nnU-Net's methods, networks MONAI's private ones, schedules diffusers' and accelerate's."""
    (requirement,) = (found for line in PROJECT["dependencies"] if (found := Requirement(line)).name == name)
    assert {"<", ">="} <= {specifier.operator for specifier in requirement.specifier}
    assert requirement.specifier.contains(version(name))


def test_the_oldest_python_is_one_number() -> None:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    assert PROJECT["requires-python"] == f">={oldest}"
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert settings["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert settings["mypy"]["python_version"] == oldest
    assert f"Python >= {oldest}" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")


def test_help_waits_for_no_heavy_import() -> None:
    """Importing a command and building its parser is all that `--help` does."""
    modules = sorted({module for _, module, _ in console_scripts()})
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n    importlib.import_module(name).build_parser()\n"
        "print(sorted({'torch', 'monai', 'nnunetv2', 'accelerate', 'diffusers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_command_has_a_console_script() -> None:
    """Commands are the modules beside `cli`, and the `command` of every folder that is no part of another command."""
    named = {module for _, module, _ in console_scripts()}
    folder = PACKAGE / "commands"
    files = [*(path for path in folder.glob("*.py") if path.stem != "cli"), *folder.glob("*/command.py")]
    parsers = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files
               if "\ndef main(" in path.read_text(encoding="utf-8")}  # fmt: skip
    assert parsers == named


@pytest.mark.parametrize(("name", "module", "function"), console_scripts(), ids=lambda value: str(value))
def test_every_console_script_answers_help_with_an_example(
    name: str, module: str, function: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module(module)
    with pytest.raises(SystemExit, match="^0$"):
        getattr(command, function)(["--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {name} ")
    assert "example:" in text
    assert name in text.split("example:", 1)[1], "the example must call the command"
