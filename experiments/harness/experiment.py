"""What an experiment is: one plain module, found by listing the folder and checked on load."""

import ast
import dataclasses
import difflib
import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxlab
from experiments.harness.claim import PRESETS, Claim, Preset
from experiments.harness.result import Missing, Result, Value
from experiments.harness.steps import Steps


@dataclass(frozen=True)
class Checkout:
    """Where experiments, results and the README stand.

    Attributes:
      root: the repository.
      package: the import name of the folder of experiments under the root.
    """

    root: Path = Path(__file__).resolve().parents[2]
    package: str = "experiments"

    @property
    def folder(self) -> Path:
        """The folder of the experiment modules."""
        return self.root / self.package

    @property
    def results(self) -> Path:
        """The committed results."""
        return self.folder / "results"

    @property
    def runs(self) -> Path:
        """Results and stored steps of local runs, never committed."""
        return self.root / "runs"

    @property
    def report(self) -> Path:
        """Where the report page goes unless told otherwise."""
        return self.root / "report"

    @property
    def readme(self) -> Path:
        """The page that shows the scorecard."""
        return self.root / "README.md"

    def names(self) -> list[str]:
        """Names of all experiments, sorted."""
        return sorted(
            path.stem for path in self.folder.glob("*.py") if not path.stem.startswith("_")
        )

    def title(self, name: str) -> str:
        """First line of an experiment's docstring, read without importing it."""
        source = self.source(name).read_text(encoding="utf-8")
        return _title(ast.get_docstring(ast.parse(source)), name)

    def source(self, name: str) -> Path:
        """Path of an experiment's module.

        Raises:
          ValueError: for an unknown name, with the nearest known ones.
        """
        known = self.names()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"no experiment is called {name!r}: {hint if known else 'none exist'}")
        return self.folder / f"{name}.py"

    def sources(self, name: str) -> list[Path]:
        """Files and folders whose code the steps of an experiment may run."""
        readers = {"figures", "harness", "results"}
        shared = [path for path in self.folder.iterdir() if path.is_dir()]
        library = Path(jaxlab.__file__).parent
        return [library, self.source(name), *sorted(p for p in shared if p.name not in readers)]


@dataclass(frozen=True)
class Experiment:
    """A checked experiment module.

    Attributes:
      name: of the module.
      title: first line of its docstring.
      description: the rest of the docstring.
      presets: a config by preset; ``smoke`` always.
      claims: in the order of the scorecard.
      assumptions: what the modelled values rest on, one sentence each.
      run: maps a config and `Steps` to a `Result`.
      draw: maps a `Result` to figures by name; None where there are none.
      reasons: by claim id, why a committed run does not reproduce it, written after the run.
    """

    name: str
    title: str
    description: str
    presets: Mapping[Preset, Any]
    claims: tuple[Claim, ...]
    assumptions: tuple[str, ...]
    run: Callable[[Any, Steps], Result]
    draw: Callable[[Result], Mapping[str, Any]] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        where = f"experiment {self.name!r}"
        unknown = set(self.presets) - set(PRESETS)
        if unknown or "smoke" not in self.presets:
            raise ValueError(
                f"{where}: PRESETS has the keys {sorted(self.presets)}; "
                f"'smoke' is required, {', '.join(PRESETS)} are allowed"
            )
        config_types = {type(config) for config in self.presets.values()}
        for config_type in config_types:
            frozen = dataclasses.is_dataclass(config_type) and (
                config_type.__dataclass_params__.frozen
            )
            if not frozen or len(config_types) > 1:
                raise TypeError(f"{where}: PRESETS must hold instances of one frozen dataclass")
            if "seed" not in {f.name for f in dataclasses.fields(config_type)}:
                raise TypeError(f"{where}: Config needs a field 'seed: int = 0'")
        if isinstance(self.assumptions, str):
            raise TypeError(f"{where}: ASSUMPTIONS is one string: give a tuple of sentences")
        for label, words in (
            ("claim id", [claim.id for claim in self.claims]),
            ("sentence", [claim.sentence for claim in self.claims]),
        ):
            repeated = [word for word, count in Counter(words).items() if count > 1]
            if repeated:
                raise ValueError(f"{where}: the {label} {repeated[0]!r} is used twice")
        strange = sorted(set(self.reasons) - {claim.id for claim in self.claims})
        if strange:
            raise ValueError(f"{where}: REASONS explains the unknown claim {strange[0]!r}")

    def config(self, preset: Preset) -> Any:
        """The config of a preset.

        Raises:
          ValueError: when this experiment has no such preset.
        """
        if preset not in self.presets:
            raise ValueError(
                f"{self.name} has no preset {preset!r}: it has {', '.join(self.presets)}"
            )
        return self.presets[preset]

    def check(self, result: Result, preset: Preset) -> None:
        """Raise ValueError unless a result answers the claims that its preset decides."""
        where = f"experiment {self.name!r}"
        if not isinstance(result, Result):
            raise TypeError(f"{where}: run returned {type(result).__name__}, not a Result")
        claims = {claim.id: claim for claim in self.claims}
        for claim_id in result.values:
            if claim_id not in claims:
                near = difflib.get_close_matches(claim_id, claims, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "declare it in CLAIMS"
                raise ValueError(f"{where}: a value for the unknown claim {claim_id!r}: {hint}")
        for claim in self.claims:
            value = result.values.get(claim.id)
            decided = PRESETS.index(claim.preset) <= PRESETS.index(preset)
            if value is None and decided and claim.reason is None:
                raise ValueError(
                    f"{where}: no value for claim {claim.id!r}, which preset {preset!r} decides: "
                    "return a Value, or Missing(reason)"
                )
            if isinstance(value, Value) and claim.obtained == "exact" and value.kind == "timed":
                raise ValueError(
                    f"{where}: claim {claim.id!r} is obtained 'exact' but its value is timed"
                )

    def all_missing(self, reason: str) -> Result:
        """The result of a run that could not take place."""
        return Result(values={claim.id: Missing(reason) for claim in self.claims})


def load(name: str, checkout: Checkout | None = None) -> Experiment:
    """Import an experiment and check that it keeps to the contract.

    Args:
      name: of the module in the folder of experiments.
      checkout: where to look; this repository by default.

    Returns:
      The experiment.

    Raises:
      ValueError: for an unknown name or a broken contract.
      TypeError: when a required name is absent or of the wrong kind.
    """
    checkout = checkout or Checkout()
    checkout.source(name)
    module = importlib.import_module(f"{checkout.package}.{name}")
    absent = [key for key in ("PRESETS", "CLAIMS", "run") if not hasattr(module, key)]
    if absent:
        raise TypeError(f"experiment {name!r} does not define {', '.join(absent)}")
    return Experiment(
        name=name,
        title=_title(module.__doc__, name),
        description="\n".join((module.__doc__ or "").strip().splitlines()[1:]).strip(),
        presets=module.PRESETS,
        claims=tuple(module.CLAIMS),
        assumptions=getattr(module, "ASSUMPTIONS", ()),
        run=module.run,
        draw=_draw(name, checkout),
        reasons=getattr(module, "REASONS", {}),
    )


def _draw(name: str, checkout: Checkout) -> Callable[[Result], Mapping[str, Any]] | None:
    """The figures of an experiment; their module (and matplotlib) is imported when drawn."""
    if not (checkout.folder / "figures" / f"{name}.py").is_file():
        return None

    def draw(result: Result) -> Mapping[str, Any]:
        module: ModuleType = importlib.import_module(f"{checkout.package}.figures.{name}")
        return module.draw(result)

    return draw


def _title(docstring: str | None, name: str) -> str:
    lines = (docstring or "").strip().splitlines()
    if not lines:
        raise ValueError(f"experiment {name!r} has no docstring: its first line is the title")
    return lines[0].rstrip(".")
