"""The package installed, as a wheel and from a clone: real builds, in environments of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from vidur.extras import install_command

BUILDER = int(metadata.version("setuptools").partition(".")[0])
needs_builder = pytest.mark.skipif(BUILDER < 77, reason="setuptools is older than 77: install the extra test")

ROOT = Path(__file__).resolve().parent.parent
TRACKED = ("vidur", "rl", "data", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "NOTICE")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in a folder of the package's name, as `git clone` would make it."""
    folder = tmp_path_factory.mktemp("beside") / "vidur"
    for name in TRACKED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


def install(clone: Path, kind: str, folder: Path) -> Path:
    """Build a wheel (kind: editable or wheel) and install it into a new environment in `folder`; returns its Python.

    The environment borrows the packages that the tests run with, of which vidur is none there.
    """
    build = f"import setuptools.build_meta as b; b.build_{kind}({str(folder)!r})"
    ran = subprocess.run([sys.executable, "-c", build], cwd=clone, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("vidur_router-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    borrowed = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (packages / "zz_borrowed.pth").write_text("\n".join(borrowed))
    return folder / "venv" / "bin" / "python"


def output(python: Path, folder: Path, *arguments: str) -> str:
    ran = subprocess.run([python, *arguments], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@needs_builder
def test_python_started_beside_a_clone_named_vidur_finds_the_package(clone: Path, tmp_path: Path) -> None:
    python = install(clone, "editable", tmp_path)
    program = "from vidur import simulate; from vidur.data_files import data_path; print(data_path('policies'))"
    assert output(python, clone.parent, "-c", program) == f"{clone / 'data' / 'policies'}\n"
    assert output(python, clone.parent, "-m", "vidur.main", "--version").startswith("vidur ")


@needs_builder
def test_a_wheel_brings_its_data_pages_and_licences(clone: Path, tmp_path: Path) -> None:
    python = install(clone, "wheel", tmp_path)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    shipped = {path.relative_to(clone / "data") for path in (clone / "data").rglob("*") if path.is_file()}
    assert shipped == {path.relative_to(packages / "vidur_data") for path in (packages / "vidur_data").rglob("*.*")}
    for package in ("vidur", "rl"):
        for source in (clone / package).rglob("*.*"):
            if source.suffix in (".py", ".css", ".js", ".html", ".typed") and source.is_file():
                assert (packages / source.relative_to(clone)).is_file(), source
    assert {path.name for path in packages.glob("vidur_router-*.dist-info/licenses/*")} == {"LICENSE", "NOTICE"}
    empty = tmp_path / "empty"
    empty.mkdir()
    program = (
        "import vidur\nfrom vidur.data_files import data_path\n"
        "from rl.router.checkpoint import Checkpoint, policy_path\n"
        "print(vidur.__file__); print(data_path('scenarios')); Checkpoint.load(policy_path(None))"
    )
    where = [packages / "vidur" / "__init__.py", packages / "vidur_data" / "scenarios"]
    assert output(python, empty, "-c", program).split() == [str(path) for path in where]


def test_how_to_install_an_extra_is_said_for_a_clone_and_for_a_wheel(tmp_path: Path) -> None:
    assert install_command("train") == f"pip install -e '{ROOT}[train]'"
    assert install_command("serve", tmp_path) == "pip install 'vidur-router[serve]'"
