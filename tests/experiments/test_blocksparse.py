"""The experiment's own arithmetic, on inputs small enough to count by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import blocksparse
from experiments.assets import AssetUnavailable
from experiments.figures.blocksparse import draw
from experiments.harness import Result, Steps
from experiments.workloads import attention_timing
from experiments.workloads.video_window import Window
from jaxlab.measure import TimeRatio

SMOKE = blocksparse.PRESETS["smoke"]


def test_the_window_slides_by_one_token():
    window = SMOKE.window
    video = window.video("fixture")
    key = jax.random.key(0)
    later = window.inputs(video, 1, key=key, heads=2, dim=8)
    moved = window.inputs(video[window.patch[0] :], 0, key=key, heads=2, dim=8)
    for one, other in zip(later, moved, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.allclose(later[0], window.inputs(video, 0, key=key, heads=2, dim=8)[0])


def test_rates_are_operations_over_time(monkeypatch):
    seconds = {"matmul": 2.0, "dense": 30.0, 0.2: (3.0, 5.0), 0.5: (3.5, 7.0), 1.0: (4.0, 10.0)}

    def timed(*functions, rounds):
        order = [y for x in seconds.values() for y in (x if isinstance(x, tuple) else (x,))]
        assert len(functions) == len(order)
        names = tuple(str(place) for place in range(len(order)))
        return TimeRatio(names, np.tile(order, (rounds, 1)), (1,) * len(order))

    monkeypatch.setattr(attention_timing, "time_ratio", timed)
    timing = attention_timing.Timing(
        tokens=64, heads=1, dim=4, densities=(0.2, 0.5, 1.0), matmul_size=16, rounds=3
    )
    found = attention_timing.speed(timing, (16, 8), 0)
    full = found["rows"][2]
    product = 2 * 16**3 / 2.0  # operations a second
    assert full["active"] == 4 * 8
    assert full["forward"] == pytest.approx(4 * 64 * 64 * 4 / 4.0 / product)
    assert full["backward"] == pytest.approx(10 * 64 * 64 * 4 / 10.0 / product)
    assert found["dense_speedup"] == pytest.approx(10)
    assert full["forward_spread"] == pytest.approx([full["forward"]] * 2)
    assert full["dense_speedup"] == pytest.approx(30 / 4)
    assert found["matmul_seconds"] == 2


def test_a_run_without_clips_still_draws():
    speeds = [
        {
            "blocks": "64x64",
            "dense_seconds": 1.0,
            "rows": [{"density": d, "forward_seconds": d, "backward_seconds": d} for d in (0.2, 1)],
        }
    ]
    result = Result({}, facts={"windows": [], "speed": speeds})
    assert list(draw(result)) == ["time"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 12}, "heads=12 do not divide over devices=8"),
        ({"devices": 0}, "devices=0"),
        ({"clips": ("nothere",)}, "'nothere' is unknown"),
        ({"layers": 0}, "layers=0"),
    ],
)
def test_bad_configs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)


@pytest.mark.parametrize("densities", [(0.5, 0.7, 1.0), (0.2, 1.0), (0.2, 0.5, 1.5)])
def test_bad_timings_are_refused(densities):
    with pytest.raises(ValueError, match="densities"):
        attention_timing.Timing(densities=densities)


def test_random_masks_have_the_density_asked_for():
    timing = attention_timing.Timing(tokens=4100, heads=3)
    mask = attention_timing.random_mask(np.random.default_rng(0), timing, (128, 64), 0.4)
    assert mask.density() == pytest.approx(0.4, abs=0.02)
    by_head = mask.head_counts() / mask.blocks[0].size
    assert by_head[2] > 2 * by_head[0]
    full = attention_timing.random_mask(np.random.default_rng(0), timing, (64, 64), 1.0)
    assert full.density() == 1


def test_how_straight_a_line_is():
    straight = attention_timing.line([1, 2, 7], [5, 7, 17])
    assert straight["r_squared"] == pytest.approx(1)
    assert straight["worst_residual"] == pytest.approx(0, abs=1e-12)
    assert straight["constant"] == pytest.approx(3 / 17)
    bent = attention_timing.line([1, 2, 7], [5, 16, 17])
    assert bent["r_squared"] < 0.9
    slope, constant = np.polyfit([1, 2, 7], [5, 16, 17], 1)
    assert bent["worst_residual"] == pytest.approx(abs(5 - slope - constant) / 5)


def test_skipping_without_its_clip_is_not_measured_on_another(monkeypatch):
    class Gone(AssetUnavailable):
        def __init__(self):
            Exception.__init__(self, "no provider has it")

    def video(self, name):
        if name != "fixture":
            raise Gone
        raise AssertionError("measured on the fixture instead")

    monkeypatch.setattr(Window, "video", video)
    with pytest.raises(Gone):
        blocksparse.skipping(dataclasses.replace(SMOKE, clips=("carphone_pristine",)))


def test_the_worst_figure_comes_with_its_own_spread():
    rows = [{"x": 2.0, "s": (1.5, 2.5)}, {"x": 1.0, "s": (0.5, 1.25)}, {"x": 3.0, "s": (3, 3)}]
    worst = blocksparse._worst(rows, "x", "s")
    assert (worst.value, worst.spread) == (1.0, (0.5, 1.25))


def test_a_clip_too_short_for_the_window_is_refused():
    window = dataclasses.replace(SMOKE.window, steps=9)
    with pytest.raises(ValueError, match="the window needs 32 frames"):
        window.video("fixture")


KERNEL = dataclasses.replace(
    SMOKE, timing=dataclasses.replace(SMOKE.timing, tokens=256, dtype="bfloat16")
)


def test_a_gpu_that_is_not_the_kernels_is_no_failure(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # whose capability is unknown
    monkeypatch.setattr(blocksparse, "kernel_beside_cudnn", None)
    values = blocksparse._gpu_values(KERNEL, Steps())
    assert values.keys() == {"gpu-rate", "gpu-affine"}
    assert all("need a Hopper GPU" in missing.reason for missing in values.values())


def test_gpu_rows_tell_the_worst_block_shape(monkeypatch):
    timed = {64: {"rate": 0.7, "line": {"r_squared": 0.95}}}
    timed[128] = {"rate": 0.5, "line": {"r_squared": 0.99}}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(blocksparse, "missing_for_kernel", lambda *_: None)
    monkeypatch.setattr(blocksparse, "kernel_beside_cudnn", lambda _, shape, seed: timed[shape[0]])
    both = dataclasses.replace(KERNEL.timing, blocks=((64, 64), (128, 64)))
    values = blocksparse._gpu_values(dataclasses.replace(KERNEL, timing=both), Steps())
    assert {name: value.value for name, value in values.items()} == {
        "gpu-rate": 0.5,
        "gpu-affine": 0.95,
    }


def test_gpu_rows_time_the_kernel_and_no_fallback(monkeypatch):
    chosen = []

    def attend(q, k, v, mask, implementation=None):
        chosen.append(implementation)
        return q

    def timed(dense, *ours, rounds):
        for function in ours:
            function()
        seconds = [2.0, 1.0, 2.0, 4.0]  # cuDNN, then densities 0.2, 0.5 and 1.0
        return TimeRatio(tuple("0123"), np.tile(seconds, (rounds, 1)), (1,) * 4)

    monkeypatch.setattr(attention_timing, "block_sparse_attention", attend)
    monkeypatch.setattr(attention_timing, "time_ratio", timed)
    found = attention_timing.kernel_beside_cudnn(KERNEL.timing, (64, 64), 0)
    assert set(chosen) == {"pallas"}
    assert found["rate"] == pytest.approx(0.5)
    assert found["line"]["r_squared"] > 0.9
