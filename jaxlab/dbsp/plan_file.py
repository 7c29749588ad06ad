"""Files of plans: JSON that names its format version and its own sha256."""

import hashlib
import json
import os
import pathlib
import secrets
from typing import Any

_FORMAT = "jaxlab.dbsp.plan"
_VERSION = 1
_LARGEST = 64 * 2**20


def write_record(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Writes a record under a temporary name beside ``path`` and renames it."""
    path = pathlib.Path(path)
    content = _canonical(record)
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "plan": record,
    }
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # "x": a new file, which unlike those of tempfile whoever the umask lets may read
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(_canonical(document))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a record back; ValueError for anything that ``write_record`` did not write."""
    with open(path, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"{path}: larger than {_LARGEST} bytes, which no plan is.")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: truncated or not a plan file: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a plan file.")
    if document.get("version") != _VERSION:
        raise ValueError(
            f"{path}: format version {document.get('version')!r}, expected {_VERSION}; make the "
            "plan again."
        )
    record = document.get("plan")
    if not isinstance(record, dict):
        raise ValueError(f"{path}: not a plan file.")
    if hashlib.sha256(_canonical(record).encode()).hexdigest() != document.get("sha256"):
        raise ValueError(f"{path}: the contents do not match their sha256; the file was altered.")
    return record


def _canonical(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"))
