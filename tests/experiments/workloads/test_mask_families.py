"""Families of masks: drawn by seed, layer and step, and hostile where they claim to be."""

import numpy as np
import pytest

from experiments.workloads.mask_families import FAMILIES, PERIOD, TEXT_BLOCKS, family_mask
from jaxlab.dbsp import imbalance_ratio, plan, work_table


def draw(family, **arguments):
    return family_mask(family, **{"seed": 3, "n": 64, "heads": 8, **arguments})


def ratio(mask, blocks, ring=8):
    placed = plan(mask, ulysses=1, ring=ring, heads="none", blocks=blocks)
    return imbalance_ratio(work_table(mask, placed))


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_repeat_and_are_sparse(family):
    mask = draw(family)
    assert mask.shape == (8, 64, 64)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, draw(family))
    assert 0.05 < mask.mean() < 0.8
    assert mask.any(2).all()
    assert (mask != draw(family, seed=4)).any()


@pytest.mark.parametrize("family", ["gen", "gen+text", "periodic", "radial-var", "sta", "svg-orig"])
def test_layers_differ(family):
    assert (draw(family, layer=0) != draw(family, layer=1)).any()


@pytest.mark.parametrize("family", ["gen", "gen+text", "periodic"])
def test_steps_drift_slowly(family):
    first, second, late = (draw(family, step=step) for step in (0, 1, 6))
    assert 0 < (first != second).mean() < (first != late).mean() < 0.3


def test_bands_widen_with_the_steps():
    for family in ("svg-orig", "svg-reord"):
        early, late = draw(family, step=0), draw(family, step=6)
        assert late.sum() > early.sum()
        assert (late | early == late).all()


def test_text_is_dense():
    mask = draw("gen+text")
    assert mask[:, -TEXT_BLOCKS:].all()
    assert mask[:, :, -TEXT_BLOCKS:].all()


def test_periodic_masks_defeat_striping():
    mask = draw("periodic")
    full = mask[:, ::PERIOD].all((1, 2))
    assert 0 < full.sum() < 8
    assert ratio(mask, "striped") > ratio(mask, "none") > 1


def test_reordered_heads_are_all_alike():
    mask = draw("svg-reord")
    assert (mask == mask[:1]).all()
    assert ratio(mask, "none") > 1.3


def test_unknown_families_are_named():
    with pytest.raises(ValueError, match="family must be"):
        draw("noise")
    with pytest.raises(ValueError, match="n one of"):
        draw("gen", n=100)
