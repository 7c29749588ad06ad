"""Labeled images in the IDX format: MNIST and Fashion-MNIST."""

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from experiments.assets.catalog import CATALOG
from experiments.assets.fetch import fetch


class LabeledImages(NamedTuple):
    """Gray images of 28 x 28 pixels in ten classes; the arrays are read-only."""

    train_images: UInt8[np.ndarray, "60000 28 28"]
    train_labels: UInt8[np.ndarray, "60000"]
    test_images: UInt8[np.ndarray, "10000 28 28"]
    test_labels: UInt8[np.ndarray, "10000"]


def mnist() -> LabeledImages:
    """Handwritten digits; a label is the digit.

    Returns:
      Train and test images (0 background, 255 ink) and labels 0..9.

    Raises:
      AssetUnavailable: the files are neither here nor to be had.
    """
    return _labeled_images("mnist", "")


def fashion_mnist() -> LabeledImages:
    """Pictures of clothes in ten classes, a harder stand-in for MNIST.

    Returns:
      Train and test images (0 background) and labels 0..9 (T-shirt, trouser, pullover, dress, coat,
      sandal, shirt, sneaker, bag, ankle boot).

    Raises:
      AssetUnavailable: the files are neither here nor to be had.
    """
    return _labeled_images("fashion-mnist", ".gz")


def _labeled_images(collection: str, suffix: str) -> LabeledImages:
    def read(part: str, *shape: int) -> np.ndarray:
        kind = f"{part}-{'images' if len(shape) == 3 else 'labels'}-idx{len(shape)}-ubyte{suffix}"
        return read_idx(fetch(CATALOG[f"{collection}/{kind}"]), shape)

    return LabeledImages(
        read("train", 60_000, 28, 28),
        read("train", 60_000),
        read("t10k", 10_000, 28, 28),
        read("t10k", 10_000),
    )


def read_idx(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Read a file of unsigned bytes in the IDX format, gzipped or not.

    The header is two zero bytes, the element type (8: unsigned byte), the number of axes, and each
    axis as a big-endian uint32; the elements follow in row-major order.

    Args:
      path: the file.
      shape: the shape that it must have; never more than this is read.

    Returns:
      A read-only array of that shape.

    Raises:
      ValueError: the header is not that of such a file, or the data is shorter or longer.
    """
    expected = b"\0\0\x08" + bytes([len(shape)]) + np.asarray(shape, ">u4").tobytes()
    count = math.prod(shape)
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            header = stream.read(len(expected))
            data = stream.read(count + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    if header != expected:
        raise ValueError(
            f"{path} starts with {header.hex()}, not with the header {expected.hex()} of an IDX "
            f"file of unsigned bytes of shape {shape}"
        )
    if len(data) != count:
        more = "more" if len(data) > count else f"{len(data)}"
        raise ValueError(f"{path} holds {more} bytes of data where shape {shape} needs {count}")
    return np.frombuffer(data, np.uint8).reshape(shape)
