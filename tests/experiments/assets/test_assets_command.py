"""The command line: what it prints, and its exit status."""

import hashlib

import pytest

from experiments.assets import Asset, catalog, providers, select
from experiments.assets.__main__ import main
from experiments.assets.providers import ProviderError


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    """A catalog of two local assets, the first of which is there."""
    monkeypatch.setenv("JAXLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAXLAB_DATA", str(tmp_path))
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "a").write_bytes(b"aa")
    assets = [
        Asset(f"toys/{name}", hashlib.sha256(name.encode() * 2).hexdigest(), 2, "CC0")
        for name in "ba"
    ]
    monkeypatch.setattr(catalog, "CATALOG", {asset.name: asset for asset in assets})
    return tmp_path


def test_list_shows_every_asset_with_its_source(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for asset in catalog.CATALOG.values():
        assert asset.name in shown
        assert asset.license in shown
        assert asset.sources[0].archive.name in shown


def test_fetch_goes_on_after_a_failure(shelf, capsys):
    assert main(["fetch", "toys"]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"toys/a: {shelf / 'toys' / 'a'}\n"
    assert "asset toys/b is not available" in shown.err
    assert main(["fetch", "toys/a"]) == 0


def test_verify_tells_good_absent_and_damaged_apart(shelf, capsys):
    folder = shelf / "cache" / "data" / "toys"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"aa")
    assert main(["verify", "toys/a"]) == 0
    assert main(["verify"]) == 1
    missing = "toys/b: absent, not damaged: fetch it first"
    assert capsys.readouterr().out == f"toys/a: good\n{missing}\ntoys/a: good\n"
    (folder / "a").write_bytes(b"ab")
    assert main(["verify", "toys/a"]) == 1
    assert "toys/a: damaged" in capsys.readouterr().out


def test_verify_asks_no_provider(monkeypatch, tmp_path, capsys):
    def refuse(*_: object) -> None:
        raise ProviderError("asked")

    monkeypatch.setenv("JAXLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(providers, "CLIENTS", dict.fromkeys(("pip", "npm", "apt"), refuse))
    assert main(["verify", "mnist"]) == 1
    assert "asked" not in str(capsys.readouterr())


@pytest.mark.parametrize("arguments", [[], ["fetch"], ["fetch", "minst"], ["steal"]])
def test_a_wrong_command_line_ends_with_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "usage: python -m experiments.assets" in said
    assert ("did you mean mnist?" in said) == ("minst" in arguments)


def test_help_names_the_environment(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {"JAXLAB_CACHE", "JAXLAB_DATA"} <= set(capsys.readouterr().out.split())


def test_a_name_selects_an_asset_a_collection_or_all():
    assert [asset.name for asset in select("mnist/t10k-labels-idx1-ubyte")] == [
        "mnist/t10k-labels-idx1-ubyte"
    ]
    assert len(select("mnist")) == len(select("fashion-mnist")) == 4
    assert select("all") == tuple(catalog.CATALOG.values())
