"""Packaging: only `swamp_dist` is installed; job files, shard recipes and tools stay in the checkout."""

from setuptools import find_packages, setup

setup(
    name="swamp-dist",
    version="0.1.0",
    description="Distributed cross-modal retrieval training with SwAMP (Kim, AISTATS 2023)",
    python_requires=">=3.11",
    packages=find_packages(include=["swamp_dist", "swamp_dist.*"]),
    package_data={"swamp_dist": ["py.typed"]},
    install_requires=[
        # Pinned to the version: deepspeed alone would pull the newest torch with its CUDA packages,
        # several gigabytes that a CPU machine never uses. 2.10 is the floor for safe weights_only loading.
        # Its CUDA builds bring triton, which compiles the GPU's pass of the solve; nothing else asks for it.
        "torch==2.13.0",
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
            "pot",  # optimal transport oracle for the Sinkhorn tests
            # Its interpreter runs the GPU's Sinkhorn pass; CUDA builds of torch 2.13 bring this version.
            "triton==3.7.1; platform_system == 'Linux'",
            "ruff==0.17.6",
            "mypy==2.4.1",
            "types-PyYAML",
        ],
        "parquet": [
            "pyarrow>=20",  # columns of parquet files in the source kinds `pairs` and `table`
        ],
        "openmoji": [
            "resvg-py",  # rasterises the icons of the OpenMoji shard recipe
            "tokenizers",  # word pieces of the sentence encoder used by that recipe
        ],
    },
    entry_points={"console_scripts": ["swamp = swamp_dist.cli:main"]},
)
