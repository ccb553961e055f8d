"""The simulated video-text corpus: what is written, how large, how noisy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from swamp_dist.bounds import Count, Factor, Scale, Seed, Width
from swamp_dist.settings import WORKING_FOLDER, Settings


class SimulatedVideoTextSource(Settings):
    """A simulated video-text corpus in the raw layouts of HowTo100M, YouCook2, MSR-VTT and LSMDC.

    Raw files are written once under `raw_dir` and then read as the real sets are.
    """

    kind: Literal["simulated_video_text"] = "simulated_video_text"
    part: Literal["howto100m", "youcook2", "msrvtt", "lsmdc"]
    """Which of the four sets the shards are made of."""
    raw_dir: Annotated[Path, WORKING_FOLDER] = Path("data/raw/simulated")
    """Where the raw files are written, relative to the working folder: one folder a set, and `words/` with
    the word vectors."""
    seed: Seed = 0
    """Seed of sentences, word vectors, times and noise."""
    map_seed: Seed = 0
    """Seed of the map from words to features; changes the features of all sets and nothing else."""
    howto100m_map_seed: Seed | None = None
    """Another map for HowTo100M alone; null = `map_seed`. With another one nothing that is learned there can
    help on the other sets: a control for gains of pretraining."""
    annotations: Path | None = None
    """Path of the official YouCook2 annotation json, whose sentences are then shown and said; null =
    sentences from a small grammar."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the training items that forms the `validation` split."""
    howto100m_videos: Count = 400
    """Narrated videos."""
    howto100m_seconds: tuple[Scale, Scale] = (80, 140)
    """Shortest and longest duration; about one caption every 4 seconds."""
    youcook2_train: Count = 1200
    """Clips of YouCook2 for training (validation included), one caption each."""
    youcook2_test: Count = 350
    """Clips of YouCook2 for test."""
    msrvtt_train: Count = 900
    """Clips of MSR-VTT for training (validation included)."""
    msrvtt_captions: Count = 5
    """Captions of an MSR-VTT training clip."""
    msrvtt_test: Count = 300
    """Clips of MSR-VTT for test, one caption each."""
    lsmdc_train: Count = 1200
    """Clips of LSMDC for training (validation included)."""
    lsmdc_test: Count = 300
    """Clips of LSMDC for test."""
    width: Width = 2048
    """Length of a 2D and of a 3D feature row."""
    latent_dim: Width = 64
    """Dimension of the latent content that words and features share."""
    nuisance: Factor = 1.75
    """Deviation, in latent units, of what is constant in a video and not told by its captions. Content
    has deviation 1."""
    noise: Factor = 1.25
    """Deviation, in latent units, of what changes from row to row."""
    row_noise: Factor = 0.5
    """Deviation of the noise of each feature value, against 1 of its content."""
    unrelated_narration: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of narrations that tell of something else than what is shown."""
    narration_shift: Factor = 1.5
    """Deviation, in seconds, of narration times from what is shown."""
    word_noise: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Probability that a narrated word is lost, and that a stray one comes before it."""
    stray_quotes: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of LSMDC rows with a single quotation mark."""
    vectors_format: Literal["word2vec", "glove"] = "word2vec"
    """`words/vectors.bin` in word2vec binary form, or `words/vectors.txt` in GloVe text form."""
    word_dim: Width = 300
    """Length of a word vector."""
    vocabulary: Count = 3000
    """Words with a vector, at least all words of captions less those out of vocabulary."""
    out_of_vocabulary: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the captions' words that get no vector."""
