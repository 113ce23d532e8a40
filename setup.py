"""What pyproject.toml cannot say: in a wheel, the files of data/ lie in a folder `vidur_data` beside the packages."""

from pathlib import Path
from shutil import copytree

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """Copies data/ too, save for an editable install, which finds it in the clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copytree("data", Path(self.build_lib, "vidur_data"), dirs_exist_ok=True)


setup(
    packages=find_packages(include=["vidur", "vidur.*", "rl", "rl.*"]),
    # Makes an editable install a path, not an import hook: with a hook, Python started beside a clone named vidur takes
    # the clone's folder for the package.
    package_dir={"": "."},
    package_data={
        "vidur": ["py.typed", "report/*.css", "report/*.js", "compare/*.css", "compare/*.js"],
        "rl.vllm.process": ["*.html"],
    },
    cmdclass={"build_py": BuildWithData},
)
