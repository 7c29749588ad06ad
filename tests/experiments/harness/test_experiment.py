import dataclasses

import pytest

from experiments.harness import Checkout, Experiment, Missing, Result, Steps, Value, load
from tests.experiments.harness.toys import FAILING, TOY


def test_experiments_are_the_modules_of_the_folder(make_checkout):
    checkout = make_checkout(beta=TOY, alpha=FAILING, _hidden=FAILING, figures_beta="")
    assert checkout.names() == ["alpha", "beta"]
    assert checkout.title("alpha") == "Always fails"


def test_an_unknown_name_gets_the_nearest(make_checkout):
    checkout = make_checkout(blocksparse=TOY, crossbar=FAILING)
    with pytest.raises(ValueError, match=r"did you mean blocksparse\?"):
        load("blocksprse", checkout)
    with pytest.raises(ValueError, match="known: blocksparse, crossbar"):
        load("zzz", checkout)
    with pytest.raises(ValueError, match="no experiment"):
        load("../toys", checkout)


def test_a_module_becomes_an_experiment(checkout):
    toy = load("toy", checkout)
    assert toy.title == "Toys: counts <b>things</b> & compares them"
    assert toy.description.startswith("Run it:")
    assert toy.config("paper").size == 30
    assert [claim.id for claim in toy.claims] == ["count", "mean", "speed", "peer", "silicon"]
    result = toy.run(toy.config("smoke"), Steps())
    assert result["count"] == 3
    assert set(toy.draw(result)) == {"growth", "again"}
    with pytest.raises(ValueError, match="it has smoke, paper"):
        toy.config("gpu")


def test_this_repository_keeps_to_the_contract():
    checkout = Checkout()
    assert (checkout.folder / "harness").is_dir()
    for name in checkout.names():
        assert load(name, checkout).title == checkout.title(name)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("PRESETS = {", "OTHER = {", "does not define PRESETS"),
        ('"smoke": Config()', '"tiny": Config()', "'smoke' is required"),
        ("(frozen=True)", "", "frozen dataclass"),
        ("seed: int = 0", "start: int = 0", "needs a field 'seed"),
        ('Claim("mean"', 'Claim("count"', "'count' is used twice"),
        ("The mean is small.", "It is fast.", "'It is fast.' is used twice"),
        ("ASSUMPTIONS = ", 'REASONS = {"maen": "?"}\nASSUMPTIONS = ', "unknown claim 'maen'"),
        ('ASSUMPTIONS = ("Counting is <free>.",)', 'ASSUMPTIONS = "free"', "tuple of sentences"),
        ('"paper": Config(size=30)', '"paper": 3', "one frozen dataclass"),
        ('"""Toys:', 'X = """Toys:', "no docstring"),
    ],
)
def test_a_broken_contract_is_told(make_checkout, old, new, told):
    assert old in TOY
    checkout = make_checkout(toy=TOY.replace(old, new, 1))
    with pytest.raises((ValueError, TypeError), match=told):
        load("toy", checkout)


@pytest.fixture
def toy(checkout) -> Experiment:
    return load("toy", checkout)


def test_a_result_must_answer_what_its_preset_decides(toy):
    values = {"count": Value(3), "mean": Value(0.5), "peer": Missing("no peer")}
    toy.check(Result(values), "smoke")
    with pytest.raises(ValueError, match=r"no value for claim 'speed', which preset 'paper'"):
        toy.check(Result(values), "paper")
    with pytest.raises(ValueError, match="no value for claim 'mean'"):
        toy.check(Result({k: v for k, v in values.items() if k != "mean"}), "smoke")
    with pytest.raises(ValueError, match="did you mean 'count'"):
        toy.check(Result({**values, "counts": Value(3)}), "smoke")
    with pytest.raises(ValueError, match="obtained 'exact' but its value is timed"):
        toy.check(Result({**values, "count": Value(3, "timed")}), "smoke")
    with pytest.raises(TypeError, match="returned dict"):
        toy.check({"count": 3}, "smoke")


def test_a_run_that_could_not_take_place_answers_every_claim(toy):
    result = toy.all_missing("no clip")
    toy.check(result, "paper")
    assert {value.reason for value in result.values.values()} == {"no clip"}


def test_code_that_steps_run_is_what_their_place_depends_on(checkout):
    (checkout.folder / "workloads").mkdir()
    (checkout.folder / "results").mkdir()
    names = [path.name for path in checkout.sources("toy") if path.name != "__pycache__"]
    assert names == ["jaxlab", "toy.py", "workloads"]


def test_experiments_do_not_share_state(toy):
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy.config("smoke").size = 4
