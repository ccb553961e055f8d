"""Images per second of one core: our loader beside webdataset with torchvision, decoders beside each other.

    pip install --target FOLDER --no-deps torchvision opencv-python-headless   # of the installed torch
    PYTHONPATH=FOLDER python tools/bench_images.py

Photographs are made on the spot: smooth noise with fine grain, 500 x 375, JPEG of quality 90. All programs
make a random-resized crop of 224 of each, take turns in one run, and are timed in CPU time on one thread, so
that other programs on the machine weigh little. Libraries that are not installed are left out and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from swamp_dist.config import DataSettings, ImageSettings
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.stream import open_stream
from swamp_dist.data.transforms import make_pixels, random_box, uniform_numbers
from swamp_dist.data.writer import write_shards
from swamp_dist.encoders.hashed_words import HashedWords
from swamp_dist.records import Sample

SIZE, BATCH = 224, 32
Program = Callable[[], Any]
"""One pass over all photographs."""
_OPERATOR: torch.library.Library | None = None
"""A definition ends with the object that made it."""


def photograph(number: int, width: int, height: int) -> bytes:
    """Smooth noise at four scales and a little grain, so that a file has the size of a photograph's."""
    random = np.random.default_rng(number)
    picture = np.full((height, width, 3), 128.0)
    for cells, strength in ((4, 60), (12, 30), (40, 15), (120, 8)):
        noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        wide = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        picture += (np.asarray(wide) - 128.0) / 128 * strength
    picture += random.normal(0, 2, picture.shape)
    file = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_importable() -> None:
    """Let torchvision's transforms, which are Python, be imported where its compiled part is for another
    build of torch (CUDA beside CPU): the import asks for two operators that are then not there."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        global _OPERATOR
        _OPERATOR = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _OPERATOR.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


# -- whole loaders ---------------------------------------------------------------------------------


def ours(manifest: Manifest, count: int) -> Program:
    """Batches of uint8 pixels and tokens, as a loader process hands them over."""
    data = DataSettings.model_validate(
        {"shards": manifest.folder, "a": "image", "b": "text", "workers": 0, "images": {"size": SIZE}}
    )
    plan = plan_batches(BATCH, 1, 1, 1, count)
    tokenizers = (None, HashedWords(2**15, 64))
    stream = open_stream(manifest, "train", data, plan, seed=0, rank=0, tokenizers=tokenizers)
    steps = count // BATCH
    return lambda: [batch.a for batch in stream.batches(0, steps)]


def webdataset_with_torchvision(manifest: Manifest, as_floats: bool) -> Program:
    """What users write: `.decode("pil")`, transforms v2, batches; floats are normalised in the loader."""
    import webdataset
    from torchvision.transforms import v2

    urls = [
        str(manifest.split("train").shard_path(i)) for i in range(len(manifest.split("train").shard_entries))
    ]
    steps: list[Any] = [v2.RandomResizedCrop(SIZE, antialias=True), v2.PILToTensor()]
    if as_floats:
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    transform = v2.Compose(steps)
    tokens = HashedWords(2**15, 64)

    def batches() -> list[Any]:
        data = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("image.jpg", "text.txt")
        made = data.map_tuple(transform, lambda text: text).batched(BATCH, collation_fn=list)
        found = []
        for batch in made:
            pixels, texts = zip(*batch, strict=True)
            found.append((torch.stack(pixels), tokens(texts)))
        return found

    return batches


# -- decoders --------------------------------------------------------------------------------------


def boxes(files: list[bytes], how: ImageSettings) -> list[tuple[int, int, int, int]]:
    """The crops that our transforms draw, as whole pixels."""
    found = []
    for number, data in enumerate(files):
        width, height = Image.open(io.BytesIO(data)).size
        found.append(tuple(int(side) for side in random_box(width, height, how, uniform_numbers(number))))
    return found


def pillow_plain(files: list[bytes], crops: list[Any]) -> Program:
    """Decode whole, crop, resize; no draft."""

    def run() -> list[np.ndarray]:
        made = []
        for data, box in zip(files, crops, strict=True):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            made.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)))
        return made

    return run


def own_transforms(files: list[bytes], how: ImageSettings) -> Program:
    """`make_pixels`: limits, orientation, draft, crop."""
    return lambda: [make_pixels(data, how, (number,)) for number, data in enumerate(files)]


def pillow_and_torch(files: list[bytes], crops: list[Any]) -> Program:
    """Pillow decodes, torch resizes 8-bit values with antialiasing."""
    from torch.nn.functional import interpolate

    def run() -> list[np.ndarray]:
        made = []
        for data, (left, top, right, bottom) in zip(files, crops, strict=True):
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))
            part = pixels[top:bottom, left:right].permute(2, 0, 1)[None]
            resized = interpolate(part, (SIZE, SIZE), mode="bilinear", antialias=True)
            made.append(resized[0].permute(1, 2, 0).numpy())
        return made

    return run


def torchvision_on_pillow(files: list[bytes], crops: list[Any]) -> Program:
    """Pillow decodes, transforms v2 crop and resize its image, as most training programs do."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    def run() -> list[np.ndarray]:
        made = []
        for data, (left, top, right, bottom) in zip(files, crops, strict=True):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            crop = functional.resized_crop(
                image, top, left, bottom - top, right - left, [SIZE, SIZE], InterpolationMode.BILINEAR
            )
            made.append(functional.pil_to_tensor(crop).permute(1, 2, 0).numpy())
        return made

    return run


def torchvision_tensors(files: list[bytes], crops: list[Any]) -> Program:
    """torchvision's own JPEG decoder and transforms v2 on tensors."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    raw = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    decode_jpeg(raw[0], ImageReadMode.RGB)  # fails here where the library was built for another torch

    def run() -> list[np.ndarray]:
        made = []
        for data, (left, top, right, bottom) in zip(raw, crops, strict=True):
            pixels = decode_jpeg(data, ImageReadMode.RGB)
            crop = functional.resized_crop(
                pixels, top, left, bottom - top, right - left, [SIZE, SIZE], antialias=True
            )
            made.append(crop.permute(1, 2, 0).numpy())
        return made

    return run


def opencv(files: list[bytes], crops: list[Any], method: str) -> Program:
    """OpenCV decodes and resizes."""
    import cv2

    cv2.setNumThreads(1)
    how = getattr(cv2, method)

    def run() -> list[np.ndarray]:
        made = []
        for data, (left, top, right, bottom) in zip(files, crops, strict=True):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            crop = cv2.resize(pixels[top:bottom, left:right], (SIZE, SIZE), interpolation=how)
            made.append(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB))
        return made

    return run


def opencv_and_pillow(files: list[bytes], crops: list[Any]) -> Program:
    """OpenCV decodes, Pillow resizes."""
    import cv2

    def run() -> list[np.ndarray]:
        made = []
        for data, (left, top, right, bottom) in zip(files, crops, strict=True):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            part = Image.fromarray(pixels[top:bottom, left:right])
            made.append(np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
        return made

    return run


# -- turns -----------------------------------------------------------------------------------------


def take_turns(programs: dict[str, Program], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every program in each round; a first pass of each is not counted."""
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.process_time()
            program()
            seconds[name].append(time.process_time() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]], count: int, own: str) -> None:
    print(f"\n{title}")
    for name, times in seconds.items():
        ratios = sorted(other / mine for mine, other in zip(times, seconds[own], strict=True))
        rate = count / statistics.median(times)
        print(
            f"  {name:44} {rate:8.0f} images/s   {statistics.median(ratios):5.2f} x ours "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def parity(programs: dict[str, Program], reference: str) -> None:
    print("\ndifference of the same crops from Pillow's on the whole image, of 255: mean, largest")
    expected = programs[reference]()
    for name, program in programs.items():
        if name != reference:
            pairs = zip(program(), expected, strict=True)
            gaps = [np.abs(found.astype(int) - wanted.astype(int)) for found, wanted in pairs]
            print(f"  {name:44} {np.mean([g.mean() for g in gaps]):6.2f} {max(g.max() for g in gaps):4}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    files = [photograph(number, options.width, options.height) for number in range(options.images)]
    mean = sum(len(data) for data in files) / len(files) / 1000
    print(
        f"{len(files)} JPEG of {options.width} x {options.height}, {mean:.0f} kB each, one thread, CPU time"
    )
    has = {name: importlib.util.find_spec(name) is not None for name in ("torchvision", "cv2")}
    for name, there in has.items():
        if not there:
            print(f"{name} is not installed: left out")
    if has["torchvision"]:
        make_importable()
    how = ImageSettings(size=SIZE)
    crops = boxes(files, how)
    decoders: dict[str, Program] = {
        "ours": own_transforms(files, how),
        "Pillow, whole image": pillow_plain(files, crops),
        "Pillow, resized by torch": pillow_and_torch(files, crops),
    }
    if has["torchvision"]:
        decoders["torchvision v2 on Pillow's images"] = torchvision_on_pillow(files, crops)
        try:
            decoders["torchvision's decoder, v2 on tensors"] = torchvision_tensors(files, crops)
        except (RuntimeError, AttributeError, ImportError) as error:
            print(f"torchvision's own decoder does not run with this torch, left out: {str(error)[:70]}")
    if has["cv2"]:
        decoders["OpenCV, INTER_LINEAR (no antialiasing)"] = opencv(files, crops, "INTER_LINEAR")
        decoders["OpenCV, resized by Pillow"] = opencv_and_pillow(files, crops)
        decoders["OpenCV, INTER_AREA"] = opencv(files, crops, "INTER_AREA")
    with tempfile.TemporaryDirectory() as folder:
        samples = [
            Sample(f"p{i:05d}", {"image": data, "text": f"a photograph of number {i}"})
            for i, data in enumerate(files)
        ]
        manifest = write_shards({"train": samples}, Path(folder) / "set", "bench", {})
        loaders: dict[str, Program] = {"ours": ours(manifest, len(files))}
        if has["torchvision"]:
            loaders["webdataset + torchvision, floats"] = webdataset_with_torchvision(manifest, True)
            loaders["webdataset + torchvision, 8 bits"] = webdataset_with_torchvision(manifest, False)
        count = len(files) // BATCH * BATCH
        report("whole loaders, one process", take_turns(loaders, options.rounds), count, "ours")
        report("decoding and cropping alone", take_turns(decoders, options.rounds), len(files), "ours")
        parity(decoders, "Pillow, whole image")


if __name__ == "__main__":
    main()
