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
)
