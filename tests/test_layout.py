"""The shape of the program: one-directional imports, what it never does, what is packed and installed."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sensevoice"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# each module may import those of the lines above its own, and those before it in its line
ORDER = (
    *("errors", "options", "typography", "tags", "strings", "spans", "runtime"),
    *("background", "batching", "audio"),
    *("features", "vad_network", "vad_scoring", "vad_decision", "vad"),
    *("sample_buffer", "vad_stream", "utterances"),
    *("scores", "network", "precision", "packing"),
    *("kernels", "triton_kernels", "packed", "processor", "graphs", "runners"),
    *("hub", "checkpoint", "engine", "scheduler"),
    *("ctc", "transcript", "records"),
    *("timeline", "subtitles", "exporters"),
    *("pipeline", "streaming"),
    *("jobs", "job_worker", "webhooks"),
    *(
        "finetune",
        "finetune.masking",
        "finetune.losses",
        "finetune.dataset",
        "finetune.batches",
        "finetune.scoring",
    ),
    "settings",
)
APPS = ("ui", "api", "cli")
ENTRY_POINTS = ("apps.", "__main__")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, ast.Module]:
    """All modules of the package, parsed, by their names below `sensevoice`."""
    trees = {module_name(path): ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    assert {"pipeline", "apps.ui", "apps.api"} <= trees.keys()
    return trees


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of what a module imports anywhere in it: `a` and `a.b` for `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here, so that they can be followed"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    """The modules of this package that one of them imports."""
    names = {full.removeprefix("sensevoice.") for full in imported(modules()[name])}
    return names & modules().keys()


def is_entry_point(name: str) -> bool:
    return name.startswith(ENTRY_POINTS)


def python_files() -> list[Path]:
    return [ROOT / "app_sensevoice.py", *PACKAGE.rglob("*.py"), *(ROOT / "training").rglob("*.py")]


def test_every_module_has_its_place_in_the_order() -> None:
    stages = {name for name in modules() if not is_entry_point(name)} - {"__init__", "apps"}
    assert stages == set(ORDER), "a new stage: say in ORDER and in README.md what it comes after"


@pytest.mark.parametrize("name", ORDER)
def test_a_stage_imports_only_earlier_stages(name: str) -> None:
    earlier = ORDER[: ORDER.index(name)]
    assert own_imports(name) <= set(earlier)


def test_the_apps_never_import_one_another() -> None:
    apps = {f"apps.{name}" for name in APPS}
    for app in apps & modules().keys():
        assert own_imports(app) & apps <= {app}


def everything_imported(name: str) -> set[str]:
    """The modules of this package that one of them imports, and that those import, and so on."""
    found: set[str] = set()
    waiting = own_imports(name)
    while waiting:
        found |= waiting
        waiting = set().union(*map(own_imports, waiting)) - found
    return found


def test_no_module_imports_itself_in_a_circle() -> None:
    assert [name for name in modules() if name in everything_imported(name)] == []


def test_only_entry_points_read_the_settings() -> None:
    readers = {name for name in modules() if "settings" in own_imports(name)}
    assert readers
    assert {name for name in readers if not is_entry_point(name)} == set()


def test_funasr_is_never_imported_at_run_time() -> None:
    for name, tree in modules().items():
        roots = {full.split(".")[0] for full in imported(tree)}
        assert not roots & {"funasr", "torchaudio"}, name


def test_importing_everything_loads_neither_funasr_nor_a_model_hub() -> None:
    names = [f"sensevoice.{name}" for name in modules() if not name.endswith(("__init__", "__main__"))]
    lines = ["import sys, warnings", "warnings.simplefilter('ignore')"]
    lines += [f"import {name}" for name in names if not name.startswith("sensevoice.apps")]
    lines += ["print({'funasr', 'torchaudio', 'modelscope', 'gradio'} & sys.modules.keys())"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_no_remote_code_is_ever_trusted() -> None:
    assert [str(path) for path in python_files() if "trust_remote_code" in path.read_text("utf-8")] == []


def test_weights_are_loaded_without_running_code() -> None:
    loads = [
        (path.name, node)
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert "checkpoint.py" in {name for name, _ in loads}
    for name, call in loads:
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert keywords.get("weights_only") == "True", f"{name}:{call.lineno}"


def test_nothing_but_torch_load_unpickles() -> None:
    unpicklers = {"pickle.load", "pickle.loads", "pickle.Unpickler", "dill", "joblib", "shelve"}
    for path in python_files():
        source = path.read_text("utf-8")
        assert not unpicklers & set(imported(ast.parse(source))), path
        assert "pickle.load" not in source, path


# What is packed -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def data_files() -> list[Path]:
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path for path in files if path.suffix != ".py"]


def test_every_data_file_is_packed_into_the_wheel(project: dict[str, Any]) -> None:
    patterns = project["tool"]["setuptools"]["package-data"]
    for path in data_files():
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns[package]), path


def test_every_package_is_packed_into_the_wheel(project: dict[str, Any]) -> None:
    folders = {path.parent for path in [*PACKAGE.rglob("*.py"), *data_files()]}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == packages


def test_the_starter_checkpoint_has_its_files() -> None:
    for folder in (PACKAGE / "starter", PACKAGE / "starter" / "vad"):
        names = {path.name for path in folder.iterdir()}
        assert {"model.pt", "am.mvn", "config.yaml", "configuration.json"} <= names


# What is installed --------------------------------------------------------------------------------


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith(("#", "-r"))]


def pins(name: str, python: str) -> dict[str, str]:
    """What a file asks for on one Python: name -> version."""
    chosen = [r for r in requirements(name) if not r.marker or r.marker.evaluate({"python_version": python})]
    assert len({r.name for r in chosen}) == len(chosen), "a package is asked for twice"
    assert all(re.fullmatch(r"==[\w.]+", str(r.specifier)) for r in chosen), "every version is pinned"
    return {r.name: str(r.specifier).removeprefix("==") for r in chosen}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["requirements.txt", "requirements-cuda.txt", "requirements-dev.txt"])
def test_every_python_gets_one_version_of_every_package(name: str, python: str) -> None:
    assert pins(name, python).keys() == {r.name for r in requirements(name)}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_cuda_list_differs_only_in_a_matching_pair_of_torch_and_torchaudio(python: str) -> None:
    plain, cuda = pins("requirements.txt", python), pins("requirements-cuda.txt", python)
    assert plain.pop("torch") == "2.13.0"
    assert cuda.pop("torch") == cuda.pop("torchaudio") == "2.11.0"
    assert plain == cuda


def test_the_wheel_can_read_the_requirements(project: dict[str, Any]) -> None:
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    assert "-r" not in (ROOT / "requirements.txt").read_text("utf-8").split()  # setuptools cannot follow it


WITH_CUDA_TORCH = {"triton"}  # is installed with PyTorch's CUDA builds, and done without elsewhere


def missing_from(names: set[str], modules_imported: Iterable[str]) -> set[str]:
    """The distributions, by canonical name, that modules come from and that are neither named nor our own."""
    distributions = {"yaml": "PyYAML", "webvtt": "webvtt-py"}
    own = {
        "sensevoice",
        "app_sensevoice",
        "training",
        "benchmarks",
        *(path.stem for path in (ROOT / "tests").glob("*.py")),
    }
    roots = {full.split(".")[0] for full in modules_imported} - own - sys.stdlib_module_names
    needed = {canonicalize_name(distributions.get(root, root)) for root in roots}
    return needed - {canonicalize_name(name) for name in names}


def test_everything_imported_at_run_time_is_required() -> None:
    names = {full for tree in modules().values() for full in imported(tree)}
    assert missing_from(set(pins("requirements.txt", "3.12")), names) <= WITH_CUDA_TORCH


def test_everything_that_every_test_imports_is_required_for_development() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "tests").glob("*.py")]
    # what a test imports within itself, it may do without
    always = [node for tree in trees for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = set(imported(ast.Module(list(always), [])))
    required = pins("requirements.txt", "3.12").keys() | pins("requirements-dev.txt", "3.12").keys()
    assert missing_from(required, names) == set()


@pytest.mark.parametrize("script", ["scripts/app", "scripts/test", "scripts/venv", ".ci/run"])
def test_a_script_is_executable_and_sound(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0


def test_the_image_copies_only_files_that_exist_and_are_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignore[0] == "*"
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        name
        for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    for name in copied:
        matches = {path.name for path in ROOT.glob(name)}
        assert matches, name
        assert matches & allowed, name
