import dataclasses
import math

import pytest

from experiments.harness import Claim, at_least, each, verdict

CLAIM = Claim(
    "speed-up",
    sentence="It is faster.",
    source="Table 3",
    quantity="theirs / ours",
    unit="x",
    paper=3.1,
    criterion=at_least(2),
    obtained="measured",
    preset="paper",
)


@pytest.mark.parametrize(
    ("value", "preset", "outcome"),
    [
        (2, "paper", "reproduced"),
        (2, "gpu", "reproduced"),
        (1.9, "paper", "not reproduced"),
        (math.nan, "paper", "not reproduced"),
        (math.inf, "paper", "not reproduced"),
        (2, "smoke", "not run here"),
        (None, "paper", "not run here"),
    ],
)
def test_verdicts(value, preset, outcome):
    assert verdict(CLAIM, value, preset).outcome == outcome


def test_reasons_reach_the_reader():
    assert verdict(CLAIM, None, "gpu", "no peer").reason == "no peer"
    assert verdict(CLAIM, 2, "smoke").reason == "needs --preset paper"
    hopeless = dataclasses.replace(CLAIM, criterion=None, reason="needs a chip")
    assert verdict(hopeless, 9.0, "gpu") == ("not checkable here", "needs a chip")


def test_a_value_of_the_wrong_kind_names_the_claim():
    with pytest.raises(TypeError, match=r"speed-up.*each"):
        verdict(CLAIM, [2, 3], "paper")
    vector = dataclasses.replace(CLAIM, criterion=each(at_least(2)))
    assert verdict(vector, [2, 3], "paper").outcome == "reproduced"


@pytest.mark.parametrize(
    "change",
    [
        {"id": "Speed Up"},
        {"id": "../escape"},
        {"sentence": " "},
        {"source": ""},
        {"obtained": "guessed"},
        {"preset": "huge"},
        {"criterion": None},
        {"reason": " "},
        {"paper": math.nan},
    ],
)
def test_incomplete_claims_are_refused(change):
    with pytest.raises(ValueError, match="claim"):
        dataclasses.replace(CLAIM, **change)


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="smoke, paper, gpu"):
        verdict(CLAIM, 2, "tiny")
