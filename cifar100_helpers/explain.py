"""What trained models say of any picture, and where in a picture they look."""

import os
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from PIL import Image, ImageOps

from .data import IMAGE_SIZE
from .errors import ParameterError, in_one_line
from .inference import predict
from .plots import BLUE, plot_images, readable
from .storage import places

_READ_SMALLER = 2048  # pixels: the side to which a large JPEG may be decoded
_MOST_PIXELS = 100_000_000  # more fill the memory of many machines


def load_pictures(path=""):
    """Return pictures as a dict from a name to a pair: the centre square, and that square shrunk.

    `path` names a file that Pillow reads, from the working directory or the project's root; ""
    stands for five photographs of scikit-image. The pair is uint8 (side, side, 3) and uint8 (32,
    32, 3), by the mean of the area that each pixel covers. Raises ParameterError if there is no
    such picture.
    """
    if path:
        pictures = {Path(path).name: _read(path)}
    else:
        pictures = {
            "motorcycle": skimage.data.stereo_motorcycle()[0],
            "coffee": skimage.data.coffee(),
            "rocket": skimage.data.rocket(),
            "astronaut": skimage.data.astronaut(),
            "cat": skimage.data.chelsea(),
        }
    return {name: _centre(picture) for name, picture in pictures.items()}


def _centre(picture):
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(picture[top : top + side, left : left + side])
    return square, cv2.resize(square, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)


def _read(path):
    file = next(filter(os.path.isfile, places(path)), None)
    if file is None:
        looked = " or ".join(map(str, places(path)))
        raise ParameterError(f"There is no picture {looked}: give the path of a picture.")
    pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # we have our own
    try:
        with Image.open(file) as opened:
            return _as_colours(opened, file)
    except ParameterError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        problem = f"{file} is no picture that Pillow reads ({in_one_line(error)})"
        raise ParameterError(f"{problem}: give a JPEG or PNG file.") from None
    finally:
        Image.MAX_IMAGE_PIXELS = pillows_limit


def _as_colours(opened, file):
    """Return the picture in the `opened` file as uint8 (height, width, 3), on white."""
    opened.draft(None, (_READ_SMALLER, _READ_SMALLER))  # does nothing unless it is a large JPEG
    if opened.width * opened.height > _MOST_PIXELS:
        raise ParameterError(
            f"{file} is too large ({opened.width} × {opened.height} pixels): "
            "save it as a JPEG, which can be read smaller, or shrink it."
        )
    # Cameras store the picture as the sensor lay, and how to turn it.
    picture = ImageOps.exif_transpose(opened)
    if picture.mode in ("I", "F"):
        raise ParameterError(f"{file} has 32 bits a pixel: save it with 8 or 16.")
    if picture.mode.startswith("I;16"):  # convert would clip what is beyond 255 to white
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def plot_pictures(pictures, predictions, names, count=3):
    """Draw pictures, what a model gets of them, and the likeliest classes as bars with their names.

    `pictures`: see `load_pictures`. `predictions`: a dict from a model's name to its probabilities,
    float (n, 100); `names`: those of the classes. Returns Axes, (2 + models, n).
    """
    heights = [2, 2] + [1.1] * len(predictions)
    size = (max(4, 2 * len(pictures)), sum(heights) + 0.6)
    figure = plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(heights), len(pictures), squeeze=False, height_ratios=heights)
    figure.suptitle("A picture, the 32 × 32 pixels of it, and what a model predicts")
    for (top, below), (name, (square, small)) in zip(axes[:2].T, pictures.items(), strict=True):
        top.imshow(square)
        top.set_title(name, fontsize=9)
        below.imshow(small)
    for row, (model, probabilities) in zip(axes[2:], predictions.items(), strict=True):
        row[0].set_title(model, fontsize=9, loc="left")
        for ax, shares in zip(row, 100 * probabilities, strict=True):
            likeliest = np.argsort(-shares, kind="stable")[:count]
            ax.barh(range(count), shares[likeliest], color=BLUE, alpha=0.25)
            for y, fine in enumerate(likeliest):
                ax.text(2, y, f"{readable(names[fine])} {shares[fine]:.0f} %", va="center", size=9)
            ax.set(xlim=(0, 100), ylim=(count - 0.5, -0.5))
    for ax in axes.flat:
        ax.set_axis_off()
    return axes


def occlusion_map(model, image, label, patch=8, stride=2):
    """Return how much the probability of `label` falls if a pixel's surroundings are covered.

    A square of `patch` pixels, in the mean colour of `image`, uint8 (height, width, 3), covers
    places `stride` pixels apart (at most `patch`). Returns float (height, width), the mean fall
    over the squares that cover a pixel. Source: Zeiler and Fergus, "Visualizing and Understanding
    Convolutional Networks", 2014.
    """
    rows, columns = (_intervals(length, patch, stride) for length in image.shape[:2])
    covers = np.array([np.outer(row, column) for row in rows for column in columns])
    mean_colour = image.mean(axis=(0, 1)).round().astype(np.uint8)
    covered = np.where(covers[..., None], mean_colour, image)
    before, *after = predict(model, np.stack([image, *covered]))[:, label]
    falls = before - np.asarray(after, dtype=float)
    return np.tensordot(falls, covers, axes=1) / covers.sum(axis=0)


def _intervals(length, patch, stride):
    """Mark `patch` of `length` pixels from one start after another, the last at the end."""
    starts = {*range(0, length - patch, stride), length - patch}
    pixels = np.arange(length)
    return [(start <= pixels) & (pixels < start + patch) for start in sorted(starts)]


def telling_pictures(model, run, images, count=3, among=8):
    """Choose images whose prediction hangs on one place: `count` correct and `count` wrong ones.

    They have the strongest `occlusion_map` out of `among` correct and as many wrong predictions
    whose confidence in the recorded `run` of `model` is nearest to 75 %. Returns indices into
    `images` and the maps: int (n,) and float (n, height, width).
    """
    predicted, confidence = run.probabilities.argmax(axis=1), run.probabilities.max(axis=1)
    order = np.argsort(abs(confidence - 0.75), kind="stable")  # surer: hardly any place matters
    correct = (predicted == run.labels)[order]
    shown, maps = [], []
    for candidates in (order[correct][:among], order[~correct][:among]):
        found = [(i, occlusion_map(model, images[i], predicted[i])) for i in candidates]
        found.sort(key=lambda pair: -pair[1].max())
        shown += [i for i, _ in found[:count]]
        maps += [heat for _, heat in found[:count]]
    return np.array(shown), np.array(maps)


def plot_occlusion(images, maps, titles, name):
    """Draw each of `images` beside itself in grey under its heat map, on a scale of its own.

    `images`: uint8 (n, 32, 32, 3); `maps`: float (n, 32, 32); `titles`: n texts; `name`: the
    model's. Returns the Axes, (2 n,): an image and its map in turn.
    """
    strongest = [100 * np.abs(heat).max() for heat in maps]
    scales = [f"red: falls by\nup to {top:.0f} points" for top in strongest]
    texts = [text for pair in zip(titles, scales, strict=True) for text in pair]
    heading = f"Where {name} looks: how far the predicted class falls if a place is covered"
    pairs = np.repeat(images, 2, axis=0)
    axes = plot_images(pairs, texts, columns=6, size=1.5, heading=heading)
    for ax, image, heat, top in zip(axes[1::2], images, maps, strongest, strict=True):
        ax.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
        share = 100 * heat / (top or 1)
        # What matters little stays grey.
        ax.imshow(share, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.9 * np.sqrt(np.abs(share)))
    return axes
