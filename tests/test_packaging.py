"""The wheel: what is in it, and that it works where it is installed.

Its dependencies come from the environment that runs the tests; in exhaustive tests, from the
package index, as for a user.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)
# Installing every dependency from the index takes minutes, and counts as the first test's time.
pytestmark = pytest.mark.timeout(1500)

# Run where flan_jax comes from varies: prints the places of the package and of what moved into it.
LOCATE = """
import gin, sys
import flan_jax, flan_jax.mixtures, flan_jax.launch
from flan_jax.config import package_gin_folders
assert hasattr(gin, "configurable"), gin
assert "mixtures" not in sys.modules
print(flan_jax.__file__)
print(flan_jax.mixtures.__file__)
print(*(path for folder in package_gin_folders() for path in folder.rglob("*.gin")), sep="\\n")
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command without this process's Python settings, and returns what it prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["JAX_PLATFORMS"] = "cpu"
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def data_files(folder: str, suffixes: tuple[str, ...]) -> set[str]:
    """The files with these suffixes under a folder of the repository, as the wheel names them."""
    found = (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    return {
        f"flan_jax/{path.relative_to(ROOT)}" for path in found if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive of a copy, so that the checkout stays as it is."""
    copy = tmp_path_factory.mktemp("wheel") / "flan_jax"
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCES, symlinks=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(
    scope="module",
    params=["packages at hand", pytest.param("package index", marks=pytest.mark.exhaustive)],
)
def python(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """The interpreter of a new environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    interpreter = folder / "bin" / "python"
    install = (interpreter, "-m", "pip", "install", "-qq", "--disable-pip-version-check")
    if request.param == "package index":
        version = "{}{}".format(*sys.version_info)
        constraints = ROOT / "requirements" / f"constraints-py{version}.txt"
        pins = ("-c", constraints) if constraints.is_file() else ()
        run(*install, *pins, wheel, cwd=folder.parent)
        return interpreter
    run(*install, "--no-deps", wheel, cwd=folder.parent)
    # A folder named in a .pth file comes after the environment's own packages, and .pth files in
    # it are not read: an editable flan_jax there stays out of sight.
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


@pytest.mark.slow
def test_wheel_holds_all_content_files(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    configurations = data_files("gin", (".gin",))
    templates = data_files("mixtures", (".yaml", ".csv", ".model"))
    modules = data_files("mixtures", (".py",))
    assert configurations
    assert templates
    assert configurations | templates | modules <= names


@pytest.mark.slow
def test_wheel_claims_one_top_level_name(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"flan_jax"}
    assert "flan_jax/gin/__init__.py" not in names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.slow
@pytest.mark.parametrize("at_root", [False, True], ids=["elsewhere", "at the root"])
def test_installed_wheel_finds_its_own_content(python: Path, tmp_path: Path, at_root: bool):
    # -P keeps the current folder off the path, as the console script does.
    output = run(python, "-P", "-c", LOCATE, cwd=ROOT if at_root else tmp_path)
    package, mixtures, *configurations = map(Path, output.split())
    installed = package.parent
    assert installed.is_relative_to(python.parent.parent)
    assert mixtures == installed / "mixtures" / "__init__.py"
    found = {f"flan_jax/{path.relative_to(installed)}" for path in configurations}
    assert found == data_files("gin", (".gin",))


@pytest.mark.slow
def test_checkout_works_from_the_root_beside_an_installed_wheel(python: Path):
    # `python -c` puts the current folder first: here the checkout wins, with its own content.
    output = run(python, "-c", LOCATE, cwd=ROOT)
    package, mixtures, *configurations = map(Path, output.split())
    assert package == ROOT / "flan_jax" / "__init__.py"
    assert mixtures == ROOT / "mixtures" / "__init__.py"
    assert {f"flan_jax/{path.relative_to(ROOT)}" for path in configurations} == data_files(
        "gin", (".gin",)
    )


@pytest.mark.slow
@pytest.mark.parametrize("at_root", [False, True], ids=["elsewhere", "at the root"])
def test_installed_commands_run(python: Path, tmp_path: Path, at_root: bool):
    folder = ROOT if at_root else tmp_path
    help_text = run(python, "-m", "flan_jax", "--help", cwd=folder)
    assert help_text.startswith("usage: flan-jax ")
    assert run(python.parent / "flan-jax", "--help", cwd=folder) == help_text
    assert "micro" in run(python.parent / "flan-jax", "tasks", "list", cwd=folder)


def requirements(*extras: str) -> set[str]:
    """Canonical names of the distributions that setup.py names, with those of the extras."""
    lines = importlib.metadata.requires("flan_jax") or []
    names = set()
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            names.add(re.sub(r"[-_.]+", "-", requirement.name).lower())
    return names


def imported_modules(folder: Path) -> dict[str, Path]:
    """Top-level modules that the files under `folder` import, each with one file that does."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            else:
                continue
            found.update((module.partition(".")[0], path) for module in modules)
    return found


OURS = ("flan_jax", "tests", "benchmarks", "__future__")


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("flan_jax", ("beam", "hf", "torch", "lm-eval")),
        ("mixtures", ()),
        ("launch", ()),
        ("tests", ("test", "test-hf", "lm-eval", "beam")),
    ],
)
def test_every_import_is_a_declared_dependency(folder: str, extras: tuple[str, ...]):
    try:
        declared = requirements(*extras)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("flan_jax is not installed: pip install -e .")
    distributions = importlib.metadata.packages_distributions()
    # Installed with a declared dependency by that dependency's own policy, as one product.
    declared |= {"jaxlib", "tensorflow"}
    undeclared = {}
    for module, path in imported_modules(ROOT / folder).items():
        if module in sys.stdlib_module_names or module in OURS:
            continue
        # What an extra brings need not be installed here; its name is then the module's.
        installed = distributions.get(module, [module])
        owners = {re.sub(r"[-_.]+", "-", name).lower() for name in installed}
        if not owners & declared:
            undeclared[module] = str(path.relative_to(ROOT))
    assert undeclared == {}
