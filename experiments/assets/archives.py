"""Take one member out of an archive that may be hostile.

Only the named member is read, so no other entry can be written anywhere, and the destination
never depends on a name inside the archive. The member must be there once, as a regular file, with
the declared size and sha256; sizes are compared before anything is written.
"""

import errno
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20
UNPACKED_LIMIT = 1 << 30  # bytes of a decompressed tar that may be walked through
ENTRY_LIMIT = 100_000  # entries of a tar that may be walked through

_DECOMPRESS = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
_BROKEN = (
    EOFError,
    NotImplementedError,  # zipfile: a compression method unknown to it
    ValueError,  # a name or number that cannot be decoded
    gzip.BadGzipFile,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class ArchiveError(ValueError):
    """An archive is damaged, mislabeled or hostile."""


def extract(archive: Path, member: str, destination: Path, *, size: int, sha256: str) -> Path:
    """Write one member of an archive to a file, all of it or nothing.

    Zip (wheels among them), tar (plain, gzip or xz) and Debian packages are told apart by
    their first bytes. The bytes go to a temporary name beside the destination and get the final
    name once everything has been checked, so several processes may extract at once.

    Args:
      archive: path of the archive.
      member: path inside it, parts separated by ``/``; a leading ``./`` in the archive is ignored.
      destination: path of the file to write; missing folders are made.
      size: the member's size in bytes.
      sha256: the member's sha256, 64 lowercase hex digits.

    Returns:
      ``destination``.

    Raises:
      ArchiveError: the archive cannot be read, or the member is missing, there twice, no regular
        file, or of another size or sha256. Nothing is left behind.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".unpacking-") as folder:
        part = Path(folder) / destination.name
        digest = hashlib.sha256()
        try:
            with archive.open("rb") as stream, part.open("xb") as out:
                for chunk in _chunks(stream, member, size):
                    digest.update(chunk)
                    out.write(chunk)
        except ArchiveError as error:
            raise ArchiveError(f"{archive}: {error}") from error
        except (*_BROKEN, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # the disk's fault; EINVAL is an offset outside of the archive
            raise ArchiveError(f"{archive} cannot be read: {error}") from error
        if (written := part.stat().st_size) != size:
            raise ArchiveError(f"{archive}: {member} ends after {written} of {size} bytes")
        if digest.hexdigest() != sha256:
            raise ArchiveError(
                f"{archive}: {member} has sha256 {digest.hexdigest()}, expected {sha256}"
            )
        os.replace(part, destination)
    return destination


def _chunks(stream: io.BufferedIOBase, member: str, size: int) -> Iterator[bytes]:
    start = stream.read(8)
    stream.seek(0)
    if start.startswith(b"PK"):
        return _zip_chunks(stream, member, size)
    if start == b"!<arch>\n":
        return _tar_chunks(_debian_data(stream), member, size)
    return _tar_chunks(stream, member, size)


def _zip_chunks(stream: io.BufferedIOBase, member: str, size: int) -> Iterator[bytes]:
    with zipfile.ZipFile(stream) as archive:
        found = [entry for entry in archive.infolist() if entry.filename == member]
        _check_count(len(found), member)
        entry = found[0]
        kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the maker recorded no mode
        _check_entry(member, kind in (0, stat.S_IFREG), entry.file_size, size)
        if entry.flag_bits & 1:
            raise ArchiveError(f"{member} is encrypted")
        with archive.open(entry) as content:
            while chunk := content.read(CHUNK):
                yield chunk


def _tar_chunks(stream: io.BufferedIOBase, member: str, size: int) -> Iterator[bytes]:
    start = stream.read(6)
    stream.seek(0)
    for magic, decompress in _DECOMPRESS.items():
        if start.startswith(magic):
            stream = decompress(stream)
    count = 0
    with tarfile.open(fileobj=_Limited(stream, UNPACKED_LIMIT), mode="r|") as archive:
        for number, entry in enumerate(archive):
            if number >= ENTRY_LIMIT:
                raise ArchiveError(f"it has more than {ENTRY_LIMIT} entries")
            if entry.name.removeprefix("./") != member:
                continue
            count += 1
            _check_count(count, member)
            _check_entry(member, entry.isreg(), entry.size, size)
            content = archive.extractfile(entry)
            assert content is not None  # it is a regular file
            while chunk := content.read(CHUNK):
                yield chunk
    _check_count(count, member)


def _debian_data(stream: io.BufferedIOBase) -> io.BufferedIOBase:
    """The ``data.tar.*`` part of a Debian package, an ``ar`` archive."""
    end = os.fstat(stream.fileno()).st_size
    stream.seek(8)
    while header := stream.read(60):
        length = header[48:58].strip()
        if len(header) != 60 or header[58:] != b"`\n" or not length.isdigit():
            raise ArchiveError("it is no Debian package: a part's header is damaged")
        if stream.tell() + int(length) > end:
            raise ArchiveError("it is truncated: a part is longer than what is left of the file")
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        if name in ("data.tar", "data.tar.gz", "data.tar.xz"):
            return io.BytesIO(stream.read(int(length)))
        if name.startswith("data.tar"):
            raise ArchiveError(f"its {name} is compressed in a way that is not supported here")
        stream.seek(int(length) + int(length) % 2, os.SEEK_CUR)
    raise ArchiveError("it is no Debian package: it has no data.tar part")


def _check_count(count: int, member: str) -> None:
    if count != 1:
        raise ArchiveError(f"it has {'more than one' if count else 'no'} member {member}")


def _check_entry(member: str, regular: bool, found: int, size: int) -> None:
    if not regular:
        raise ArchiveError(f"{member} is a link or another special file, not a regular file")
    if found != size:
        raise ArchiveError(f"{member} is said to have {found} bytes, expected {size}")


class _Limited(io.BufferedIOBase):
    """A stream that may be read up to a number of bytes."""

    def __init__(self, stream: io.BufferedIOBase, limit: int):
        self._stream = stream
        self._left = limit

    def read(self, size: int | None = -1) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ArchiveError("it unpacks to more bytes than any archive may here")
        return data
