"""The value of every claim of the transport experiment, from what its steps found."""

import numpy as np

from experiments.harness import Value
from experiments.workloads.transport_shots import IN_MODES
from experiments.workloads.transport_tables import (
    exponents,
    last_error,
    open_brackets,
    quench_helps,
    split_brackets,
    tightening,
)


def values(found: dict) -> dict[str, Value]:
    """Every value that the steps allow; claims whose steps were left out have none."""
    made = {**_free_values(found), **_shot_values(found), **_speed_values(found)}
    made |= _boundary_values(found) | _bulk_values(found)
    if found["brackets"]:
        made |= bracket_values(found["brackets"])
    if "netket" in found:
        made["hamiltonian-netket"] = Value(max(found["netket"].values()), "exact")
    if found["reached"]:
        made["bracket-reached"] = reached_value(found["reached"])
    return made


def reached_value(rows: list[dict]) -> Value:
    """Mean width reached over mean certified width; a search that failed adds zero, the least."""
    reached = sum(row["reached"] or 0.0 for row in rows)
    return Value(reached / sum(row["certified"] for row in rows), "deterministic", tolerance=1e-2)


def _free_values(found: dict) -> dict[str, Value]:
    series, rates, rows = found["series"], found["rates"], found["environment"]
    fractions = [row["fraction"] for row in rows]
    made = {
        "charge-statistics": Value(
            max(row["error"] for row in found["estimators"]), "deterministic", tolerance=1e-9
        ),
        "song-series": Value(
            abs(series["extrapolated"] / series["entropy"] - 1), "deterministic", tolerance=1e-6
        ),
        "contact-rates": Value(rate_errors(rates), "deterministic", tolerance=1e-6),
        "opening-slope": Value(found["opening"]["limit"], "deterministic", tolerance=1e-6),
        "environment-witness": Value(bool(np.all(np.diff(fractions) < 0)), "exact"),
        "environment-sum": Value(
            max(row["residual"] for row in rows), "deterministic", tolerance=1e-10
        ),
    }
    warm = [row for row in found["level"] if row["temperature"] >= found["warm"]]
    for name, column in (("current-information", "r_squared"), ("current-power", "power")):
        made[name] = Value(
            {f"T = {row['temperature']:g}": row[column] for row in warm},
            "deterministic",
            tolerance=1e-6,
        )
    if found["biased"]:
        made["contact-rates-biased"] = Value(
            rate_errors(found["biased"]), "deterministic", tolerance=1e-6
        )
    if "design" in found:
        made["inverse-design"] = Value(found["design"]["error"], "deterministic", tolerance=5e-3)
        made["inverse-design-drawn"] = Value(
            {row["curve"]: row["error"] for row in found["drawn"]}, "deterministic", tolerance=5e-3
        )
    return made


def rate_errors(rows: list[dict]) -> dict[str, float]:
    """Largest relative difference of each rate from its integral, over all contacts."""
    return {
        name: max(abs(row[name] / row[f"exact {name}"] - 1) for row in rows)
        for name in ("entropy", "charge", "variance")
    }


def _shot_values(found: dict) -> dict[str, Value]:
    rows = found["shots"]["rows"]
    made = {
        "shot-coverage": Value(
            [row["coverage"] for row in rows if row["estimator"] == IN_MODES],
            "deterministic",
            tolerance=0.02,
        ),
        "charge-coverage": Value(
            {
                f"{row['estimator']}, {row['shots']} shots": row["coverage"]
                for row in rows
                if row["estimator"] != IN_MODES
            },
            "deterministic",
            tolerance=0.02,
        ),
    }
    if found["inferred"]:
        made["environment-coupling"] = Value(
            max(row["error"] for row in found["inferred"]), "deterministic", tolerance=2e-3
        )
    for name, pure in (("pair-coverage", False), ("pair-coverage-pure", True)):
        covered = {
            f"{row['start']}, {row['shots a setting']} shots": row["coverage"]
            for row in found["pairs"]
            if row["pure"] == pure
        }
        if covered:
            made[name] = Value(covered, "deterministic", tolerance=0.02)
    return made


def _boundary_values(found: dict) -> dict[str, Value]:
    weak = {
        kind: [row for row in rows if row["strength"] <= 0.2]
        for kind, rows in {"contact": found["sweep"]["contact"], **found["dots"]}.items()
    }
    grown = {
        f"{kind}, {time}": power
        for kind, rows in weak.items()
        for time, power in exponents([row for row in rows if row["time"] in found["grown"]]).items()
    }
    noise = found["noise"][0]
    made = {
        "boundary-exponent": Value(exponents(weak["contact"]), "deterministic", 1e-3),
        "boundary-exponent-grown": Value(grown, "deterministic", 1e-3),
        "boundary-gap": Value(
            max(row["gap"] / row["exact"] for row in weak["contact"]),
            "deterministic",
            tolerance=1e-6,
        ),
        "noisy-bracket": Value(
            bool(
                noise["low"] - 1e-9 <= noise["exact"] <= noise["high"] + 1e-9
                and noise["corr_error"] <= 1e-10
            ),
            "exact",
        ),
    }
    if found["vanishing"]:
        made["boundary-exponent-limit"] = Value(
            {name: found["powers"][0][name] for name in exponents(found["vanishing"])},
            "deterministic",
            tolerance=5e-3,
        )
    return made


def _bulk_values(found: dict) -> dict[str, Value]:
    every = {found["lead"]: found["quenches"], **found["long"]}
    made = {
        "bulk-quench": Value(quench_helps(found["quenches"]), "exact"),
        "bulk-gap": Value(
            {f"{lead} sites": last_error(rows) for lead, rows in every.items()},
            "deterministic",
            tolerance=1e-4,
        ),
    }
    if found["weakened"]:
        late, always = weak_gaps(found["weakened"])
        made["bulk-gap-weak"] = Value(late, "deterministic", tolerance=1e-5)
        made["bulk-gap-weak-always"] = Value(always, "deterministic", tolerance=1e-5)
    if "chain" in found:
        peer, long = found["quimb"], {**found["long"], found["chain lead"]: found["chain"]}
        ratios = peer["ratios"]
        made |= {
            "bulk-quench-long": Value(
                {f"{lead} sites": quench_helps(rows) for lead, rows in long.items()}, "exact"
            ),
            "matrix-products": Value(peer["error"], "deterministic", tolerance=1e-5),
            "quimb-ratio": Value(
                float(np.median(ratios)), "timed", spread=(min(ratios), max(ratios))
            ),
        }
    return made


def weak_gaps(rows: list[dict]) -> tuple[dict[str, float], dict[str, float]]:
    """Largest (S_G - S) / S up to V = 0.2 by lead: as reflections return, and over all times."""
    late, always = {}, {}
    for lead in dict.fromkeys(row["lead"] for row in rows):
        some = [row for row in rows if row["lead"] == lead and row["strength"] <= 0.2]
        last = max(row["time"] for row in some)
        always[f"{lead} sites"] = max(row["gap / S"] for row in some)
        late[f"{lead} sites"] = max(row["gap / S"] for row in some if row["time"] == last)
    return late, always


def bracket_values(rows: list[dict]) -> dict[str, Value]:
    """Violations of both certificates, and the width that each saves."""
    broken = sum(
        not row[f"{given}low"] - 1e-9 <= row["exact"] <= row[f"{given}high"] + 1e-9
        for row in rows
        for given in ("", "number ")
    )
    parts = split_brackets(rows)
    saved = {
        "bracket-width": tightening(open_brackets(rows)),
        "bracket-pure": tightening(parts["pure, not clipped"]),
        "bracket-thermal": tightening(parts["thermal, not clipped"]),
        "bracket-number": tightening(parts["thermal, not clipped"], "number "),
    }
    return {"bracket-holds": Value(broken, "exact")} | {
        name: Value(found["saved"], "deterministic", tolerance=1e-4)
        for name, found in saved.items()
    }


def _speed_values(found: dict) -> dict[str, Value]:
    made = {"one-program": Value(found["compilations"]["programs"], "exact")}
    if "library" in found:
        spread = found["library"]["spread"]
        made |= {
            "library-calls": Value(
                found["library"]["ratio"], "timed", spread=(min(spread), max(spread))
            ),
            "large-memory": Value(found["memory"]["temp_bytes"] / 2**30, "deterministic", 0.5),
            "large-runs": Value(found["memory"]["finite"] and found["batch"]["finite"], "exact"),
        }
    if found.get("qutip"):
        made["qutip-ratio"] = Value(found["qutip"]["ratio"], "timed")
    return made
