"""One member comes out whole and verified, or nothing is written."""

import gzip
import hashlib
import io
import lzma
import random
import shutil
import stat
import subprocess
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from experiments.assets import archives
from experiments.assets.archives import ArchiveError, extract

MEMBER = "package/data/weights.bin"
CONTENT = (
    random.Random(0).randbytes(1000) * 1300 + b"an odd tail"
)  # more than one chunk, no multiple of 512
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def make_zip(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def make_tar(*entries: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_deb(data: bytes, name: str = "data.tar.xz") -> bytes:
    out = b"!<arch>\n"
    for part, content in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),  # an odd length: the next part starts one byte later
        (name, data),
    ):
        header = f"{part:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        out += header.encode() + content + b"\n" * (len(content) % 2)
    return out


def make_link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(MEMBER)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


OTHERS = [("package/data/weights.bin.old", b"near"), ("data/weights.bin", b"nearer")]
WHOLE = [*OTHERS, (MEMBER, CONTENT)]
GOOD = {
    "zip": make_zip(*WHOLE),
    "tar": make_tar(*WHOLE),
    "tar.gz": gzip.compress(make_tar(*WHOLE)),
    "tar.xz, ./": lzma.compress(make_tar(("./" + MEMBER, CONTENT))),
    "deb": make_deb(lzma.compress(make_tar(*WHOLE))),
    "deb, old name": make_deb(gzip.compress(make_tar(*WHOLE)), "data.tar.gz/"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path


def take(folder: Path, data: bytes, size: int = len(CONTENT), digest: str = DIGEST) -> Path:
    (folder / "archive").write_bytes(data)
    return extract(folder / "archive", MEMBER, folder / "out" / "w.bin", size=size, sha256=digest)


def refuse(folder: Path, data: bytes, match: str, **expected: object) -> None:
    with pytest.raises(ArchiveError, match=match):
        take(folder, data, **expected)
    left = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert left == [Path("archive")]
    assert not list((folder / "out").iterdir())


@pytest.mark.parametrize("kind", GOOD)
def test_a_member_comes_out_whole(folder, kind):
    assert take(folder, GOOD[kind]).read_bytes() == CONTENT
    assert [path.name for path in (folder / "out").iterdir()] == ["w.bin"]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_package_made_by_dpkg_is_read(folder):
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    )
    (tree / MEMBER).parent.mkdir(parents=True)
    (tree / MEMBER).write_bytes(CONTENT)
    subprocess.run(["dpkg-deb", "-Zxz", "--build", tree, folder / "x.deb"], check=True)
    assert take(folder, (folder / "x.deb").read_bytes()).read_bytes() == CONTENT


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_entries_that_climb_out_are_never_written(folder, make):
    climbing = [(f"../{MEMBER}", b"evil"), ("../../evil", b"evil"), (f"{folder}/evil", b"evil")]
    assert take(folder, make(*climbing, (MEMBER, CONTENT))).read_bytes() == CONTENT
    assert sorted(path.name for path in folder.rglob("*")) == ["archive", "out", "w.bin"]
    assert not (folder.parent / "evil").exists()


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_missing_member_is_refused(folder, make):
    refuse(folder, make(*OTHERS), "has no member package/data/weights.bin")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_member_that_is_there_twice_is_refused(folder, make):
    refuse(folder, make(*WHOLE, (MEMBER, b"other")), "more than one member")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_special_tar_member_is_refused(folder, kind):
    refuse(folder, make_tar((make_link(kind), b"")), "not a regular file")


def test_a_zip_symlink_is_refused(folder):
    link = zipfile.ZipInfo(MEMBER)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refuse(folder, make_zip((link, b"/etc/passwd")), "not a regular file", size=11)


def test_an_encrypted_zip_member_is_refused(folder):
    data = bytearray(make_zip((MEMBER, CONTENT)))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[6] |= 1
    refuse(folder, bytes(data), "encrypted")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_another_size_is_refused_before_anything_is_written(folder, make, monkeypatch):
    monkeypatch.setattr(archives, "CHUNK", None)  # reading a chunk would raise TypeError
    refuse(folder, make(*WHOLE), f"said to have {len(CONTENT)} bytes, expected 5", size=5)


def test_a_zip_bomb_that_lies_about_its_size_is_refused(folder):
    data = bytearray(make_zip((MEMBER, bytes(50_000_000))))
    for offset in (22, data.index(b"PK\x01\x02") + 24):  # both places that state the size
        data[offset : offset + 4] = (100).to_bytes(4, "little")
    refuse(folder, bytes(data), "cannot be read", size=100)


def test_a_tar_bomb_around_the_member_is_refused(folder, monkeypatch):
    monkeypatch.setattr(archives, "UNPACKED_LIMIT", 3_000_000)
    bomb = gzip.compress(make_tar(("zeros", bytes(5_000_000)), (MEMBER, CONTENT)))
    assert len(bomb) < 3_000_000
    refuse(folder, bomb, "unpacks to more bytes")


def test_a_tar_of_countless_entries_is_refused(folder, monkeypatch):
    monkeypatch.setattr(archives, "ENTRY_LIMIT", 20)
    refuse(folder, make_tar(*[(f"n{i}", b"") for i in range(21)]), "more than 20 entries")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.7, 0.95])
@pytest.mark.parametrize("kind", GOOD)
def test_a_truncated_archive_is_refused(folder, kind, part):
    data = GOOD[kind]
    refuse(folder, data[: int(len(data) * part)], "archive")


@pytest.mark.parametrize("kind", GOOD)
def test_another_sha256_is_refused(folder, kind):
    refuse(folder, GOOD[kind], f"has sha256 {DIGEST}, expected 0", digest="0" * 64)


def test_what_is_no_archive_is_refused(folder):
    refuse(folder, b"<html>404 not found</html>" * 50, "cannot be read")
    refuse(folder, b"!<arch>\n" + b"debian-binary " * 20, "no Debian package")
    refuse(folder, make_deb(b"")[:-60], "no data.tar part")
    refuse(folder, make_deb(b"zstd", "data.tar.zst"), r"data\.tar\.zst is compressed in a way")


def test_a_failure_keeps_the_file_that_was_there(folder):
    take(folder, GOOD["zip"])
    with pytest.raises(ArchiveError):
        take(folder, make_zip((MEMBER, CONTENT[::-1])))
    assert (folder / "out" / "w.bin").read_bytes() == CONTENT


def test_an_interrupted_extraction_leaves_nothing(folder, monkeypatch):
    def interrupted(*_: object):
        yield CONTENT[:10]
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take(folder, GOOD["zip"])
    assert not list((folder / "out").iterdir())
