"""Packages that only some commands need, and how to install them."""

from __future__ import annotations

import shlex
from pathlib import Path

from vidur.errors import InputError

DISTRIBUTION = "vidur-router"
_ROOT = Path(__file__).resolve().parent.parent
# By package: the extra that installs it, and what needs it.
EXTRAS = {
    "aiconfigurator_core": ("aiconfigurator", "the aiconfigurator predictor"),
    "gymnasium": ("gym", "the Gymnasium environment"),
    "httptools": ("serve", "the router"),
    "prometheus_client": ("serve", "the router"),
    "ray": ("ray", "--executor ray"),
    "sklearn": ("profiles", "a predictor that is trained on profiles"),
    "tensorboard": ("train", "training"),
    "torch": ("train", "training"),
}


def missing_package(package: str, needed_by: str = "") -> InputError:
    """Return the error for a package of EXTRAS that is not installed; `needed_by` overrides the table."""
    extra, usual = EXTRAS[package]
    return InputError(f"{needed_by or usual} needs {package}: {install_command(extra)}")


def install_command(extra: str, root: Path = _ROOT) -> str:
    """Return the command that installs an extra, from this clone or for the installed wheel.

    root: the folder that contains this package.
    """
    clone = (root / "pyproject.toml").is_file()
    requirement = shlex.quote(f"{root if clone else DISTRIBUTION}[{extra}]")
    return f"pip install {'-e ' if clone else ''}{requirement}"
