"""Where models come from: the model store, folders, and URLs that are allowed."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import URLError
from urllib.parse import unquote, urlsplit

from legato.protocols.torchserve.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY_URL: Final = (r"file://.*|http(s)?://.*",)
_SUFFIXES: Final = (".mar", ".model", ".tar.gz", ".tgz")
_KIND: Final = "ModelNotFoundException"
_JAVA: Final = "org.pytorch.serve.archive.model.ModelNotFoundException"
_MOST_BYTES: Final = 8 * 1024**3
_CHUNK: Final = 1 << 20
_TIMEOUT_S: Final = 60


def _absent(text: str) -> Failure:
    return Failure(404, _KIND, text, java=_JAVA)


class ModelStore:
    """Finds archives by the ``url`` of a register call.

    Args:
        folder: The model store.
        allowed: Regular expressions; a URL with a scheme must match one as a whole.
    """

    def __init__(self, folder: Path, allowed: Sequence[str] = ()) -> None:
        self.folder = folder
        self._allowed = [re.compile(text, re.IGNORECASE) for text in (allowed or ANY_URL)]

    def everything(self) -> list[str]:
        """List what ``--models all`` means: archives and folders, hidden ones left out."""
        return sorted(
            path.name
            for path in self.folder.iterdir()
            if path.name[0] != "." and (path.is_dir() or path.name.endswith(_SUFFIXES))
        )

    def find(self, url: str) -> Path:
        """Return the file or folder of a URL; downloads what is elsewhere. Blocks.

        Raises:
            Failure: It may not be loaded, or is not there.
        """
        if ".." in url:
            raise _absent(f"Relative path is not allowed in url: {url}")
        scheme = urlsplit(url).scheme.lower() if "://" in url else ""
        if scheme:
            if not any(pattern.fullmatch(url) for pattern in self._allowed):
                raise _absent(f"Given URL {url} does not match any allowed URL(s)")
            if scheme in ("http", "https"):
                return self._download(url)
            if scheme != "file":
                raise _absent(f"Model not found at: {url}")
            path = Path(unquote(urlsplit(url).path))
        else:
            path = self.folder / url
            if Path(url).is_absolute() and not path.is_dir():
                raise _absent(f"Model not found at: {url}")
        if not path.exists():
            raise _absent(f"Model not found at: {url}")
        return path

    def _download(self, url: str) -> Path:
        """Fetch an archive into the model store, unless it is there."""
        name = Path(unquote(urlsplit(url).path)).name
        if not name.endswith(_SUFFIXES):
            raise _absent(f"Model not found at: {url}")
        target = self.folder / name
        if target.exists():
            return target
        unfinished = self.folder / f".{name}.part"
        size = 0
        try:
            with (
                urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer,  # noqa: S310 - checked
                unfinished.open("wb") as file,
            ):
                while chunk := answer.read(_CHUNK):
                    size += len(chunk)
                    if size > _MOST_BYTES:
                        raise _absent(f"Model at {url} is too large")
                    file.write(chunk)
            unfinished.rename(target)
        except (URLError, OSError) as error:
            raise _absent(f"Model not found at: {url} ({error})") from None
        finally:
            unfinished.unlink(missing_ok=True)
        return target
