"""Two-point functions from shots of mixed pairs: exact in the mean, honest in the interval."""

import itertools

import numpy as np
import pytest

from jaxlab.vne import corr_from_pairs, entropy, entropy_from_pairs, pair_settings
from jaxlab.vne.pairs import _maps
from tests.vne.cases import hermitian, mixed


@pytest.mark.parametrize("sites", [1, 2, 5, 6])
def test_settings_tell_the_whole_matrix(sites):
    settings = pair_settings(sites)
    assert len(settings) == 2 * sites - 1 + 2 * (sites % 2)
    for one in settings:
        np.testing.assert_allclose(one @ one.conj().T, np.eye(sites), atol=1e-14)
        assert (np.count_nonzero(one, axis=1) <= 2).all()
    corr = mixed(np.random.default_rng(0), sites)
    means = np.einsum("ska,ab,skb->sk", settings.conj(), corr, settings).real
    found = np.einsum("sabk,sk->ab", _maps(len(settings), sites), means)
    np.testing.assert_allclose(found, corr, atol=1e-12)


def shots(rng: np.random.Generator, corr: np.ndarray, count: int) -> np.ndarray:
    """Shots of a Gaussian state in every setting, by the minors of its correlation matrix."""
    patterns = np.array([*itertools.product((False, True), repeat=len(corr))])
    taken = []
    for one in pair_settings(len(corr)):
        seen, rest = one.conj() @ corr @ one.T, np.eye(len(corr))
        chances = [
            np.linalg.det(np.where(bits[:, None], seen, rest - seen)).real for bits in patterns
        ]
        taken.append(patterns[rng.choice(len(patterns), count, p=np.array(chances))])
    return np.array(taken)


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    _, modes = np.linalg.eigh(hermitian(rng, 3))
    corr = (modes * np.array([0.2, 0.45, 0.7])) @ modes.conj().T
    truth, hits, mended, plain = float(entropy(corr)), 0, [], []
    for _ in range(400):
        seen = shots(rng, corr, 60)
        estimate = entropy_from_pairs(seen)
        hits += estimate.low <= truth <= estimate.high
        mended.append(estimate.value - truth)
        z = np.clip(np.linalg.eigvalsh(corr_from_pairs(seen)), 1e-12, 1 - 1e-12)
        plain.append(-(z * np.log(z) + (1 - z) * np.log(1 - z)).sum() - truth)
    assert 0.92 <= hits / 400 <= 0.98
    assert abs(np.mean(mended)) < 0.5 * abs(np.mean(plain))


def test_refusals():
    with pytest.raises(ValueError, match="sites"):
        pair_settings(0)
    with pytest.raises(ValueError, match="settings"):
        entropy_from_pairs(np.zeros((4, 10, 2), bool))
    with pytest.raises(ValueError, match="settings"):
        corr_from_pairs(np.zeros((2, 3, 2), bool))
    with pytest.raises(ValueError, match="shots"):
        entropy_from_pairs(np.zeros((3, 1, 2), bool))
