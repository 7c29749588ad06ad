"""Entropy and mutual information of quantum transport, from two-point functions.

A model gives a single-particle Hamiltonian ``h``; the state is ``C[i, j] = <c_i^dag c_j>``.

1. ``qpc``, ``dot``, ``star``, ``hopping_chain``   leads and what joins them: ``h``; ``subsystems``
                         gives their masks
2. ``ground_corr``, ``thermal_corr``   where every lead starts; ``block_diag`` puts them together
3. ``evolve_eig``, ``evolve_driven``   ``C(t)``; ``evolve_noisy`` averages over a classical noise;
                         ``map_quenches`` spreads many quenches over devices
4. ``entropy``, ``mutual_information``, ``renyi``   of any region, exact for Gaussian states;
                         ``occupations`` and ``entanglement_spectrum`` are what they are made of
5. ``certificate``       bounds on the true entropy of any state, from ``C`` alone
6. ``charge_cumulants``, ``charge_distribution``, ``transfer_function``   what counting would see
7. ``kl_series``, ``song_series``, ``roots_estimator``   entropies from such counts
8. ``sample_occupations``, ``entropy_from_modes``, ``entropy_from_pairs``   finite shots, of the
                         region's modes or of its two-point functions, and intervals from them
9. ``levitov_rates``, ``dot_steady_state``   references for infinite leads
10. ``Interacting``      the exact reference with interactions, up to about 20 sites

hbar = k_B = 1, entropies in nats, double precision: call inside ``jax.enable_x64(True)``.
"""

from jaxlab.vne.batch import map_quenches
from jaxlab.vne.certificate import certificate
from jaxlab.vne.counting import (
    charge_cumulants,
    charge_distribution,
    generating_function,
    transfer_function,
)
from jaxlab.vne.driven import evolve_driven
from jaxlab.vne.entropy import entanglement_spectrum, entropy, mutual_information, renyi
from jaxlab.vne.evolution import evolve_eig
from jaxlab.vne.exact import Interacting
from jaxlab.vne.landauer import (
    contact_transmission,
    dot_green,
    dot_steady_state,
    dot_transmission,
    fermi,
    lead_surface,
    levitov_rates,
)
from jaxlab.vne.lattice import block_diag, box_disorder, dot, hopping_chain, qpc, star, subsystems
from jaxlab.vne.noise import evolve_noisy, telegraph_noise, white_noise
from jaxlab.vne.occupations import occupations
from jaxlab.vne.pairs import corr_from_pairs, entropy_from_pairs, pair_settings
from jaxlab.vne.sampling import Estimate, entropy_from_modes, jackknife, sample_occupations
from jaxlab.vne.series import (
    kl_series,
    roots_estimator,
    roots_occupations,
    song_extrapolated,
    song_series,
)
from jaxlab.vne.states import ground_corr, thermal_corr

__all__ = [
    "Estimate",
    "Interacting",
    "block_diag",
    "box_disorder",
    "certificate",
    "charge_cumulants",
    "charge_distribution",
    "contact_transmission",
    "corr_from_pairs",
    "dot",
    "dot_green",
    "dot_steady_state",
    "dot_transmission",
    "entanglement_spectrum",
    "entropy",
    "entropy_from_modes",
    "entropy_from_pairs",
    "evolve_driven",
    "evolve_eig",
    "evolve_noisy",
    "fermi",
    "generating_function",
    "ground_corr",
    "hopping_chain",
    "jackknife",
    "kl_series",
    "lead_surface",
    "levitov_rates",
    "map_quenches",
    "mutual_information",
    "occupations",
    "pair_settings",
    "qpc",
    "renyi",
    "roots_estimator",
    "roots_occupations",
    "sample_occupations",
    "song_extrapolated",
    "song_series",
    "star",
    "subsystems",
    "telegraph_noise",
    "thermal_corr",
    "transfer_function",
    "white_noise",
]
