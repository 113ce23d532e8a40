"""Packages that only some commands need, and how to install them."""

from __future__ import annotations

from vidur.errors import InputError

DISTRIBUTION = "vidur"
# The extra of the distribution that brings a package, and what needs it.
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
    """The error for a package of EXTRAS that is not installed; `needed_by` in place of what the table says."""
    extra, usual = EXTRAS[package]
    return InputError(f"{needed_by or usual} needs {package}: pip install '{DISTRIBUTION}[{extra}]'")
