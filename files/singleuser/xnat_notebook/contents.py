"""JupyterLab's file browser with XNAT's data: a directory `data` and a notebook "Start here" beside the workspace.

Both exist only in the answers of this contents manager: nothing is written into the workspace. An entry of the
workspace that has such a name is shown as it is, and ours gets another name, such as `data (XNAT)`. Both are read-only.
jupyter_server_config.json names the class; other notebook images work without it, and show the workspace alone.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jupyter_server.base.handlers import AuthenticatedFileHandler
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado import web
from traitlets import default

from . import start_here

DATA = "/data"


@dataclass(frozen=True)
class Place:
    """Something shown at the top of the file browser.

    wanted: its name there, unless the workspace has such an entry. files: the manager of the directory that it is or is
    in. inner: its path there, empty for the directory itself.
    """

    wanted: str
    files: AsyncLargeFileManager
    inner: str


@dataclass(frozen=True)
class Found:
    """A path in a Place. name: of the place, as shown. path: within the place's manager."""

    name: str
    place: Place
    path: str


def names(wanted: str) -> Iterator[str]:
    """Yield the names to try for an entry: `data`, `data (XNAT)`, `data (XNAT 2)`, ..."""
    stem, suffix = os.path.splitext(wanted)
    yield wanted
    yield f"{stem} (XNAT){suffix}"
    for number in itertools.count(2):
        yield f"{stem} (XNAT {number}){suffix}"


class FileHandler(AuthenticatedFileHandler):
    """Serves files for downloads and images, also those of XNAT, in pieces and not from memory."""

    def get(self, path: str, **kwargs: Any) -> Any:
        """Get a file by its path in the file browser."""
        found = self.contents_manager.find(path)
        if found is not None:
            self.root, path = found.place.files.root_dir, found.path
        return super().get(path, **kwargs)


class XnatContentsManager(AsyncLargeFileManager):
    """The workspace, with XNAT's data and "Start here" beside its entries."""

    _places: list[Place] | None = None

    @default("files_handler_class")
    def _files_handler_class_default(self) -> type[AuthenticatedFileHandler]:
        return FileHandler

    def find(self, path: str) -> Found | None:
        """Return what a path means in a Place, or None if it is one of the workspace."""
        first, _, rest = path.strip("/").partition("/")
        place = self._shown().get(first)
        if place is None:
            return None
        return Found(first, place, "/".join(part for part in (place.inner, rest) if part))

    def _shown(self) -> dict[str, Place]:
        """Return the places by the names that they have now: a person may create such an entry at any time."""
        if self._places is None:
            self._places = self._make_places()
        return {self._free(place.wanted): place for place in self._places}

    def _free(self, wanted: str) -> str:
        return next(name for name in names(wanted) if not os.path.lexists(os.path.join(self.root_dir, name)))

    def _make_places(self) -> list[Place]:
        """Write "Start here" to a temporary directory. Without XNAT's data there is no directory `data`."""
        try:
            shown_as = self._free("data")
            notebook = start_here.notebook(os.environ, Path("/proc/self/mountinfo").read_text(), shown_as)
            folder = tempfile.mkdtemp(prefix="xnat-")
            Path(folder, start_here.NAME).write_text(json.dumps(notebook, indent=1))
            places = [self._place(start_here.NAME, folder, start_here.NAME)]
        except (OSError, ValueError) as error:  # a full or missing /tmp: the data are shown all the same
            self.log.warning("Could not create the notebook %r: %s", start_here.NAME, error)
            places = []
        if os.path.isdir(DATA):
            places.append(self._place("data", DATA, ""))
        return places

    def _place(self, wanted: str, root_dir: str, inner: str) -> Place:
        return Place(wanted, AsyncLargeFileManager(parent=self, root_dir=root_dir), inner)

    def _refuse(self, found: Found) -> NoReturn:
        if found.place.inner:
            message = f"{found.name} is made by the server and read-only: save it under another name."
        else:
            message = (
                f"{found.name} shows the data of XNAT, which are read-only here: put your files beside it, into the"
                " workspace, or upload them in XNAT."
            )
        raise web.HTTPError(403, message, reason=message)

    def _refuse_if_found(self, *paths: str | None) -> None:
        for path in paths:
            if path is not None and (found := self.find(path)):
                self._refuse(found)

    def _get_os_path(self, path: str) -> str:
        found = self.find(path)
        return str(super()._get_os_path(path) if found is None else found.place.files._get_os_path(found.path))

    async def get(
        self,
        path: str,
        content: bool = True,
        type: str | None = None,
        format: str | None = None,
        require_hash: bool = False,
    ) -> dict[str, Any]:
        """Return the model of a file or directory."""
        found = self.find(path)
        options = {"content": content, "type": type, "format": format, "require_hash": require_hash}
        if found is not None:
            return _shown_model(await found.place.files.get(found.path, **options), found)
        model: dict[str, Any] = await super().get(path, **options)
        if content and not path.strip("/") and model["type"] == "directory":
            model["content"] += [await self.get(name, content=False) for name in self._shown()]
        return model

    async def save(self, model: dict[str, Any], path: str = "") -> Any:
        """Save or upload a file, or create a directory; refuse to do so in XNAT's data."""
        self._refuse_if_found(path)
        return await super().save(model, path)

    async def delete_file(self, path: str) -> None:
        """Delete a file or directory of the workspace."""
        self._refuse_if_found(path)
        await super().delete_file(path)

    async def rename_file(self, old_path: str, new_path: str) -> None:
        """Rename or move a file or directory of the workspace."""
        self._refuse_if_found(old_path, new_path)
        await super().rename_file(old_path, new_path)

    async def copy(self, from_path: str, to_path: str | None = None) -> Any:
        """Copy a file or directory, also from XNAT's data into the workspace."""
        self._refuse_if_found(from_path.rpartition("/")[0] if to_path is None else to_path)
        return await super().copy(from_path, to_path)

    async def is_hidden(self, path: str) -> bool:
        """Return whether a file or directory, or one above it, is hidden."""
        found = self.find(path)
        return bool(await super().is_hidden(path) if found is None else await found.place.files.is_hidden(found.path))

    def is_writable(self, path: str) -> bool:
        """Return whether a file or directory can be changed."""
        return self.find(path) is None and bool(super().is_writable(path))

    def resolve_path(self, path: str) -> str | None:
        """Return the path in the file browser of a file of the container, such as one in a traceback."""
        for name, place in self._shown().items():
            if not place.inner and path.startswith(f"{place.files.root_dir}/"):
                return f"{name}/{path.removeprefix(f'{place.files.root_dir}/')}"
        found: str | None = super().resolve_path(path)
        return found

    async def list_checkpoints(self, path: str) -> Any:
        """List checkpoints; of XNAT's data there are none, and no directory for them appears in the workspace."""
        return [] if self.find(path) else await super().list_checkpoints(path)

    async def create_checkpoint(self, path: str) -> Any:
        """Create a checkpoint of a file of the workspace."""
        self._refuse_if_found(path)
        return await super().create_checkpoint(path)

    async def restore_checkpoint(self, checkpoint_id: str, path: str) -> None:
        """Restore a file of the workspace."""
        self._refuse_if_found(path)
        await super().restore_checkpoint(checkpoint_id, path)

    async def delete_checkpoint(self, checkpoint_id: str, path: str) -> None:
        """Delete a checkpoint of a file of the workspace."""
        self._refuse_if_found(path)
        await super().delete_checkpoint(checkpoint_id, path)


def _shown_model(model: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """Return a model of a place's manager as the file browser shows it: with its path there, and not writable."""
    inner = model["path"].strip("/")
    rest = inner.removeprefix(found.place.inner).strip("/")
    path = f"{found.name}/{rest}" if rest else found.name
    content = model["content"]
    if model["type"] == "directory" and content is not None:
        content = [_shown_model(each, found) for each in content]
    return {**model, "name": path.rpartition("/")[2], "path": path, "writable": False, "content": content}
