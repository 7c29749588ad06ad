"""What an asset is: one file inside one published archive, fixed by sha256."""

import re
from dataclasses import dataclass

_REQUIREMENT = {"pip": "{}=={}", "npm": "{}@{}", "apt": "{}={}"}
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+-]*")
_PACKAGE = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._+-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Archive:
    """A file that a package provider serves: a wheel, an npm tarball, a Debian package.

    Attributes:
      provider: ``"pip"``, ``"npm"`` or ``"apt"``.
      package: the package's name at that provider.
      version: the exact version.
      filename: the file's ordinary name, under which it is cached and looked for.
      sha256: of the whole file, 64 lowercase hex digits.
      size: of the whole file, in bytes.

    Raises:
      ValueError: a field is malformed; the message names it.
    """

    provider: str
    package: str
    version: str
    filename: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if self.provider not in _REQUIREMENT:
            raise ValueError(f"provider {self.provider!r} is none of {', '.join(_REQUIREMENT)}")
        _matches("package", self.package, _PACKAGE)
        _matches("version", self.version, _PART)
        _matches("filename", self.filename, _PART)
        _matches("sha256", self.sha256, _SHA256)
        _positive("size", self.size)

    @property
    def requirement(self) -> str:
        """Package and version as the provider's own client spells them."""
        return _REQUIREMENT[self.provider].format(self.package, self.version)

    @property
    def name(self) -> str:
        """Provider, package and version in one word, for example ``pip:numpy==2.0.0``."""
        return f"{self.provider}:{self.requirement}"


@dataclass(frozen=True)
class Source:
    """Where an asset can be had: an archive and the member's path inside it."""

    archive: Archive
    member: str

    def __post_init__(self) -> None:
        parts = self.member.split("/")
        if not self.member or "\\" in self.member or any(p in ("", ".", "..") for p in parts):
            raise ValueError(
                f"member {self.member!r} must be a relative path inside the archive, parts "
                "separated by '/', none of them empty, '.' or '..'"
            )


@dataclass(frozen=True)
class Asset:
    """One file of real data or weights.

    Attributes:
      name: ``collection/file``; also its path below the cache and below ``JAXLAB_DATA``.
      sha256: of the file itself.
      size: of the file itself, in bytes; nothing larger is ever written.
      license: whose it is and on what terms, in a few words.
      sources: archives that hold it, tried in order; none means that only a local folder can
        supply it.

    Raises:
      ValueError: a field is malformed; the message names it.
    """

    name: str
    sha256: str
    size: int
    license: str
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        parts = self.name.split("/")
        if len(parts) != 2 or not all(_PART.fullmatch(part) for part in parts):
            raise ValueError(f"name {self.name!r} must read 'collection/file'")
        _matches("sha256", self.sha256, _SHA256)
        _positive("size", self.size)


def _matches(field: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"{field} {value!r} must match {pattern.pattern}")


def _positive(field: str, value: int) -> None:
    if value <= 0:
        raise ValueError(f"{field} must be a positive number of bytes, got {value}")
