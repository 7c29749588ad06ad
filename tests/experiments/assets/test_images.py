"""The IDX reader against files packed by hand."""

import gzip
import struct

import numpy as np
import pytest

from experiments.assets.images import read_idx

SHAPE = (3, 5, 2)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
GOOD = struct.pack(">BBBBIII", 0, 0, 8, 3, *SHAPE) + PIXELS.tobytes()


def read(tmp_path, data, shape=SHAPE):
    (tmp_path / "x").write_bytes(data)
    return read_idx(tmp_path / "x", shape)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_elements_and_axes_keep_their_order(tmp_path, pack):
    np.testing.assert_array_equal(read(tmp_path, pack(GOOD)), PIXELS)
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 300) + bytes(range(250)) + bytes(50)
    assert read(tmp_path, pack(labels), (300,))[249] == 249


WRONG = {
    "empty": (b"", "starts with"),
    "header cut": (GOOD[:10], "starts with"),
    "floats": (b"\0\0\x0d" + GOOD[3:], "starts with"),
    "axes swapped": (struct.pack(">4B3I", 0, 0, 8, 3, 5, 3, 2) + PIXELS.tobytes(), "starts with"),
    "huge": (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**31, 2), "starts with"),
    "data cut": (GOOD[:-1], "holds 29 bytes"),
    "data over": (GOOD + b"\0", "holds more bytes"),
    "bomb": (gzip.compress(GOOD + bytes(10**6)), "holds more bytes"),
    "gzip cut": (gzip.compress(GOOD)[:-9], "is damaged"),
    "gzip checksum": (gzip.compress(GOOD)[:-8] + bytes(8), "is damaged"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused(tmp_path, kind):
    data, match = WRONG[kind]
    with pytest.raises(ValueError, match=match):
        read(tmp_path, data)
