"""Which Ulysses and ring degrees suit a layer's mask best."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from jaxlab.dbsp.cost import CostModel
from jaxlab.dbsp.plan import Plan


def select(
    work: Mapping[tuple[int, int], Int64[np.ndarray, "ulysses ring ring"]],
    cost_model: CostModel,
    *,
    plans: Mapping[tuple[int, int], Plan] | None = None,
    current: tuple[int, int] | None = None,
    switch_seconds: float = 0.0,
) -> tuple[tuple[int, int], float]:
    """Takes the degrees with the least predicted time.

    Args:
      work: for every candidate (U, R), its int64 ``[U, R, R]`` table under the plan made for it.
      cost_model: predicts the time.
      plans: those plans, for what leaves home; None if nothing does.
      current: degrees in use, which stay unless the gain exceeds ``switch_seconds``.
      switch_seconds: what changing the degrees costs, spread over the steps they are kept.

    Returns:
      (U, R) and the predicted time in seconds. Of equals, the first candidate.

    Raises:
      ValueError: no candidate, a table that is not of its degrees, candidates of different device
        counts, or a candidate without a plan where there are plans.

    Source: db-SP 4.3; the prediction is reconstructed, see ``docs/sources/dbsp.md``.

    Example:
      >>> from jaxlab.dbsp import Links
      >>> model = CostModel(1e-6, 0.0, Links(1e9, 0.0, 1e9, 0.0), tensor_bytes=1e3)
      >>> work = {(2, 1): np.array([[[30]], [[10]]]), (1, 2): np.array([[[9, 12], [10, 9]]])}
      >>> select(work, model)[0]
      (1, 2)
    """
    if not work:
        raise ValueError("select: there is no candidate.")
    if len({ulysses * ring for ulysses, ring in work}) > 1:
        raise ValueError(f"select: candidates {sorted(work)} need different numbers of devices.")
    predicted = {}
    for degrees, table in work.items():
        if table.shape != (*degrees, degrees[1]):
            raise ValueError(f"select: work[{degrees}] has shape {table.shape}, not of U, R, R.")
        if plans is not None and degrees not in plans:
            raise ValueError(f"select: plans has none for {degrees}.")
        predicted[degrees] = cost_model.predict(table, plans[degrees] if plans else None)
    chosen = min(predicted, key=predicted.__getitem__)
    if (
        current is not None
        and current in predicted
        and predicted[current] <= predicted[chosen] + switch_seconds
    ):
        chosen = current
    return chosen, predicted[chosen]
