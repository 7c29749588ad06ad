"""Decoding against a lossless video of odd size, written frame by frame."""

import sys
import wave

import numpy as np
import pytest

from experiments.assets import fixture_clip, frames, video

SIZE = (23, 37)
FILM = np.random.default_rng(1).integers(0, 256, (11, *SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("film") / "film.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=5)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "rgb24"
        for picture in FILM:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_frames_come_back_exactly(film):
    np.testing.assert_array_equal(frames(film, 100), FILM)


def test_start_and_step_choose_frames(film):
    np.testing.assert_array_equal(frames(film, 3, start=2, step=3), FILM[2:11:3])
    np.testing.assert_array_equal(frames(film, 2, start=1), FILM[1:3])
    np.testing.assert_array_equal(frames(film, 9, start=4, step=5), FILM[4::5])


def test_scaling_averages(film):
    small = frames(film, 2, height=9, width=11)
    assert small.shape == (2, 9, 11, 3)
    difference = small.astype(float).mean((1, 2)) - FILM[:2].astype(float).mean((1, 2))
    assert abs(difference).max() < 3
    assert frames(film, 1, width=11).shape == (1, SIZE[0], 11, 3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_frames": 0}, "max_frames must be at least 1, got 0"),
        ({"max_frames": 1, "start": -1}, "start must be at least 0, got -1"),
        ({"max_frames": 1, "step": 0}, "step must be at least 1, got 0"),
        ({"max_frames": 1, "height": 0}, "height must be at least 1, got 0"),
        ({"max_frames": 1, "width": -3}, "width must be at least 1, got -3"),
        ({"max_frames": 1, "start": 11}, "has no frame 11"),
    ],
)
def test_arguments_out_of_range_are_refused(film, arguments, match):
    with pytest.raises(ValueError, match=match):
        frames(film, **arguments)


def test_a_result_past_the_limit_is_refused(film, monkeypatch):
    monkeypatch.setattr(video, "DECODED_LIMIT", 3 * SIZE[0] * SIZE[1] * 3)
    assert len(frames(film, 3)) == 3
    with pytest.raises(ValueError, match=r"more than 3 frames .* lower max_frames"):
        frames(film, 4)


def test_files_that_are_no_video_are_refused(tmp_path):
    pytest.importorskip("av")
    with pytest.raises(FileNotFoundError):
        frames(tmp_path / "absent.mp4", 1)
    (tmp_path / "text.mp4").write_text("not a film " * 50)
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be decoded"):
        frames(tmp_path / "text.mp4", 1)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ValueError, match="has no video stream"):
        frames(tmp_path / "sound.wav", 1)


def test_a_truncated_video_is_good_up_to_the_damage(film, tmp_path):
    whole = film.read_bytes()
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(frames(tmp_path / "half.avi", 3), FILM[:3])
    with pytest.raises(ValueError, match=r"half\.avi cannot be decoded"):
        frames(tmp_path / "half.avi", 100)


def test_without_pyav_the_remedy_is_named_and_the_excerpt_loads(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match="needs PyAV: install"):
        frames(tmp_path / "x.mp4", 1)
    assert len(fixture_clip()) == 21


def test_an_unknown_clip_is_refused():
    with pytest.raises(ValueError, match="choose one of carphone_pristine"):
        video.clip("carfone")


def test_the_excerpt_is_a_moving_picture():
    clip = fixture_clip().astype(np.int16)
    assert clip.shape == (21, 72, 128, 3)
    steps = abs(np.diff(clip, axis=0)).mean((1, 2, 3))
    assert steps.mean() > 0.5  # something moves, though the animation holds some frames
    assert (steps < abs(clip[0] - clip[0, ::-1]).mean() / 4).all()  # but less than across a picture


def test_an_excerpt_of_another_shape_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", frames=np.zeros((21, 128, 72, 3), np.uint8))
    monkeypatch.setattr(video, "_FIXTURE", tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"expected uint8\(21, 72, 128, 3\)"):
        fixture_clip()
