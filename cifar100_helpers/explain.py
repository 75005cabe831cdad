"""What trained networks say of any picture, and where in a picture they look."""

from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from .errors import ParameterError, in_one_line
from .plots import plot_images, readable
from .storage import places

SIDE = 32


def load_picture(path=""):
    """Return the centre square of a picture, and that square shrunk as CIFAR's pictures are.

    `path` names a file of any kind that Pillow reads; a relative one starts at the working
    directory or at the project's root. "" stands for a sample photograph of scikit-learn. What is
    transparent becomes white. Returns uint8 (side, side, 3) and uint8 (32, 32, 3): each small pixel
    is the mean of the area that it covers. Raises ParameterError if there is no such picture.
    """
    picture = _read(path) if path else load_sample_image("flower.jpg")
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(picture[top : top + side, left : left + side])
    return square, cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _read(path):
    looked_at = places(path)
    file = next(filter(Path.is_file, looked_at), None)
    if file is None:
        looked = " or ".join(map(str, looked_at))
        raise ParameterError(f"There is no picture {looked}: give the path of a picture.")
    try:
        with Image.open(file) as opened:
            # Cameras store the picture as the sensor lay, and how to turn it.
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):  # 16 bits of grey, which convert would clip to white
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            picture = picture.convert("RGBA")
    except Exception as error:  # Pillow raises many kinds for damaged files
        problem = in_one_line(error)
        raise ParameterError(
            f"{file} is no picture that Pillow reads ({problem}): give a JPEG or PNG file."
        ) from None
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def plot_picture(original, small, predictions, names, count=5):
    """Draw a picture, what the networks see of it, and the likeliest classes of each as bars.

    `original`, `small`: see `load_picture`. `predictions`: a dict from a network's name to its
    probabilities, float (100,); `names`: those of the classes. Returns 2 Axes and one per network.
    """
    widths = [1, 1] + [1.3] * len(predictions)
    figure = plt.figure(figsize=(2.3 * sum(widths), 2.8), layout="constrained")
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    figure.suptitle(f"A picture, what a network sees of it, and its {count} likeliest classes")
    for ax, image, title in zip(axes[:2], (original, small), ("original", "32 × 32"), strict=True):
        ax.imshow(image)
        ax.set_axis_off()
        ax.set_title(title, fontsize=9)
    for ax, (name, probabilities) in zip(axes[2:], predictions.items(), strict=True):
        likeliest = np.argsort(-probabilities, kind="stable")[:count]
        bars = ax.barh(range(len(likeliest)), 100 * probabilities[likeliest])
        ax.bar_label(bars, fmt="%.0f %%", padding=2, fontsize=8)
        ax.set_yticks(range(len(likeliest)), [readable(names[i]) for i in likeliest], fontsize=8)
        ax.invert_yaxis()
        ax.set(xlim=(0, 120), xticks=[])  # beyond 100 is room for the number
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.set_title(name, fontsize=9)
    return axes


def occlusion_map(network, image, label, patch=8, stride=2):
    """Return how much the probability of `label` falls if a pixel's surroundings are covered.

    A square of `patch` pixels, in the image's mean colour, covers `image`, uint8 (height, width,
    3), at one place after another, `stride` pixels apart (at most `patch`). `network` is a Keras
    model from uint8 images to probabilities. Returns float (height, width): for each pixel, the
    mean fall over the squares that cover it; negative if the probability rises. Source: Zeiler and
    Fergus, "Visualizing and Understanding Convolutional Networks", 2014.
    """
    rows, columns = (_intervals(length, patch, stride) for length in image.shape[:2])
    covers = np.array([np.outer(row, column) for row in rows for column in columns])
    mean_colour = image.mean(axis=(0, 1)).round().astype(np.uint8)
    covered = np.where(covers[..., None], mean_colour, image)
    before, *after = network.predict(np.stack([image, *covered]), verbose=0)[:, label]
    falls = before - np.asarray(after, dtype=float)
    return np.tensordot(falls, covers, axes=1) / covers.sum(axis=0)


def _intervals(length, patch, stride):
    """Mark `patch` of `length` pixels from one start after another, the last at the end."""
    starts = {*range(0, length - patch, stride), length - patch}
    pixels = np.arange(length)
    return [(start <= pixels) & (pixels < start + patch) for start in sorted(starts)]


def plot_occlusion(images, maps, titles, columns=3):
    """Draw each of `images` beside itself in grey under its heat map, `columns` pairs in a row.

    `images`: uint8 (n, 32, 32, 3); `maps`: float (n, 32, 32), each of `occlusion_map`; `titles`: n
    texts. Returns the Axes, (2 n,): an image and its map in turn.
    """
    pairs, texts = np.repeat(images, 2, axis=0), [t for title in titles for t in (title, "")]
    heading = "Where it looks: if a red place is covered, the probability of the class falls"
    axes = plot_images(pairs, texts, columns=2 * columns, size=1.5, heading=heading)
    strongest = 100 * np.abs(maps).max() or 1.0
    for ax, image, heat in zip(axes[1::2], images, 100 * np.asarray(maps), strict=True):
        ax.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
        # What matters little stays grey.
        style = {"cmap": "RdBu_r", "alpha": 0.9 * np.sqrt(np.abs(heat) / strongest)}
        drawn = ax.imshow(heat, vmin=-strongest, vmax=strongest, **style)
    figure = drawn.figure
    figure.set_figwidth(figure.get_figwidth() + 1)
    figure.colorbar(drawn, ax=figure.axes, shrink=0.8, label="fall in probability, points")
    return axes
