"""Numbers computed independently of this package, and laws known in closed form."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from jaxlab.vne import (
    block_diag,
    charge_cumulants,
    charge_distribution,
    contact_transmission,
    dot,
    dot_green,
    dot_steady_state,
    dot_transmission,
    entropy,
    evolve_eig,
    fermi,
    ground_corr,
    hopping_chain,
    kl_series,
    lead_surface,
    levitov_rates,
    mutual_information,
    occupations,
    qpc,
    roots_estimator,
    song_extrapolated,
    song_series,
    star,
    subsystems,
    thermal_corr,
)
from jaxlab.vne.sampling import coin_entropy
from tests.vne.cases import Q12_LEFT, projector, q12, sine_kernel


@pytest.mark.parametrize(
    ("length", "fermi", "expected"),
    [
        (2, np.pi / 2, 0.9478932674675549),
        (10, np.pi / 2, 1.493424238190719),
        (100, np.pi / 2, 2.2611220298983),
        (400, np.pi / 2, 2.723221713192925),
        (100, np.pi / 4, 2.1455891601015926),
    ],
)
def test_block_of_the_infinite_chain(length, fermi, expected):
    assert float(entropy(sine_kernel(length, fermi))) == pytest.approx(expected, abs=1e-9)


def test_variance_of_a_block_follows_its_law():
    corr = sine_kernel(400)
    variance = float(charge_cumulants(corr, None, 2)[1])
    law = (np.log(800) + 1 + np.euler_gamma) / np.pi**2
    assert variance == pytest.approx(law, abs=2e-6)


@pytest.mark.parametrize(
    ("length", "expected"), [(100, 1.0136), pytest.param(800, 1.0104, marks=pytest.mark.slow)]
)
def test_variance_and_entropy_are_proportional_only_far_out(length, expected):
    ratio = np.pi**2 / 3 * float(charge_cumulants(sine_kernel(length), None, 2)[1])
    assert ratio / float(entropy(sine_kernel(length))) == pytest.approx(expected, abs=5e-5)


def test_entropy_of_a_block_follows_its_law():
    law = np.log(200) / 3 + 0.4950179
    assert float(entropy(sine_kernel(100))) == pytest.approx(law, abs=2e-6)


def q12_by_the_package(phase=None, contact=0.5):
    left, right = (ground_corr(hopping_chain(6, phase=phase), n) for n in (4, 2))
    return qpc(6, 6, contact=contact, phase=phase), block_diag(left, right)


@pytest.mark.parametrize("phase", [None, 0.7])
def test_contact_of_twelve_sites(phase):
    h, start = q12_by_the_package(phase)
    by_hand = q12(phase=phase)
    np.testing.assert_allclose(h, by_hand[0], atol=1e-14)
    np.testing.assert_allclose(start, by_hand[1], atol=1e-13)
    corrs = evolve_eig(h, start, np.array([1.0, 2.0, 4.0, 8.0]))
    found = [float(entropy(corr, Q12_LEFT)) for corr in corrs]
    np.testing.assert_allclose(found, [0.414627, 0.702681, 1.159721, 1.149831], atol=1e-6)
    z = np.asarray(occupations(corrs[1], Q12_LEFT, largest=6))
    np.testing.assert_allclose(
        z[:5], [3.05814e-5, 3.142872e-3, 0.697511428, 0.987329557, 0.999984692], atol=1e-9
    )
    assert 1 - z[5] == pytest.approx(1e-9, rel=0.5)
    rooted = roots_estimator(charge_distribution(corrs[1], Q12_LEFT))
    assert rooted == pytest.approx(found[1], abs=1e-9)


def test_naive_series_diverges_and_the_rearrangement_converges():
    cumulants = charge_cumulants(sine_kernel(100), None, 20)
    naive = [float(kl_series(cumulants, terms)) for terms in range(1, 7)]
    np.testing.assert_allclose(
        naive, [2.29184, 2.25223, 2.25351, 2.63258, -6.4515, 189.47], rtol=2e-5
    )
    song = [float(song_series(cumulants, order)) for order in (3, 5, 9, 15, 19)]
    np.testing.assert_allclose(song, [1.8944, 2.0328, 2.1326, 2.1844, 2.2009], atol=5e-5)
    assert np.all(np.diff(song) > 0)
    assert float(song_extrapolated(cumulants)) == pytest.approx(2.263, abs=5e-4)


STAR = {
    0.1: (3.71431885, 3.65887183, 0.74757202, 6.62561865, 0.80301904),
    0.3: (4.26853111, 4.00806839, 3.28121746, 4.99538203, 3.54168018),
    0.5: (4.60497287, 4.20502031, 4.91368305, 3.89631013, 5.31363560),
}


def star_at_20(coupling):
    h = star((60, 60, 60), (0.5, 0.5, coupling))
    lead = hopping_chain(60)
    start = block_diag(np.zeros((1, 1)), *(ground_corr(lead, n) for n in (40, 20, 30)))
    middle, a, b, e = subsystems(1, 60, 60, 60)
    return evolve_eig(h, start, np.array([20.0]))[0], middle | a, b, e


@pytest.mark.parametrize("coupling", STAR)
def test_star_with_an_environment(coupling):
    corr, a, b, e = star_at_20(coupling)
    found = [
        *(entropy(corr, region) for region in (a, b, e)),
        mutual_information(corr, a, b),
        mutual_information(corr, a, e),
    ]
    np.testing.assert_allclose([float(x) for x in found], STAR[coupling], atol=1e-8)
    assert float(found[3] + found[4] - 2 * found[0]) == pytest.approx(0, abs=1e-10)


def test_star_without_its_environment():
    corr, a, b, _ = star_at_20(0.0)
    assert float(entropy(corr, a)) == pytest.approx(3.57742874, abs=1e-8)
    assert float(mutual_information(corr, a, b)) == pytest.approx(2 * 3.57742874, abs=2e-8)


def rates_of_a_contact(contact, fillings, times, lead=400):
    """Growth of entropy, charge and its variance on the right between two times."""
    h = qpc(lead, lead, contact=contact)
    starts = [ground_corr(hopping_chain(lead), n) for n in fillings]
    right = np.arange(lead, 2 * lead)

    def measure(corr):
        return entropy(corr), charge_cumulants(corr, None, 2)

    found, charges = evolve_eig(h, block_diag(*starts), times, sites=right, measure=measure)
    grown = np.append(np.asarray(found)[:, None], np.asarray(charges), axis=1)
    return (grown[1] - grown[0]) / (times[1] - times[0])


@pytest.mark.parametrize(
    ("contact", "formula", "numerics"),
    [
        (0.8, (0.186224, 0.567533), (0.186115, 0.567493)),
        (0.5, (0.406953, 0.321891), (0.406933, 0.321887)),
        (0.25, (0.262467, 0.098602), (0.262462, 0.098602)),
    ],
)
@pytest.mark.slow
def test_domain_wall_grows_at_levitovs_rates(contact, formula, numerics):
    expected = levitov_rates(lambda e: contact_transmission(e, contact), (-2.0, 2.0))
    np.testing.assert_allclose([expected["entropy"], expected["charge"]], formula, atol=1e-6)
    found = rates_of_a_contact(contact, (400, 0), np.array([120.0, 160.0]))
    np.testing.assert_allclose(found[:2], numerics, atol=2e-6)
    np.testing.assert_allclose(
        found, [expected[key] for key in ("entropy", "charge", "variance")], rtol=1e-3
    )


def test_short_domain_walls_are_close_to_levitovs_rates():
    found = rates_of_a_contact(0.5, (40, 0), np.array([10.0, 30.0]), lead=40)
    np.testing.assert_allclose(found, [0.406953, 0.321891, 0.143486], rtol=0.003)
    assert found[0] <= 4 / (2 * np.pi) * np.log(2)  # one bit a channel, at a bias of 4


@pytest.mark.slow
def test_open_domain_wall_grows_like_a_logarithm():
    times = np.array([20.0, 40.0, 80.0, 160.0])
    start = np.diag(np.arange(800) < 400).astype(complex)
    found = evolve_eig(
        qpc(400, 400), start, times, sites=np.arange(400), measure=lambda c: entropy(c)
    )
    np.testing.assert_allclose(np.asarray(found) - np.log(times) / 6, 0.594, atol=0.004)
    charge = evolve_eig(
        qpc(400, 400),
        start,
        times[2:3],
        sites=np.arange(400, 800),
        measure=lambda c: jnp.trace(c).real,
    )
    assert float(charge[0]) / 80 == pytest.approx(2 / np.pi, abs=5e-6)


@pytest.mark.slow
def test_finite_bias():
    expected = levitov_rates(lambda e: contact_transmission(e, 0.5), (-0.5, 0.5))
    np.testing.assert_allclose(list(expected.values()), [0.104430, 0.101076, 0.036881], atol=1e-6)
    levels = np.linalg.eigvalsh(np.asarray(hopping_chain(400)))
    fillings = tuple(int((levels < mu).sum()) for mu in (0.5, -0.5))
    found = rates_of_a_contact(0.5, fillings, np.array([80.0, 160.0]))
    np.testing.assert_allclose(found, [0.104458, 0.100314, 0.036842], atol=1e-6)
    np.testing.assert_allclose(found, list(expected.values()), rtol=0.008)  # discrete levels


LEVEL = [
    (0.05, 0.3231355269, 0.0507356012, 1.04506944),
    (0.1, 0.3156373240, 0.0488856876, 0.88548466),
]


@pytest.mark.parametrize(("temperature", "occupation", "current", "shared"), LEVEL)
def test_resonant_level_of_infinite_leads(temperature, occupation, current, shared):
    steady = dot_steady_state((0.3, 0.3), 0.4, (0.5, -0.5), temperature)
    assert steady["occupation"] == pytest.approx(occupation, abs=1e-9)
    assert steady["current"] == pytest.approx(current, abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "occupation", "current", "shared"), LEVEL)
def test_resonant_level(temperature, occupation, current, shared):
    lead = hopping_chain(200)
    start = block_diag(
        thermal_corr(lead, 0.5, temperature),
        np.zeros((1, 1)),
        thermal_corr(lead, -0.5, temperature),
    )
    h = dot(200, 200, couplings=(0.3, 0.3), energy=0.4)
    corr = evolve_eig(h, start, np.array([60.0]))[0]
    assert float(corr[200, 200].real) == pytest.approx(occupation, abs=1e-9)
    # Particles per time over a bond: -2 Im(h[x, x+1] C[x, x+1]). What the dot still gains is half
    # of the difference of its two bonds, and not in their mean.
    bonds = -2 * (jnp.diagonal(h, 1) * jnp.diagonal(corr, 1)).imag
    assert float(bonds[199] + bonds[200]) / 2 == pytest.approx(current, abs=1e-10)
    assert float(bonds[199]) == pytest.approx(current, abs=1e-9)
    middle = np.arange(401) == 200
    assert float(mutual_information(corr, middle, ~middle)) == pytest.approx(shared, abs=1e-7)


def test_unequal_leads_of_a_dot():
    """Three leads on a lattice against the integrals, none like another."""
    couplings, mu, temperature, sizes = (0.5, 0.7, 0.4), (0.5, -0.3, 0.1), 0.3, (60, 70, 65)
    starts = [
        thermal_corr(hopping_chain(n), m, temperature) for n, m in zip(sizes, mu, strict=True)
    ]
    h = star(sizes, couplings, energy=0.2)
    (corr,) = evolve_eig(h, block_diag(np.zeros((1, 1)), *starts), np.array([30.0]))
    steady = dot_steady_state(couplings, 0.2, mu, temperature)
    assert float(corr[0, 0].real) == pytest.approx(steady["occupation"], abs=1e-5)
    # Out of the first lead, into the dot: -2 Im(h[x, 0] C[x, 0]) over the bond of its first site x.
    assert float(-2 * (h[1, 0] * corr[1, 0]).imag) == pytest.approx(steady["current"], abs=1e-5)


def test_transmission_of_a_dot_carries_its_current():
    couplings, level = (0.5, 0.3), 0.2
    cold = dot_steady_state(couplings, level, (0.4, 0.1), 0.0)
    rates = levitov_rates(lambda e: dot_transmission(e, couplings, level), (0.1, 0.4))
    assert rates["charge"] == pytest.approx(cold["current"], rel=1e-9)
    resonance = np.array(
        [level / (1 - 0.1**2)]
    )  # E = eps_d + 2 g^2 Re s(E), with s(E) = E / 2 + ..
    assert dot_transmission(resonance, (0.1, 0.1), level) == pytest.approx(1, abs=1e-12)


def by_quad(function, low, high, center, width):
    """Adaptive quadrature that is told where the line is."""
    near = {center + sign * width * many for many in (0, 1, 10, 100, 1000) for sign in (-1, 1)}
    edges = sorted({low, high, *(e for e in near if low < e < high)})
    return sum(
        scipy.integrate.quad(
            lambda e: float(function(np.array([e]))[0]),
            *pair,
            epsabs=1e-14,
            epsrel=1e-12,
            limit=400,
        )[0]
        for pair in itertools.pairwise(edges)
    )


@pytest.mark.parametrize("temperature", [0.0, 0.1])
@pytest.mark.parametrize("g", [0.001, 0.02, 0.05])
def test_narrow_lines_are_not_missed(g, temperature):
    """Weakly coupled dots: a line far narrower than the nodes of any fixed grid."""
    couplings, level, mu = (g, 1.3 * g), -0.7, (0.5, -0.9)
    shift = sum(c**2 for c in couplings)
    center, width = level / (1 - shift / 2), shift * (4 - level**2) ** 0.5 / 2

    def passed(energy):
        return dot_transmission(energy, couplings, level)

    def filled(energy):
        weights = np.array(couplings) ** 2 / shift
        mean = sum(w * fermi(energy, m, temperature) for w, m in zip(weights, mu, strict=True))
        return -dot_green(energy, couplings, level).imag * mean / np.pi

    steady = dot_steady_state(couplings, level, mu, temperature)
    parts = [(-2.0, -0.9), (-0.9, 0.5), (0.5, 2.0)]  # between the steps of the fillings
    occupation = sum(by_quad(filled, *part, center, width) for part in parts)
    assert steady["occupation"] == pytest.approx(occupation, rel=1e-9)
    current = sum(
        by_quad(
            lambda e: passed(e) * (fermi(e, mu[0], temperature) - fermi(e, mu[1], temperature)),
            *part,
            center,
            width,
        )
        for part in parts
    )
    assert steady["current"] == pytest.approx(current / (2 * np.pi), rel=1e-9)
    rates = levitov_rates(passed, (-0.9, 0.5))
    charge = by_quad(passed, -0.9, 0.5, center, width) / (2 * np.pi)
    assert rates["charge"] == pytest.approx(charge, rel=1e-9)
    entropy_rate = by_quad(lambda e: coin_entropy(passed(e)), -0.9, 0.5, center, width)
    assert rates["entropy"] == pytest.approx(entropy_rate / (2 * np.pi), rel=1e-9)


def test_weak_couplings_reach_the_wide_band():
    """The textbook formula, which is for g to 0, at the level that the leads have shifted."""
    g, level, mu = 0.003, 0.4, (0.4002, 0.3999)
    width, shifted = 2 * g**2 * (4 - level**2) ** 0.5, level / (1 - g**2)
    wide = 0.5 + np.arctan(2 * (np.array(mu) - shifted) / width).sum() / (2 * np.pi)
    found = dot_steady_state((g, g), level, mu, 0.0)["occupation"]
    assert found == pytest.approx(wide, abs=1e-5)
    assert abs(wide - 0.5) > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contact_transmission(np.array([0.0, 3.0]), 0.5), "band"),
        (lambda: contact_transmission(np.zeros(1), 0.0), "contact"),
        (lambda: lead_surface(np.array([3.0])), "band"),
        (lambda: dot_transmission(np.array([-2.5]), (0.3, 0.3), 0.0), "band"),
        (lambda: fermi(np.zeros(1), 0.0, -0.1), "temperature"),
        (lambda: dot_steady_state((0.3, 0.3), 0.0, (0.1, 0.0), -0.1), "temperature"),
        (lambda: dot_steady_state((0.3, 0.3), 0.0, (0.1,), 0.1), "one number a lead"),
        (lambda: levitov_rates(lambda e: 0 * e, (0.5, -0.5)), "ascending"),
        (lambda: dot_steady_state((1e-6, 1e-6), 0.3, (0.5, 0.0), 0.0), "narrow"),
    ],
)
def test_what_is_outside_the_formulas_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("couplings", "level"), [((0.3, 0.3), 2.5), ((1.0, 0.9), -0.5)])
def test_bound_states_have_no_steady_state(couplings, level):
    energies = np.linalg.eigvalsh(np.asarray(dot(80, 80, couplings=couplings, energy=level)))
    assert abs(energies).max() > 2.01  # the lattice has one
    with pytest.raises(ValueError, match="band"):
        dot_steady_state(couplings, level, (0.0, 0.0), 0.1)


@pytest.mark.slow
def test_zero_temperature_and_wide_bands_are_other_problems():
    """A sharp filling of 300 sites is 1 % off the infinite lead; the wide band is off by 10 %."""
    lead, g = hopping_chain(300), 0.3
    levels = np.linalg.eigvalsh(np.asarray(lead))
    starts = [ground_corr(lead, int((levels < mu).sum())) for mu in (0.5, -0.5)]
    start = block_diag(starts[0], np.zeros((1, 1)), starts[1])
    h = dot(300, 300, couplings=(g, g), energy=0.4)
    (corr,) = evolve_eig(h, start, np.array([60.0]), sites=np.array([300]))
    assert float(corr[0, 0].real) == pytest.approx(0.32596, abs=5e-6)
    for temperature in (0.0, 1e-4):
        cold = dot_steady_state((g, g), 0.4, (0.5, -0.5), temperature)["occupation"]
        assert cold == pytest.approx(0.329307, abs=1e-6)
    width = 2 * g**2
    wide = 0.5 + np.arctan(2 * (np.array([0.5, -0.5]) - 0.4) / (2 * width)).sum() / (2 * np.pi)
    assert wide == pytest.approx(0.3621, abs=5e-5)


def defect_charge(contact):
    """Eisler and Peschel's effective central charge of a contact at half filling."""
    s = 1 / np.cosh(np.log(contact))
    dilog = [scipy.special.spence(1 - x).real for x in (s, -s)]
    mixing = (1 + s) * np.log(1 + s) + (1 - s) * np.log(1 - s)
    return -6 / np.pi**2 * (mixing * np.log(s) + (1 + s) * dilog[1] + (1 - s) * dilog[0])


@pytest.mark.slow
def test_defect_lowers_the_central_charge():
    found = [
        float(entropy(ground_corr(qpc(n // 2, n // 2, contact=0.5), n // 2), np.arange(n) < n // 2))
        for n in (800, 1600)
    ]
    law = defect_charge(0.5)
    assert law == pytest.approx(0.713044, abs=1e-6)
    assert defect_charge(0.25) == pytest.approx(0.310618, abs=1e-6)
    slope = 6 * (found[1] - found[0]) / np.log(2)
    assert slope == pytest.approx(0.713621, abs=1e-6)
    assert slope == pytest.approx(law, abs=6e-4)


@pytest.mark.slow
def test_a_local_quench_grows_with_the_defect_charge():
    half, times = ground_corr(hopping_chain(400), 200), np.geomspace(40, 80, 5)
    found = evolve_eig(
        qpc(400, 400, contact=0.5),
        block_diag(half, half),
        times,
        sites=np.arange(400),
        measure=entropy,
    )
    slope = np.polyfit(np.log(times), np.asarray(found), 1)[0]
    assert 3 * slope == pytest.approx(0.66, abs=0.01)  # on its way to 0.713


@pytest.mark.slow
def test_random_gaussian_states_have_their_own_page_curve():
    rng = np.random.default_rng(0)
    for size, law in ((50, 27.8097), (100, 38.6294)):
        fraction = size / 200
        formula = size * (np.log(2) - 1 - (1 - fraction) / fraction * np.log(1 - fraction))
        assert formula == pytest.approx(law, abs=1e-4)
        found = [float(entropy(projector(rng, 200, 100), np.arange(200) < size)) for _ in range(4)]
        assert np.mean(found) == pytest.approx(law, abs=0.15)
    quarter = [float(entropy(projector(rng, 200, 50), np.arange(200) < 50)) for _ in range(12)]
    assert np.mean(quarter) == pytest.approx(21.28, abs=0.15)  # their spread is 0.22


@pytest.mark.slow
def test_entropy_grows_no_faster_than_one_bit_a_channel():
    times, bias = np.linspace(20.0, 60.0, 9), 1.0
    levels = np.linalg.eigvalsh(np.asarray(hopping_chain(100)))
    starts = [ground_corr(hopping_chain(100), int((levels < mu).sum())) for mu in (0.5, -0.5)]
    found = evolve_eig(
        qpc(100, 100, contact=0.5),
        block_diag(*starts),
        times,
        sites=np.arange(100),
        measure=entropy,
    )
    fastest = np.diff(np.asarray(found)).max() / (times[1] - times[0])
    assert 0.05 < fastest <= bias / (2 * np.pi) * np.log(2)
