"""Augmented copies, made once before training: two more images for every original, in seconds.

Every copy is one colour change and one affine warp with one bilinear interpolation. OpenCV's
`remap` draws a whole stack of images in one call; the coordinates it gets are integers (1/32 of a
pixel), because only then are its pixels the same on every processor and in releases 4 and 5.
`benchmarks/augmentation.py` has the measurements behind that choice.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from .errors import ParameterError
from .progress import progress_bar

SIDE = 32
STACK = 128  # images in one call of OpenCV: few calls, and what they work on stays in the cache
STEP_BITS = 5  # `remap` tells 32 positions between two pixels apart
FIXED_BITS = 16  # bits after the point in the arithmetic of the coordinates

# What `transform_images` accepts. Within it no source point lies more than one reflection away.
LIMITS = dict(
    flip=(0, 1),
    shift_x=(-8, 8),
    shift_y=(-8, 8),
    angle=(-180, 180),
    zoom=(0.75, 1.25),
    brightness=(-1, 1),
    contrast=(0, 2),
)
STRENGTH_LIMITS = dict(flip=1, shift=8, rotation=180, zoom=0.25, brightness=1, contrast=1)


def augmented_copies(
    images,
    labels,
    *,
    copies=2,
    seed=0,
    flip=0.5,  # most things look as natural mirrored; text and clocks are rare here
    shift=4,  # an eighth of the side, the customary pad-and-crop distance for CIFAR
    rotation=15.0,  # photographers tilt cameras this much; beyond, bottles start to lie down
    zoom=0.1,  # three pixels of 32: the object keeps its outline
    brightness=0.1,  # 25 of 255 grey levels: another exposure, with few pixels clipped
    contrast=0.2,  # hazy to sunny, with few pixels clipped
):
    """Returns the originals, untouched and in order, then copy 1 of every image, copy 2, and so on.

    `images` (N, 32, 32, 3) uint8 and `labels` (N,) give images (N·(1 + copies), 32, 32, 3) uint8
    and their labels. Each copy is flipped with probability `flip`, shifted by whole pixels up to
    `shift` along each axis, rotated by up to `rotation` degrees, enlarged by a factor within
    1 ± `zoom`; `brightness` (a fraction of the full scale) and `contrast` (a factor within
    1 ± `contrast`) change its colours: all uniform, see `transform_images`.

    What is drawn for an image depends on its pixels, the copy's number and `seed`, on nothing
    else: other images, their order and the number of threads do not matter. Raises
    `ParameterError` for wrong shapes, dtypes and strengths.
    """
    strengths = dict(
        flip=flip,
        shift=shift,
        rotation=rotation,
        zoom=zoom,
        brightness=brightness,
        contrast=contrast,
    )
    images, labels = _checked_images(images), np.asarray(labels)
    _check_copies(images, labels, copies, seed, strengths)
    count = len(images)
    result = np.empty((count * (1 + copies), SIDE, SIDE, 3), np.uint8)
    originals = result[:count]
    originals[...] = images
    content = _content_hash(originals)
    for copy in range(1, 1 + copies):
        drawn = _draw_parameters(content, seed, copy, strengths)
        out = result[copy * count : (copy + 1) * count]
        _transform_into(out, originals, drawn, f"copy {copy} of {copies}")
    return result, np.tile(labels, 1 + copies)


def transform_images(
    images,
    *,
    flip=False,
    shift_x=0.0,
    shift_y=0.0,
    angle=0.0,
    zoom=1.0,
    brightness=0.0,
    contrast=1.0,
):
    """Returns the images with the given transforms, each one number for all or one per image.

    `images` (N, 32, 32, 3) uint8, and so the result. First the colours, in float32, rounded to the
    nearest integer: mean + `contrast`·(value − mean) + 255·`brightness`, with the image's own mean.
    Then the geometry about the image's centre: mirrored if `flip`, enlarged by the factor `zoom`,
    turned counter-clockwise by `angle` degrees, moved right and down by `shift_x` and `shift_y`
    pixels; bilinear, coordinates rounded to 1/32 pixel. Beyond the border the image is reflected
    without repeating the edge (`np.pad`'s "reflect"). Flips and whole-pixel shifts are exact.
    Raises `ParameterError` for wrong shapes and dtypes and for values beyond `LIMITS`.
    """
    given = dict(
        flip=flip,
        shift_x=shift_x,
        shift_y=shift_y,
        angle=angle,
        zoom=zoom,
        brightness=brightness,
        contrast=contrast,
    )
    images = _checked_images(images)
    each = (len(images),)
    parameters = {
        name: np.broadcast_to(_checked_values(name, value, *LIMITS[name], each), each)
        for name, value in given.items()
    }
    result = np.empty(images.shape, np.uint8)
    _transform_into(result, images, parameters, "transforms")
    return result


def _checked_images(images):
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
        raise ParameterError(
            f"images must be uint8 of shape (N, {SIDE}, {SIDE}, 3), "
            f"not {images.dtype} of shape {images.shape}"
        )
    return images


def _check_copies(images, labels, copies, seed, strengths):
    if labels.shape != (len(images),):
        raise ParameterError(
            f"labels must have one entry per image, shape ({len(images)},), not {labels.shape}"
        )
    for name, value in (("copies", copies), ("seed", seed), ("shift", strengths["shift"])):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ParameterError(f"{name} must be a whole number, 0 or more, not {value!r}")
    for name, value in strengths.items():
        _checked_values(name, value, 0, STRENGTH_LIMITS[name])


def _checked_values(name, value, low, high, shape=()):
    try:
        values = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} must be a number, not {value!r}") from None
    if values.shape not in ((), shape):
        raise ParameterError(
            f"{name} must be one number{' or one per image' if shape else ''}, "
            f"not an array of shape {values.shape}"
        )
    if not np.all((values >= low) & (values <= high)):  # NaN fails as well
        raise ParameterError(f"{name} must lie between {low} and {high}, not {value!r}")
    return values


def _draw_parameters(content, seed, copy, strengths):
    stream = np.random.SeedSequence((seed, copy)).generate_state(1, np.uint64)
    keys = _mix(content ^ stream)
    fractions = iter(_uniform(keys, 7))

    def symmetric(strength):
        return (2 * next(fractions) - 1) * strength

    def whole(strength):
        return np.floor(next(fractions) * (2 * strength + 1)) - strength

    return {
        "flip": next(fractions) < strengths["flip"],
        "shift_x": whole(strengths["shift"]),
        "shift_y": whole(strengths["shift"]),
        "angle": symmetric(strengths["rotation"]),
        "zoom": 1 + symmetric(strengths["zoom"]),
        "brightness": symmetric(strengths["brightness"]),
        "contrast": 1 + symmetric(strengths["contrast"]),
    }


GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(keys):
    """SplitMix64's finaliser: uint64 to well-spread uint64 (Steele et al., OOPSLA 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _uniform(keys, draws):
    """SplitMix64 as a counter-based generator: `draws` fractions in [0, 1) for every key."""
    counters = np.arange(1, 1 + draws, dtype=np.uint64)[:, None] * GOLDEN
    return (_mix(keys + counters) >> np.uint64(11)) * 2.0**-53


def _content_hash(images):
    """A uint64 for every image: its bytes, as 64-bit words, times fixed odd multipliers, summed."""
    words = images.reshape(len(images), SIDE * SIDE * 3).view("<u8")
    multipliers = _mix(np.arange(1, 1 + words.shape[1], dtype=np.uint64) * GOLDEN) | np.uint64(1)
    return words @ multipliers


def _transform_into(out, images, parameters, description):
    matrices = _inverse_matrices(parameters)
    gain, offset = parameters["contrast"], 255 * parameters["brightness"]
    starts = range(0, len(images), STACK)

    def draw(start):
        part = slice(start, start + STACK)
        source = _recoloured(images[part], gain[part], offset[part])
        _warp_into(out[part], source, matrices[:, :, part])
        return len(source)

    bar = progress_bar(len(images), description, unit="image", delay=0.5)
    # NumPy and OpenCV let other threads run while they compute.
    with bar, ThreadPoolExecutor(cv2.getNumberOfCPUs()) as pool:
        for done in pool.map(draw, starts):
            bar.update(done)


def _inverse_matrices(parameters):
    """(2, 3, N) int32: where in the source, x and y, a result's point (x, y, 1) comes from."""
    angle = np.deg2rad(parameters["angle"])
    across, along = np.cos(angle) / parameters["zoom"], np.sin(angle) / parameters["zoom"]
    mirror = np.where(parameters["flip"], -1.0, 1.0)
    linear = np.array([[mirror * across, -mirror * along], [along, across]])
    centre = (SIDE - 1) / 2
    moved = np.array([centre + parameters["shift_x"], centre + parameters["shift_y"]])
    constant = centre - (linear * moved).sum(axis=1)
    # Half a step more, since the conversion to steps rounds down.
    exact = np.concatenate([linear, constant[:, None]], axis=1) * (1 << FIXED_BITS)
    exact[:, 2] += 1 << (FIXED_BITS - STEP_BITS - 1)
    return np.rint(exact).astype(np.int32)


def _recoloured(images, gain, offset):
    values = images.reshape(len(images), -1)
    # The mean of whole numbers summed as such is exact, whatever the order of the additions.
    offset = values.sum(axis=1, dtype=np.uint32) / values.shape[1] * (1 - gain) + offset
    values = np.multiply(values, gain[:, None].astype(np.float32), dtype=np.float32)
    values += offset[:, None].astype(np.float32)
    np.rint(values, out=values)
    np.clip(values, 0, 255, out=values)
    return values.astype(np.uint8).reshape(images.shape)


def _warp_into(out, images, matrices):
    grid = np.arange(SIDE, dtype=np.int32)
    matrices = matrices[..., None, None]
    steps = matrices[:, 0] * grid + matrices[:, 2] + matrices[:, 1] * grid[:, None]
    steps >>= FIXED_BITS - STEP_BITS
    steps = steps.astype(np.int16)  # (x and y, image, row, column)
    last = (SIDE - 1) << STEP_BITS
    for _ in range(2):  # reflected at the first pixel, then, seen from behind, at the last
        np.subtract(last, np.abs(steps, out=steps), out=steps)
    height = len(images) * SIDE
    x, y = steps.reshape(2, height, SIDE)
    below = (1 << STEP_BITS) - 1
    fractions = (x & below) | (y & below) << STEP_BITS
    steps >>= STEP_BITS
    # OpenCV sees one tall picture. No image bleeds into the next: at its last row and column the
    # neighbour beyond has weight zero.
    steps[1] += SIDE * np.arange(len(images), dtype=np.int16)[:, None, None]
    cv2.remap(
        images.reshape(height, SIDE, 3),
        cv2.merge((x, y)),
        fractions.view(np.uint16),
        cv2.INTER_LINEAR,
        dst=out.reshape(height, SIDE, 3),
        borderMode=cv2.BORDER_REPLICATE,
    )
