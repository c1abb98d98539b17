"""What a wheel holds beside the code: files of the project that the library reads. All else stands in pyproject.toml.

A checkout has them beside dsa_lib, an installed library inside it: dsa_lib.run.places finds both. The larger weights of models/ (68 MB) do not travel.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROJECT = Path(__file__).parent
TRAVELS = (
    "data_manifests/**/*",
    "models/vessels/*",
    "models/lesion_judge/*",
    "benchmarks/memorisation.json",
    "benchmarks/vessel_segmentation.json",
    "notebooks/rating_page.ipynb",
)


class BuildWithData(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            for file in travelling():
                target = Path(self.build_lib, "dsa_lib", file)
                self.mkpath(str(target.parent))
                self.copy_file(file, str(target))

    def get_source_files(self):
        return super().get_source_files() + travelling()


def travelling() -> list[str]:
    found = sorted(path for pattern in TRAVELS for path in PROJECT.glob(pattern) if path.is_file())
    return [path.relative_to(PROJECT).as_posix() for path in found]


setup(cmdclass={"build_py": BuildWithData})
