"""Word vectors and video features of a simulated corpus: features follow from words by a fixed random map.

A word's latent is u = tanh(2 R w), w its vector and R random; a sentence's z is the sum of the latents of its
content words, scaled to length sqrt(latent_dim). A feature row of kind k (2D or 3D) is

    x = unit(relu((z + nuisance * v + noise * n) M_k + row_noise * r)),

with v ~ N(0, I) drawn once per video, n ~ N(0, I) once per row and r ~ N(0, I) once per row in the width of
the features. R and M_k (entries N(0, 1 / latent_dim)) come from the seed of the map: sets with the same map
agree about what a picture of "onion" is, so what is learned on one helps on the others; with another map it
cannot. R belongs to the map because an encoder of words that has learned R knows which words show alike,
whatever M_k is. Nuisance and noise lie in the latent space because noise over 2,048 columns would average
out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from swamp_dist.config import SimulatedVideoTextSource
from swamp_dist.sources.simulated_captions import Clip, Video, content
from swamp_dist.sources.simulated_draws import Draws, draws

KINDS = ("2d", "3d")
ROWS_A_SECOND = {"2d": 1.0, "3d": 1.5}
CLIP_SECONDS = (4, 15)
"""Lengths of the clips of pooled sets, half-open."""
WORD_SCALE = 0.13
"""Standard deviation of a component of a word vector, about that of GoogleNews vectors."""


@dataclass(frozen=True)
class FeatureMap:
    """Turns latents into feature rows."""

    seed: int
    """What both R and the matrices are drawn from."""
    matrices: Mapping[str, np.ndarray]
    """By kind: (latent_dim, width) float32."""
    row_noise: float


def word_vector(word: str, settings: SimulatedVideoTextSource) -> np.ndarray:
    """(word_dim,) float32. Forms of one word (chop, chopped) share most of their vector."""
    return _word_vector(word, settings.seed, settings.word_dim).copy()


@functools.lru_cache(maxsize=1 << 15)
def _word_vector(word: str, seed: int, dim: int) -> np.ndarray:
    stem = draws(seed, "stem", crc32(stem_of(word).encode())).standard_normal(dim)
    own = draws(seed, "word", crc32(word.encode())).standard_normal(dim)
    vector: np.ndarray = (WORD_SCALE * (0.9 * stem + np.sqrt(1 - 0.9**2) * own)).astype(np.float32)
    return vector


def stem_of(word: str) -> str:
    """The word without a common English ending; crude, but equal for most forms of one word."""
    word = word.lower()
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


class Scenes:
    """Latents of sentences: a word is worked out once."""

    def __init__(self, settings: SimulatedVideoTextSource, map_seed: int) -> None:
        self._settings = settings
        shape = (settings.word_dim, settings.latent_dim)
        self._turn = draws(map_seed, "word latents").standard_normal(shape)
        self._turn /= WORD_SCALE * np.sqrt(settings.word_dim)
        self._words: dict[str, np.ndarray] = {}

    def latent(self, sentence: str) -> np.ndarray:
        """z of a sentence with at least one content word: (latent_dim,) float64 of length
        sqrt(latent_dim)."""
        bag: np.ndarray = np.sum([self._word(word) for word in content(sentence)], axis=0)
        scaled: np.ndarray = bag * np.sqrt(len(bag)) / np.linalg.norm(bag)
        return scaled

    def _word(self, word: str) -> np.ndarray:
        if word not in self._words:
            self._words[word] = np.tanh(2 * word_vector(word, self._settings) @ self._turn)
        return self._words[word]


def feature_map(seed: int, settings: SimulatedVideoTextSource) -> FeatureMap:
    """The two matrices of one map seed."""
    shape = (settings.latent_dim, settings.width)
    matrices = {k: draws(seed, f"map {k}").standard_normal(shape, dtype=np.float32) for k in KINDS}
    scale = np.float32(1 / np.sqrt(settings.latent_dim))
    return FeatureMap(seed, {k: m * scale for k, m in matrices.items()}, settings.row_noise)


def video_features(
    video: Video, scenes: Scenes, into: FeatureMap, settings: SimulatedVideoTextSource
) -> dict[str, np.ndarray]:
    """By kind: (rows, width) float16, rows of unit length; 2D floor(duration) rows, one per second, and
    3D ceil(24 * duration / 16), one for every 16 frames of 24 a second.
    """
    counts = {"2d": int(video.duration), "3d": int(np.ceil(24 * video.duration / 16))}
    latents = np.stack([scenes.latent(text) for _, text in video.shown])
    ends = np.array([end for end, _ in video.shown])
    random = draws(settings.seed, "video features", video.number)
    nuisance = settings.nuisance * random.standard_normal(settings.latent_dim)
    rows = {}
    for kind in KINDS:
        times = (np.arange(counts[kind]) + 0.5) / ROWS_A_SECOND[kind]
        shown = latents[np.minimum(np.searchsorted(ends, times), len(ends) - 1)]
        rows[kind] = _rows(shown + nuisance, kind, into, random, settings.noise)
    return rows


def pooled_features(
    part: str, clips: Sequence[Clip], into: FeatureMap, settings: SimulatedVideoTextSource
) -> Iterable[dict[str, np.ndarray]]:
    """For each clip, by kind: (width,) float16, the maximum over the clip's rows, not normalised."""
    scenes = Scenes(settings, into.seed)
    for clip in clips:
        nuisance = draws(settings.seed, f"nuisance {part}", clip.video).standard_normal(settings.latent_dim)
        random = draws(settings.seed, f"features {part}", clip.number)
        seconds = int(random.integers(*CLIP_SECONDS))
        z = scenes.latent(clip.shown) + settings.nuisance * nuisance
        yield {
            kind: _rows(
                np.tile(z, (int(np.ceil(seconds * ROWS_A_SECOND[kind])), 1)),
                kind,
                into,
                random,
                settings.noise,
            ).max(axis=0)
            for kind in KINDS
        }


def _rows(z: np.ndarray, kind: str, into: FeatureMap, random: Draws, noise: float) -> np.ndarray:
    z = z + noise * random.standard_normal(z.shape)
    x = z.astype(np.float32) @ into.matrices[kind]
    x += np.float32(into.row_noise) * random.standard_normal(x.shape, dtype=np.float32)
    np.maximum(x, 0, out=x)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows: np.ndarray = x.astype(np.float16)
    return rows
