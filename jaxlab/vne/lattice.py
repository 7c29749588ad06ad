"""Single-particle Hamiltonians: leads, contacts, dots, stars, disorder, magnetic phases."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Num

from jaxlab.vne.precision import ComplexMatrix, Scalar, in_double

Amplitude = int | float | complex | Sequence[int | float | complex] | Num[Array | np.ndarray, "..."]


def hopping_chain(
    sites: int, *, hopping: Amplitude = 1.0, onsite: Amplitude = 0.0, phase: Amplitude | None = None
) -> ComplexMatrix:
    """An open chain, ``h[x, x+1] = -hopping[x] exp(i phase[x])`` and ``h[x, x] = onsite[x]``.

    Args:
      sites: number of sites, at least 1.
      hopping: energy, one number or ``[sites - 1]``.
      onsite: energy, one number or ``[sites]``.
      phase: Peierls phases in radians, one number or ``[sites - 1]``; None for none.

    Returns:
      ``[sites, sites]`` Hermitian: float64 without phases, which keeps the eigensolver real and
      twice as fast, else complex128.

    Raises:
      TypeError: 64-bit mode is off.
      ValueError: a shape does not fit.

    Example:
      >>> import jax
      >>> with jax.enable_x64(True):
      ...     print(hopping_chain(3, hopping=[1.0, 0.5]))
      [[ 0.  -1.   0. ]
       [-1.   0.  -0.5]
       [ 0.  -0.5  0. ]]
    """
    _positive("hopping_chain", sites=sites)
    hopping, onsite = in_double("hopping_chain", hopping=hopping, onsite=onsite)
    hopping = _spread("hopping_chain", "hopping", hopping, sites - 1)
    onsite = _spread("hopping_chain", "onsite", onsite, sites)
    if phase is not None:
        (phase,) = in_double("hopping_chain", phase=phase)
        hopping = hopping * jnp.exp(1j * _spread("hopping_chain", "phase", phase, sites - 1))
    bonds = jnp.diag(-hopping, 1)
    return bonds + bonds.conj().T + jnp.diag(onsite)


def qpc(
    left: int,
    right: int,
    *,
    contact: Amplitude = 1.0,
    hopping: Scalar = 1.0,
    onsite: Amplitude = 0.0,
    phase: Amplitude | None = None,
) -> ComplexMatrix:
    """A quantum point contact: two chains, and one bond of another strength between them.

    Args:
      left: sites of the left lead; its last site touches the contact.
      right: sites of the right lead; its first site touches the contact.
      contact: tunneling amplitude J' between them; 0 closes the contact.
      hopping: hopping J of both leads.
      onsite: energy, one number or ``[left + right]``.
      phase: Peierls phases in radians, one number or ``[left + right - 1]``; None for none.

    Returns:
      ``[left + right, left + right]`` Hermitian, float64 or (with phases) complex128.

    Raises:
      TypeError: 64-bit mode is off.
      ValueError: a shape does not fit.
    """
    _positive("qpc", left=left, right=right)
    contact, hopping = in_double("qpc", contact=contact, hopping=hopping)
    bonds = jnp.full(left + right - 1, hopping, jnp.result_type(contact, hopping))
    bonds = bonds.at[left - 1].set(contact)
    return hopping_chain(left + right, hopping=bonds, onsite=onsite, phase=phase)


def dot(
    left: int,
    right: int,
    *,
    couplings: Amplitude = (1.0, 1.0),
    energy: Scalar = 0.0,
    hopping: Scalar = 1.0,
) -> ComplexMatrix:
    """A dot between two leads, in the order in which they stand: left lead, dot, right lead.

    Args:
      left: sites of the left lead.
      right: sites of the right lead.
      couplings: ``h[dot, next site] = -couplings[lead]``, of the left and of the right lead.
      energy: of the dot.
      hopping: hopping J of both leads.

    Returns:
      ``[left + 1 + right, left + 1 + right]`` Hermitian; the dot is site ``left``.

    Raises:
      TypeError: 64-bit mode is off.
      ValueError: a shape does not fit.
    """
    _positive("dot", left=left, right=right)
    couplings, energy, hopping = in_double(
        "dot", couplings=couplings, energy=energy, hopping=hopping
    )
    couplings = _spread("dot", "couplings", couplings, 2)
    bonds = jnp.full(left + right, hopping, jnp.result_type(couplings, hopping))
    bonds = bonds.at[left - 1].set(couplings[0].conj()).at[left].set(couplings[1])
    onsite = jnp.zeros(left + 1 + right).at[left].set(energy)
    return hopping_chain(left + 1 + right, hopping=bonds, onsite=onsite)


def star(
    leads: Sequence[int],
    couplings: Amplitude,
    *,
    energy: Scalar = 0.0,
    hopping: Scalar = 1.0,
    onsite: Amplitude = 0.0,
) -> ComplexMatrix:
    """A dot in the middle of any number of leads.

    Args:
      leads: sites of every lead.
      couplings: ``h[dot, first site] = -couplings[lead]``, one number or ``[leads]``.
      energy: of the dot.
      hopping: hopping J of all leads.
      onsite: energy of every lead's sites, one number or ``[leads]``.

    Returns:
      ``[1 + sum(leads), 1 + sum(leads)]`` Hermitian: the dot is site 0, then one lead after the
      other, each from the dot outward. ``subsystems(1, *leads)`` gives the masks.

    Raises:
      TypeError: 64-bit mode is off.
      ValueError: a shape does not fit.
    """
    if not leads:
        raise ValueError("star: leads is empty; give the sites of every lead, such as (40, 40).")
    for lead in leads:
        _positive("star", leads=lead)
    couplings, energy, hopping, onsite = in_double(
        "star", couplings=couplings, energy=energy, hopping=hopping, onsite=onsite
    )
    couplings = _spread("star", "couplings", couplings, len(leads))
    onsite = _spread("star", "onsite", onsite, len(leads))
    h = block_diag(
        jnp.reshape(energy, (1, 1)),
        *(
            hopping_chain(lead, hopping=hopping, onsite=shift)
            for lead, shift in zip(leads, onsite, strict=True)
        ),
    ).astype(jnp.result_type(couplings, hopping))
    first = 1 + np.cumsum((0, *leads[:-1]))
    return h.at[0, first].set(-couplings).at[first, 0].set(-couplings.conj())


def block_diag(*corrs: Num[Array | np.ndarray, "_ _"]) -> Inexact[Array, "total total"]:
    """Puts uncoupled subsystems side by side: correlation matrices or Hamiltonians.

    Args:
      *corrs: square matrices, one for every subsystem.

    Returns:
      The block-diagonal matrix, ``[L, L]`` with ``L`` the sum of the sizes.

    Raises:
      TypeError: 64-bit mode is off or an input is not in double precision.
      ValueError: there is no matrix or one is not square.
    """
    if not corrs:
        raise ValueError("block_diag: give one matrix or more.")
    blocks = in_double("block_diag", **{f"corrs[{n}]": corr for n, corr in enumerate(corrs)})
    for number, block in enumerate(blocks):
        if block.ndim != 2 or block.shape[0] != block.shape[1]:
            raise ValueError(f"block_diag: corrs[{number}] has shape {block.shape}, not square.")
    return jax.scipy.linalg.block_diag(*blocks)


def subsystems(*sizes: int) -> Bool[np.ndarray, "subsystems sites"]:
    """Masks of subsystems that stand one after the other.

    Args:
      *sizes: sites of every subsystem.

    Returns:
      bool ``[subsystems, sum(sizes)]``; add rows with ``|`` to join them.

    Example:
      >>> subsystems(1, 2)
      array([[ True, False, False],
             [False,  True,  True]])
    """
    return np.repeat(np.eye(len(sizes), dtype=bool), sizes, axis=1)


def box_disorder(key: Array, sites: int, width: Scalar) -> Float[Array, " sites"]:
    """Independent on-site energies, uniform in ``[-width / 2, width / 2]``.

    Args:
      key: of ``jax.random``.
      sites: how many.
      width: of the distribution, energy.

    Returns:
      float64 ``[sites]``.

    Raises:
      TypeError: 64-bit mode is off.
    """
    _positive("box_disorder", sites=sites)
    (width,) = in_double("box_disorder", width=width)
    return width * jax.random.uniform(key, (sites,), jnp.float64, -0.5, 0.5)


def _positive(function: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{function}: {name}={size!r} must be a positive int.")


def _spread(function: str, name: str, value: Array, length: int) -> Array:
    """One number for each of ``length`` places."""
    if value.shape not in ((), (length,)):
        raise ValueError(
            f"{function}: {name} has shape {value.shape}; give one number or ({length},) of them."
        )
    return jnp.broadcast_to(value, (length,))
