"""The clients are called as meant, and their failures become clear errors."""

import importlib.util
import os
import shutil
import sys

import pytest

from experiments.assets import Archive, providers
from experiments.assets.providers import ProviderError, download

PATH = os.environ["PATH"]


def archive(provider: str) -> Archive:
    return Archive(provider, "toy", "1.2", "toy.tgz", "0" * 64, 10)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is the whole PATH; `add` writes a shell script into it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("UV", raising=False)

    def add(name: str, body: str) -> str:
        script = folder / name
        script.write_text(f"#!{shutil.which('sh', path=PATH)}\nPATH={PATH}\n{body}\n")
        script.chmod(0o755)
        return str(script)

    return add


def test_npm_is_asked_for_the_exact_version_and_runs_no_script(programs, tmp_path):
    programs("npm", 'echo "$@" > toy-1.2.tgz')
    download(archive("npm"), tmp_path / "out")
    words = (tmp_path / "out").read_text().split()
    assert words[0] == "pack"
    assert words[-1] == "toy@1.2"
    assert "--ignore-scripts" in words


def test_apt_is_asked_for_the_exact_version(programs, tmp_path):
    programs("apt-get", 'echo "$@" > toy_1%3a2.deb')
    download(archive("apt"), tmp_path / "out")
    words = (tmp_path / "out").read_text().split()
    assert words[-2:] == ["download", "toy=1.2"]


@pytest.mark.parametrize("place", ["own", "environment", "uv"])
def test_pip_is_found_and_takes_no_dependencies(programs, tmp_path, monkeypatch, place):
    pip = programs("python", 'case "$*" in *venv*) exit 3;; esac; echo "$@" > toy.whl')
    maker = f'mkdir -p "$3/bin"; cp {pip} "$3/bin/python"'
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: place == "own" or None)
    monkeypatch.setattr(
        sys, "executable", programs("maker", maker) if place == "environment" else pip
    )
    if place == "uv":
        programs("uv", 'echo "$@" > toy.whl')
    download(archive("pip"), tmp_path / "out")
    words = (tmp_path / "out").read_text().split()
    start = ["tool", "run", "pip"] if place == "uv" else ["-m", "pip"]
    assert words[: len(start) + 1] == [*start, "download"]
    assert {"--no-deps", "--only-binary=:all:", "toy==1.2"} <= set(words)


def test_without_any_pip_the_error_says_what_was_tried(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", programs("python", "echo no ensurepip >&2; exit 1"))
    with pytest.raises(ProviderError, match=r"no pip, cannot make .*no ensurepip.* uv is not on"):
        download(archive("pip"), tmp_path / "out")


@pytest.mark.parametrize("provider", ["npm", "apt"])
def test_a_client_that_is_not_installed_is_named(programs, tmp_path, provider):
    with pytest.raises(ProviderError, match=f"{provider}.* is not installed"):
        download(archive(provider), tmp_path / "out")


def test_a_client_that_fails_is_quoted(programs, tmp_path):
    programs("npm", "for i in 1 2 3 4; do echo line $i >&2; done; exit 7")
    with pytest.raises(ProviderError, match="npm ended with status 7: line 2 / line 3 / line 4"):
        download(archive("npm"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stale_apt_lists_are_hinted_at(programs, tmp_path):
    programs("apt-get", "echo 'E: Unable to locate package toy'; exit 100")
    with pytest.raises(ProviderError, match=r"Unable to locate .*`apt-get update`"):
        download(archive("apt"), tmp_path / "out")


@pytest.mark.parametrize(("body", "count"), [("true", 0), ("echo > a; echo > b", 2)])
def test_anything_else_than_one_file_is_refused(programs, tmp_path, body, count):
    programs("npm", body)
    with pytest.raises(ProviderError, match=f"npm left {count} files"):
        download(archive("npm"), tmp_path / "out")


def test_a_client_that_hangs_is_ended(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(providers, "TIMEOUT", 0.2)
    programs("npm", "exec sleep 60")
    with pytest.raises(ProviderError, match="npm did not finish within"):
        download(archive("npm"), tmp_path / "out")
