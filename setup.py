"""The package: `vidur` (the simulator) and `vidur_data` (the files of data/)."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vidur", "vidur.*", "rl", "rl.*"]), "vidur_data"],
    package_dir={"vidur_data": "data"},
    package_data={
        "vidur": ["py.typed", "report/*.css", "report/*.js", "compare/*.css", "compare/*.js"],
        "rl.vllm.process": ["*.html"],
        "vidur_data": ["**/*"],
    },
    # A path in place of an import hook: with a hook, Python started beside a clone named vidur takes the clone's folder
    # for the package.
    options={"editable_wheel": {"mode": "compat"}},
)
