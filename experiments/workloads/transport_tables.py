"""What the rows of the transport experiment add up to, and its tables."""

import itertools

import numpy as np

from experiments.harness import Table
from experiments.workloads.transport_shots import pair_shots_needed


def decay(rows: list[dict]) -> float:
    """Power of time with which the gap after ``off`` falls, from t = 1 on, at one strength."""
    times, gaps = np.array(
        [(r["time"], r["gap"]) for r in rows if r["quench"] == "off" and r["time"] >= 1]
    ).T
    return float(np.polyfit(np.log(times), np.log(gaps), 1)[0])


def exponents(rows: list[dict]) -> dict[str, float]:
    """Power of U with which the gap grows, at each time."""
    times = dict.fromkeys(row["time"] for row in rows)
    return {
        f"t={time:g}": float(
            np.polyfit(
                *np.log([(r["strength"], r["gap"]) for r in rows if r["time"] == time]).T, 1
            )[0]
        )
        for time in times
    }


def local_exponents(rows: list[dict]) -> list[dict]:
    """The same between neighboring strengths, one row for each pair."""
    strengths = sorted({row["strength"] for row in rows})
    return [
        {"from U": low, "to U": high}
        | exponents([row for row in rows if row["strength"] in (low, high)])
        for low, high in itertools.pairwise(strengths)
    ]


def quench_helps(rows: list[dict]) -> bool:
    """Whether the gap after ``off`` always falls, and lies below that of the other quenches."""
    helps = True
    for strength in dict.fromkeys(row["strength"] for row in rows):
        gaps = {
            kind: np.array(
                [r["gap"] for r in rows if (r["strength"], r["quench"]) == (strength, kind)]
            )
            for kind in dict.fromkeys(row["quench"] for row in rows)
        }
        off = gaps.pop("off")
        helps &= bool(
            (np.diff(off) < 0).all() and all((off < other).all() for other in gaps.values())
        )
    return helps


def last_error(rows: list[dict]) -> float:
    """Largest (S_G - S) / S after ``off`` at the last time."""
    last = max(row["time"] for row in rows)
    return max(
        row["gap"] / row["exact"] for row in rows if (row["quench"], row["time"]) == ("off", last)
    )


def tightening(rows: list[dict], given: str = "") -> dict[str, float | int]:
    """Mean widths of the plain and of the tightened bracket, and what is saved.

    ``given`` is ``"number "`` for the bracket that knows the number of particles to be definite.
    """
    plain = np.array([row["gaussian"] - max(0, row["gaussian"] - row["surplus"]) for row in rows])
    tight = np.array([row[f"{given}high"] - row[f"{given}low"] for row in rows])
    if not plain.size:
        return {"count": 0, "plain": 0.0, "tight": 0.0, "saved": 0.0}
    return {
        "count": len(rows),
        "plain": float(plain.mean()),
        "tight": float(tight.mean()),
        "saved": float(1 - tight.mean() / plain.mean()),
    }


def open_brackets(rows: list[dict]) -> list[dict]:
    """Instances of states that are not Gaussian, where zero does not clip the plain bound."""
    return [row for row in rows if 1e-6 < row["surplus"] <= row["gaussian"]]


def split_brackets(rows: list[dict]) -> dict[str, list[dict]]:
    """Instances by start, and by whether zero clips the plain lower bound; exact ones left out."""
    open_rows = [row for row in rows if row["surplus"] > 1e-6]
    return {
        f"{start}, {'clipped at zero' if clipped else 'not clipped'}": [
            row
            for row in open_rows
            if row["thermal"] == (start == "thermal")
            and (row["gaussian"] < row["surplus"]) == clipped
        ]
        for start in ("pure", "thermal")
        for clipped in (False, True)
    }


def tables(found: dict) -> tuple[Table, ...]:
    """Every table, from what the steps found."""
    made = [
        _table("Entropy from the zeros of the charge's polynomial", found["estimators"]),
        _table("Growth per time of a domain wall, beside Levitov's integrals", found["rates"]),
        _table("The same at a finite bias", found["biased"]),
        _table("Slope against ln t after opening a perfect contact", found["opening"]["rows"]),
        _table("An environment at the dot of a star", found["environment"]),
        _table("Environment couplings inferred from A and B", found["inferred"]),
        _table(
            "Mutual information of a resonant level against its current",
            [
                {name: row[name] for name in ("temperature", "r_squared", "power")}
                for row in found["level"]
            ],
            "R^2 of a line in the squared current, and the power of the current with which the "
            "information leaves its value without bias.",
        ),
        _table("Counting the twelve-site contact", found["shots"]["rows"]),
        _table(
            "Shots needed there for an error of 2 %",
            found["shots"]["needed"] + pair_shots_needed(found["pairs"]),
            "Shots of all settings together; the two-point functions of one region take a setting "
            "for each round of pairs, real and imaginary. Thermal starts have other entropies.",
        ),
        _table("Shots of the two-point functions of its left lead", found["pairs"]),
    ]
    if "drawn" in found:
        made.append(_table("Drives for drawn curves", [_plain(row) for row in found["drawn"]]))
    for kind, rows in found["sweep"].items():
        made.append(_table(f"Interaction on {kind} bonds, switched on", rows))
    made.append(_table("Local power of U of the gap, contact", found["powers"]))
    for kind, rows in found["dots"].items():
        made.append(_table(f"Interaction on a {kind} dot, switched on", rows))
    made.append(_table("Interaction in the leads, quenched", found["quenches"]))
    made.append(_table("Gap after `off` of weak interactions", found["weakened"]))
    for lead, rows in found["long"].items():
        made.append(_table(f"The same with leads of {lead} sites", rows))
    made.append(_table("The same by matrix products", found.get("chain", [])))
    made.append(_table("The same with half as many singular values", found.get("coarse", [])))
    made.append(_table("Decay of the gap after `off` with time", _decays(found)))
    made.append(_table("Telegraph noise on the contact", found["noise"]))
    if found["brackets"]:
        parts = split_brackets(found["brackets"])
        parts["all, not clipped"] = open_brackets(found["brackets"])
        rows = [
            {
                "instances": name,
                **tightening(part),
                "saved, definite number": tightening(part, "number ")["saved"],
            }
            for name, part in parts.items()
        ]
        made.append(_table("Certificates of random quenches", rows))
        made.append(reached_table(found["reached"]))
    return tuple(table for table in made if table.rows)


def reached_table(rows: list[dict]) -> Table:
    """Widths of brackets, and how many searches found no state."""
    failed = sum(row["reached"] is None for row in rows)
    return _table(
        "Widths that states with the same data reach",
        rows,
        f"{failed} of {len(rows)} searches met the data from no start: their widths are unknown, "
        "and count as zero in the mean.",
    )


def _plain(row: dict) -> dict:
    """What of a fitted drive goes into a table."""
    return {name: row[name] for name in ("curve", "error", "finite")}


def _decays(found: dict) -> list[dict]:
    leads = {**found["long"]}
    if "chain" in found:
        leads["matrix products"] = found["chain"]
    return [
        {
            "leads": lead,
            "strength": strength,
            "power of time": decay([row for row in rows if row["strength"] == strength]),
        }
        for lead, rows in leads.items()
        for strength in dict.fromkeys(row["strength"] for row in rows)
    ]


def _table(title: str, rows: list[dict], caption: str = "") -> Table:
    columns = tuple(rows[0]) if rows else ("nothing",)
    cells = tuple(tuple(row[name] for name in columns) for row in rows)
    return Table(title, columns, cells, caption)
