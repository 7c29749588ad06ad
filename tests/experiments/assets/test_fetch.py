"""Cache, local folder, providers: the order, the checks, and what the error says."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from experiments.assets import (
    Archive,
    Asset,
    AssetUnavailable,
    Source,
    cache_folder,
    cached,
    fetch,
    providers,
)
from experiments.assets.providers import ProviderError

pooch = pytest.importorskip("pooch")

CONTENT = b"seven and a half words of content" * 99


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(content: bytes = CONTENT) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("toy/other.bin", b"other")
        archive.writestr("toy/data.bin", content)
    return out.getvalue()


WHEEL = make_wheel()


def make_asset(wheel: bytes = WHEEL, providers: tuple[str, ...] = ("pip", "npm")) -> Asset:
    sources = [
        Source(
            Archive(name, "toy", "1.2", f"toy-{name}.whl", sha256(wheel), len(wheel)),
            "toy/data.bin",
        )
        for name in providers
    ]
    return Asset("toys/data.bin", sha256(CONTENT), len(CONTENT), "CC0", tuple(sources))


@pytest.fixture
def clients(monkeypatch, tmp_path):
    """Fake clients; each delivers the bytes stored under its name, and is counted."""
    monkeypatch.setenv("JAXLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXLAB_DATA", raising=False)
    served: dict[str, bytes] = {}
    asked: list[str] = []

    def client(name: str):
        def deliver(requirement: str, folder: Path) -> None:
            asked.append(f"{name} {requirement}")
            if name not in served:
                raise ProviderError(f"{name} cannot reach its server")
            (folder / "toy.whl").write_bytes(served[name])

        return deliver

    monkeypatch.setattr(providers, "CLIENTS", {n: client(n) for n in ("pip", "npm", "apt")})
    return served, asked


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_first_use_downloads_and_later_use_does_not(clients, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    served, asked = clients
    served["pip"] = WHEEL
    path = fetch(make_asset())
    assert path.read_bytes() == CONTENT
    assert "pip:toy==1.2: 0.0 MB, on first use only" in caplog.text
    caplog.clear()
    assert fetch(make_asset()) == path == cached(make_asset())
    assert asked == ["pip toy==1.2"]
    assert files(tmp_path / "cache") == ["archives/toy-pip.whl", "data/toys/data.bin"]
    assert not caplog.text


def test_a_second_member_of_an_archive_needs_no_second_download(clients):
    served, asked = clients
    served["pip"] = WHEEL
    asset = make_asset()
    fetch(asset)
    source = Source(asset.sources[0].archive, "toy/other.bin")
    other = Asset("toys/other.bin", sha256(b"other"), 5, "CC0", (source,))
    assert fetch(other).read_bytes() == b"other"
    assert len(asked) == 1


def test_the_next_source_is_asked_when_one_fails(clients):
    served, asked = clients
    served["npm"] = WHEEL
    assert fetch(make_asset()).read_bytes() == CONTENT
    assert asked == ["pip toy==1.2", "npm toy@1.2"]


def test_a_damaged_cache_is_replaced(clients):
    served, asked = clients
    served["pip"] = WHEEL
    path = fetch(make_asset())
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(ValueError, match=r"data\.bin has sha256"):
        cached(make_asset())
    assert fetch(make_asset()).read_bytes() == CONTENT
    assert len(asked) == 1  # the cached archive is still good
    path.write_bytes(b"short")
    (path.parents[2] / "archives" / "toy-pip.whl").write_bytes(WHEEL[:-1])
    assert fetch(make_asset()).read_bytes() == CONTENT
    assert len(asked) == 2


def test_a_download_with_another_sha256_is_refused(clients, tmp_path):
    served, _ = clients
    served["pip"] = make_wheel(b"not what was asked for")
    with pytest.raises(AssetUnavailable, match="does not match the known hash"):
        fetch(make_asset())
    assert files(tmp_path / "cache") == []


def test_a_member_with_another_sha256_is_refused(clients, tmp_path):
    served, _ = clients
    served["pip"] = wheel = make_wheel(CONTENT[::-1])
    with pytest.raises(AssetUnavailable, match=r"toy/data\.bin has sha256"):
        fetch(make_asset(wheel))
    assert files(tmp_path / "cache") == ["archives/toy-pip.whl"]


def test_the_error_names_every_place_and_the_way_offline(clients, tmp_path):
    with pytest.raises(AssetUnavailable) as caught:
        fetch(make_asset())
    error = caught.value
    assert [attempt.place for attempt in error.attempts] == ["local", "pip:toy==1.2", "npm:toy@1.2"]
    for words in (
        "asset toys/data.bin is not available",
        "local: JAXLAB_DATA is not set",
        "pip:toy==1.2: pip cannot reach its server",
        "npm:toy@1.2: npm cannot reach its server",
        f"toys/data.bin (sha256 {sha256(CONTENT)})",
        f"toy-npm.whl (sha256 {sha256(WHEEL)})",
        "python -m experiments.assets fetch toys/data.bin",
        str(tmp_path / "cache" / "data"),
    ):
        assert words in str(error)


def test_an_asset_without_sources_comes_from_the_local_folder_only(clients, monkeypatch, tmp_path):
    asset = make_asset(providers=())
    with pytest.raises(AssetUnavailable, match="JAXLAB_DATA is not set"):
        fetch(asset)
    monkeypatch.setenv("JAXLAB_DATA", str(tmp_path / "absent"))
    with pytest.raises(AssetUnavailable, match="which is no folder"):
        fetch(asset)
    monkeypatch.setenv("JAXLAB_DATA", str(tmp_path))
    with pytest.raises(AssetUnavailable, match=r"holds no toys/data\.bin"):
        fetch(asset)
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "data.bin").write_bytes(CONTENT)
    assert fetch(asset) == tmp_path / "toys" / "data.bin"
    assert not (tmp_path / "cache").exists()  # used in place


def test_a_local_archive_is_used_before_any_provider(clients, monkeypatch, tmp_path):
    _, asked = clients
    (tmp_path / "toy-npm.whl").write_bytes(WHEEL)
    monkeypatch.setenv("JAXLAB_DATA", str(tmp_path))
    assert fetch(make_asset()).read_bytes() == CONTENT
    assert asked == []


@pytest.mark.parametrize("name", ["toys/data.bin", "toy-pip.whl"])
def test_a_wrong_local_file_is_named_and_passed_over(clients, monkeypatch, tmp_path, name):
    served, asked = clients
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes((CONTENT if name.startswith("toys/") else WHEEL)[::-1])
    monkeypatch.setenv("JAXLAB_DATA", str(tmp_path))
    with pytest.raises(AssetUnavailable, match=f"local: .*{name} has sha256"):
        fetch(make_asset())
    served["pip"] = WHEEL
    assert fetch(make_asset()).read_bytes() == CONTENT
    assert len(asked) == 3


def test_an_unusable_cache_folder_is_reported(clients, monkeypatch, tmp_path):
    served, _ = clients
    served["pip"] = WHEEL
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetUnavailable, match=str(tmp_path / "file")):
        fetch(make_asset())


def test_without_pooch_only_the_download_is_missing(clients, monkeypatch, tmp_path):
    served, asked = clients
    served["pip"] = WHEEL
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(AssetUnavailable, match=r"pip:toy==1\.2: downloading needs pooch"):
        fetch(make_asset())
    (tmp_path / "toy-pip.whl").write_bytes(WHEEL)
    monkeypatch.setenv("JAXLAB_DATA", str(tmp_path))
    assert fetch(make_asset()) == cached(make_asset())
    assert asked == []
    monkeypatch.delenv("JAXLAB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "jaxlab"


def test_two_processes_may_fetch_at_once(tmp_path):
    """A slow fake npm on the PATH makes both downloads overlap."""
    (tmp_path / "toy.whl").write_bytes(WHEEL)
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        f"#!/bin/sh\necho started >> {tmp_path}/log\n"
        f"while [ $(wc -l < {tmp_path}/log) -lt 2 ]; do sleep 0.05; done\n"
        f"cp {tmp_path}/toy.whl .\n"
    )
    npm.chmod(0o755)
    asset = repr(make_asset(providers=("npm",)))
    code = f"from experiments.assets import *\nprint(fetch({asset}).read_bytes() == {CONTENT!r})"
    environment = os.environ | {
        "PATH": f"{npm.parent}:{os.environ['PATH']}",
        "JAXLAB_CACHE": str(tmp_path / "cache"),
        "JAXLAB_DATA": "",
    }
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert outputs == [[b"True"], [b"True"]]
    assert files(tmp_path / "cache") == ["archives/toy-npm.whl", "data/toys/data.bin"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"provider": "ftp"}, "provider 'ftp'"),
        ({"package": "--index-url"}, "package '--index-url'"),
        ({"version": "1 --pre"}, "version '1 --pre'"),
        ({"filename": "../toy.whl"}, "filename"),
        ({"sha256": "ABC"}, "sha256 'ABC'"),
        ({"size": 0}, "size must be a positive"),
    ],
)
def test_a_malformed_archive_is_refused(change, match):
    fields = {
        "provider": "pip",
        "package": "toy",
        "version": "1",
        "filename": "t.whl",
        "sha256": "0" * 64,
        "size": 1,
    }
    with pytest.raises(ValueError, match=match):
        Archive(**(fields | change))


@pytest.mark.parametrize("member", ["", "/etc/passwd", "a/../b", "./a", "a//b", "a\\b"])
def test_a_member_outside_the_archive_is_refused(member):
    with pytest.raises(ValueError, match="member"):
        Source(make_asset().sources[0].archive, member)


@pytest.mark.parametrize("name", ["data.bin", "../data.bin", "/data.bin", "a/b/c", "a/..", "a/.b"])
def test_a_name_outside_its_collection_is_refused(name):
    with pytest.raises(ValueError, match="must read 'collection/file'"):
        Asset(name, "0" * 64, 1, "CC0")
