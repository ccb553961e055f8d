"""Packaging: `swamp_dist` alone is installed, with the jobs and recipes that `swamp init` lays down."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

STARTER = Path("swamp_dist", "starter")


class BuildWithJobs(build_py):
    """Copies jobs/ and shards/ into the package, so that they stand in the repository once.

    An editable install has no copy: `swamp_dist.starter` reads them in the checkout.
    """

    def run(self):
        """Build the package, then copy."""
        super().run()
        if self.editable_mode:
            return
        for folder in ("jobs", "shards"):  # what an earlier build left there is gone
            shutil.rmtree(Path(self.build_lib, STARTER, folder), ignore_errors=True)
        for file in _job_files():
            target = Path(self.build_lib, STARTER, file)
            self.mkpath(os.fspath(target.parent))
            self.copy_file(os.fspath(file), os.fspath(target))

    def get_source_files(self):
        """What an sdist takes along."""
        return [*super().get_source_files(), *map(os.fspath, _job_files())]

    def get_outputs(self, include_bytecode=True):
        """What is built, the copies included."""
        copies = [os.fspath(Path(self.build_lib, STARTER, file)) for file in _job_files()]
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else copies)]


def _job_files():
    """YAML files and READMEs, relative to the checkout or unpacked sdist."""
    files = (file for folder in ("jobs", "shards") for file in Path(folder).rglob("*"))
    return sorted(file for file in files if file.suffix in (".yaml", ".md"))


setup(
    name="swamp-dist",
    version="0.1.0",
    description="Distributed cross-modal retrieval training with SwAMP (Kim, AISTATS 2023)",
    python_requires=">=3.11",
    packages=find_packages(include=["swamp_dist", "swamp_dist.*"]),
    package_data={
        "swamp_dist": [
            "py.typed",
            "starter/README.md",
            "pages/page.css",
            *(f"{part}.{kind}" for part in ("prototypes/gallery", "report/report") for kind in ("css", "js")),
        ]
    },
    cmdclass={"build_py": BuildWithJobs},
    install_requires=[
        # 2.10 is the floor of safe loading: weights_only is the default since 2.6, which mends
        # CVE-2025-32434, and 2.10 mends CVE-2026-24747. Tests run with 2.13.0 alone, which tools/install.sh
        # takes; `swamp doctor` names any other. Install torch first: alone, pip takes the newest one with
        # gigabytes of CUDA packages. Its CUDA builds bring triton, which compiles the GPU's pass of the
        # solve; nothing else asks for it.
        "torch>=2.10,<3",
        "deepspeed>=0.19.8,<0.20",  # the engine; its checkpoint layout is relied upon, hence the cap
        "webdataset>=1.0.2,<2",  # shard format and writer
        "ray[train]>=2.60,<3",  # holds the stage graph of a pipeline; Train runs a stage on a Ray cluster
        "submitit>=1.5.4,<1.6",  # SLURM batch scripts; capped, because two of its inner functions are used
        "tensorboard>=2.21",  # watching runs
        "pydantic>=2.12,<3",  # strict, typed settings with all errors at once
        "pyyaml>=6",  # job files
        "typer>=0.16",  # the command line
        "rich>=13",  # tables and progress bars
        "safetensors>=0.5",  # weights without code in them
        "numpy>=2",
        "xxhash>=3.5",  # checksum of an entry's fields: crc32 takes longer than the rest of reading a video
        "scipy>=1.11",  # Student's t in the intervals of a table; oracle of the solver's tests (linprog)
        "psutil>=6",  # state and environment of the processes that a run folder names
        "packaging>=23",  # compares versions in `swamp doctor`
        "pillow>=12.2",  # decoding pictures; the floor carries security fixes
        "matplotlib>=3.9",  # the plots of a sweep
        "filelock>=3.16",  # one build per shard set
    ],
    extras_require={
        "dev": [
            "pytest>=8",
            "pytest-timeout",  # a hung collective fails in a minute instead of stalling the suite
            "pytest-xdist>=3.6",  # ranks and jobs start slowly: two tests at a time use both cores meanwhile
            "hypothesis",  # property tests of solver, order and ranking
            "nltk>=3.9",  # oracle of the rules that cut captions into words; needs no data file
            "scikit-learn",  # oracle of what is told of prototypes and classes
            "numba>=0.62,<1",  # compiled passes, clips and words are held to torch and numpy
            "pot",  # optimal transport oracle for the Sinkhorn tests
            # Its interpreter runs the GPU's Sinkhorn pass; CUDA builds of torch 2.13 bring this version.
            "triton==3.7.1; platform_system == 'Linux'",
            "ruff==0.17.6",
            "mypy==2.4.1",
            "types-PyYAML",
        ],
        "fast": [
            # Compiles the passes of a solve for the CPU at hand, where rows times prototypes are worth it: no
            # compiler is asked for, nothing of it belongs to one version of torch, and a source install is no
            # other than a wheel. C by ctypes would take a wheel for each platform and its own choice of
            # vector widths. Without it the passes are plain torch. Also compiles how clips are cut from whole
            # videos, with the bits of numpy, and which word of a caption is the largest, as torch finds it.
            "numba>=0.62,<1",
        ],
        "parquet": [
            "pyarrow>=20",  # columns of parquet files in the source kinds `pairs` and `table`
        ],
        "encoders": [
            "timm>=1.0.20,<2",  # image models of kind timm
            "transformers>=5,<6",  # text models of kind hf_text
            # timm imports it; each release belongs to one of torch, so name the torch that is there when you
            # install it: `pip install 'swamp-dist[encoders]' torch==VERSION`. tools/install.sh does.
            "torchvision>=0.25",
        ],
        "loggers": [
            "wandb>=0.20",  # train.loggers: wandb
            "mlflow-skinny>=3",  # train.loggers: mlflow; the part of it that clients need
        ],
        "openmoji": [
            "resvg-py",  # rasterises the icons of the OpenMoji shard recipe
            "tokenizers",  # word pieces of the sentence encoder used by that recipe
        ],
    },
    entry_points={"console_scripts": ["swamp = swamp_dist.cli:main"]},
)
