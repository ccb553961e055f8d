"""What is said in a simulated corpus: clips of four sets, each with what it shows and how it is captioned.

The four sets tell of the same kind of scene in four styles: instructions (YouCook2), noisy narrations without
stop words (HowTo100M), several paraphrases per clip (MSR-VTT), film descriptions (LSMDC). No sentence is
shared between sets, or between training and test, except that narrations of videos repeat sentences of their
topic.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.config import SimulatedVideoTextSource
from swamp_dist.errors import UserError
from swamp_dist.sources.simulated_draws import Draws, draws, pick
from swamp_dist.sources.simulated_grammar import FUNCTION_WORDS, topic_sentences

GENERATED_FOR_VIDEOS = 6000
"""Sentences the grammar makes for narrated videos, shared out over topics."""
CLIPS_A_VIDEO = 8
NARRATION_SECONDS = (2.5, 5.5)
UNDESCRIBED = 0.35
"""Share of the content words of a clip that one of its MSR-VTT or LSMDC captions leaves out."""
SUBJECTS = ("a man", "a woman", "a person", "someone", "a chef", "a cook", "people", "a lady")
SETTINGS = ("in the kitchen", "on tv", "at home", "in a video", "for the camera", "")
FILM = ("SOMEONE {} while SOMEONE watches.", "SOMEONE {}.", "They {} and look up.", "He turns to {}.")


@dataclass(frozen=True)
class Sentence:
    """One described scene, before any style."""

    topic: str
    text: str


@dataclass(frozen=True)
class Clip:
    """One clip of a pooled set."""

    number: int
    video: int
    """Clips of one video share its nuisance."""
    shown: str
    """The sentence that its features depend on."""
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Video:
    """One narrated video: what it shows when, and what is said when. Times in seconds."""

    number: int
    topic: str
    duration: float
    shown: tuple[tuple[float, str], ...]
    """(end, sentence) of each step, in time order; the last ends with the video."""
    narration: tuple[tuple[float, float, str], ...]
    """(start, end, words), as automatic speech recognition gives them."""


@dataclass(frozen=True)
class Corpus:
    """All clips and videos, without features."""

    pooled: Mapping[str, Sequence[Clip]]
    """By `<set>_<split>`, for example youcook2_train."""
    videos: Sequence[Video]


def make_corpus(settings: SimulatedVideoTextSource) -> Corpus:
    """Everything that is shown and said, from the settings and the seed alone.

    Raises:
        UserError: the annotation file is missing, is no YouCook2 annotation or has too few sentences.
    """
    sizes = {f"{name}_{split}": n for name, split, n in _sizes(settings)}
    test = sum(n for part, n in sizes.items() if part.endswith("_test"))
    train = sum(sizes.values()) - test
    training, held_out = _sentences(settings, train, test)
    pooled, left = {}, {"train": list(training), "test": list(held_out)}
    for part, count in sizes.items():
        pool = left[part.rsplit("_")[-1]]
        taken, pool[:] = pool[:count], pool[count:]
        pooled[part] = [_clip(part, i, s, settings) for i, s in enumerate(taken)]
    return Corpus(pooled, _videos(left["train"], settings))


def all_captions(corpus: Corpus) -> Iterator[str]:
    """Every caption of the corpus."""
    for clips in corpus.pooled.values():
        yield from (caption for clip in clips for caption in clip.captions)
    yield from (text for video in corpus.videos for _, _, text in video.narration)


def content(text: str) -> list[str]:
    """The content words of a caption, in lower case."""
    words = [word.strip(".,\"'").lower() for word in text.split()]
    return [word for word in words if word and word not in FUNCTION_WORDS]


def _sizes(settings: SimulatedVideoTextSource) -> list[tuple[str, str, int]]:
    return [
        ("youcook2", "train", settings.youcook2_train),
        ("youcook2", "test", settings.youcook2_test),
        ("msrvtt", "train", settings.msrvtt_train),
        ("msrvtt", "test", settings.msrvtt_test),
        ("lsmdc", "train", settings.lsmdc_train),
        ("lsmdc", "test", settings.lsmdc_test),
    ]


def _sentences(
    settings: SimulatedVideoTextSource, train: int, test: int
) -> tuple[list[Sentence], list[Sentence]]:
    """Distinct sentences for training (more than `train`: videos take the rest) and for test."""
    if settings.annotations is None:
        made = list(topic_sentences(settings.seed, train + test + GENERATED_FOR_VIDEOS))
        made = [made[i] for i in draws(settings.seed, "sentences").permutation(len(made))]
        sentences = [Sentence(*pair) for pair in made]
        return sentences[test:], sentences[:test]
    training, held_out = _read_annotation(settings.annotations)
    order = draws(settings.seed, "sentences")
    training, held_out = pick(order, training, len(training)), pick(order, held_out, len(held_out))
    for name, wanted, found in (("training", train + 1, training), ("validation", test, held_out)):
        if len(found) < wanted:
            raise UserError(
                f"source.annotations: {settings.annotations} has {len(found)} distinct {name} sentences, but "
                f"the settings ask for {wanted}: lower the sizes of source, or set annotations: null"
            )
    return training, held_out[:test]


def _read_annotation(path: Path) -> tuple[list[Sentence], list[Sentence]]:
    """Distinct sentences of the official YouCook2 annotation: training and validation videos."""
    try:
        database = json.loads(path.read_text(encoding="utf-8"))["database"]
        found = [
            (video["subset"], Sentence(video["recipe_type"], " ".join(a["sentence"].split())))
            for video in database.values()
            for a in video.get("annotations", ())
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"source.annotations: {path}: expected the official YouCook2 annotation json "
            f'({{"database": {{ID: {{subset, recipe_type, annotations: [{{sentence}}]}}}}}}), found '
            f"{type(error).__name__}: {error}; give its path, or null for generated sentences"
        ) from error
    held_out = _distinct([s for subset, s in found if subset == "validation" and content(s.text)])
    tested = {s.text for s in held_out}
    training = [s for subset, s in found if subset == "training" and content(s.text)]
    return _distinct([s for s in training if s.text not in tested]), held_out


def _distinct(sentences: Sequence[Sentence]) -> list[Sentence]:
    return list({s.text: s for s in sentences}.values())


def _clip(part: str, number: int, sentence: Sentence, settings: SimulatedVideoTextSource) -> Clip:
    random = draws(settings.seed, f"caption {part}", number)
    if part.startswith("youcook2"):
        return Clip(number, number // CLIPS_A_VIDEO, sentence.text, (sentence.text,))
    if part.startswith("msrvtt"):
        count = settings.msrvtt_captions if part.endswith("train") else 1
        captions = tuple(_paraphrase(sentence.text, random) for _ in range(count))
        return Clip(number, number, sentence.text, captions)
    film = FILM[int(random.integers(len(FILM)))].format(_partly(sentence.text, random))
    return Clip(number, number // CLIPS_A_VIDEO, sentence.text, (film,))


def _paraphrase(text: str, random: Draws) -> str:
    subject, where = pick(random, SUBJECTS, 1)[0], pick(random, SETTINGS, 1)[0]
    return f"{subject} is shown how to {_partly(text, random)} {where}".strip()


def _partly(text: str, random: Draws) -> str:
    """The sentence without some content words; at least one stays."""
    words = text.split()
    kept = [w for w in words if not content(w) or random.random() > UNDESCRIBED]
    if any(content(w) for w in kept):
        return " ".join(kept)
    return text


def _videos(sentences: Sequence[Sentence], settings: SimulatedVideoTextSource) -> list[Video]:
    by_topic: dict[str, list[str]] = defaultdict(list)
    for sentence in sentences:
        by_topic[sentence.topic].append(sentence.text)
    topics = sorted(by_topic)
    everything = [s.text for s in sentences]
    return [_video(i, topics, by_topic, everything, settings) for i in range(settings.howto100m_videos)]


def _video(
    number: int,
    topics: Sequence[str],
    by_topic: Mapping[str, Sequence[str]],
    everything: Sequence[str],
    settings: SimulatedVideoTextSource,
) -> Video:
    random = draws(settings.seed, "video", number)
    topic = topics[int(random.integers(len(topics)))]
    duration = round(float(random.uniform(*settings.howto100m_seconds)), 2)
    shown, narration, start = [], [], 0.0
    while start < duration:
        end = start + float(random.uniform(*NARRATION_SECONDS))
        end = duration if end > duration - 1 else end
        text = pick(random, by_topic[topic], 1)[0]
        shown.append((end, text))
        if random.random() < settings.unrelated_narration:
            text = everything[int(random.integers(len(everything)))]
        shift = settings.narration_shift * float(random.standard_normal())
        begun = min(max(0.0, start + shift), duration - 0.5)
        heard = _heard(text, everything, random, settings.word_noise)
        narration.append((round(begun, 2), round(min(duration, begun + end - start), 2), heard))
        start = end
    return Video(number, topic, duration, tuple(shown), tuple(sorted(narration)))


def _heard(text: str, everything: Sequence[str], random: Draws, noise: float) -> str:
    """Content words as a recogniser hears them: each dropped, or another one put before it, with
    probability `noise`."""
    heard = []
    for word in content(text):
        if random.random() < noise:
            stray = content(everything[int(random.integers(len(everything)))])
            heard += pick(random, stray, 1)
        if random.random() >= noise:
            heard.append(word)
    return " ".join(heard or content(text)[:1])
