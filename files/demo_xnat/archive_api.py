"""The archive for notebooks and the page, and the directories of an item's files (docs/xnat-contract.md, 1.7)."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from . import archive
from .configuration import Configuration
from .schema import SCHEMAS
from .state import State
from .xapi import PERSON, Routes, XapiError, not_found


class ArchiveApi:
    """Projects, subjects and sessions that the caller may read; 404 for all others."""

    def __init__(self, state: State, configuration: Configuration) -> None:
        self._state = state
        self._configuration = configuration

    def routes(self) -> Routes:
        """The calls. Those with which the library xnat lists projects are marked; its other paths are below /data."""
        return [
            web.get("/xapi/schemas", self.get_schemas),  # xnat
            web.get("/xapi/schemas/{name}", self.get_schema),  # xnat
            web.get("/data/search/elements", self.get_search_elements),  # xnat
            web.get("/data/archive/projects", self.get_projects),  # xnat
            web.get("/data/archive/projects/{project}", self.get_project),  # xnat
            web.get("/data/projects", self.get_projects),
            web.get("/data/projects/{project}", self.get_project),
            web.get("/data/projects/{project}/archive_spec", self.get_archive_specification),
            web.get("/data/projects/{project}/subjects", self.get_subjects),
            web.get("/data/projects/{project}/subjects/{subject}/experiments", self.get_experiments_of_subject),
            web.get("/data/projects/{project}/experiments", self.get_experiments),
            web.get("/data/subjects/{subject}", self.get_subject),
            web.get("/data/experiments/{experiment}", self.get_experiment),
        ]

    async def get_schemas(self, request: web.Request) -> web.Response:
        """The names of the data-type schemas, from which the library xnat generates its classes."""
        return web.json_response(list(SCHEMAS))

    async def get_schema(self, request: web.Request) -> web.Response:
        """The part of XNAT's data model that the demo archive has."""
        schema = SCHEMAS.get(request.match_info["name"])
        if schema is None:
            raise not_found(f"No schema named {request.match_info['name']}")
        return web.Response(text=schema, content_type="application/xml")

    async def get_search_elements(self, request: web.Request) -> web.Response:
        """The searchable elements: none here."""
        return _result_set(request, [])

    async def get_projects(self, request: web.Request) -> web.Response:
        """The projects that the person may read."""
        return _result_set(request, [
            {
                "ID": project.id,
                "name": project.name,
                "secondary_ID": project.id,
                "description": project.description,
                "URI": f"/data/projects/{project.id}",
            }
            for project in archive.PROJECTS
            if self._may_read(request, project)
        ])  # fmt: skip

    async def get_project(self, request: web.Request) -> web.Response:
        """One project, in XNAT's nested form."""
        project = self._project(request)
        names = {"ID": project.id, "name": project.name, "secondary_ID": project.id}
        return _nested(_item(archive.PROJECT_TYPE, names | {"description": project.description}))

    async def get_archive_specification(self, request: web.Request) -> web.Response:
        """The directories of the project's files: always XML (1.7)."""
        project = self._project(request)
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<arc:project id="{project.id}"'
            f' current_arc="{archive.CURRENT_ARC}"'
            ' quarantine_code="0" prearchive_code="0" xmlns:arc="http://nrg.wustl.edu/arc">'
            f"<arc:paths><arc:archivePath>{html.escape(self._directory(project))}/</arc:archivePath></arc:paths>"
            "</arc:project>"
        )
        return web.Response(text=text, content_type="text/xml")

    async def get_subjects(self, request: web.Request) -> web.Response:
        """The subjects of a project."""
        project = self._project(request)
        return _result_set(request, [
            {
                "ID": subject.id,
                "label": subject.label,
                "project": project.id,
                "URI": f"/data/subjects/{subject.id}",
            }
            for subject in project.subjects
        ])  # fmt: skip

    async def get_subject(self, request: web.Request) -> web.Response:
        """One subject by its id, in XNAT's nested form."""
        for project in archive.PROJECTS:
            for subject in project.subjects:
                if subject.id == request.match_info["subject"] and self._may_read(request, project):
                    fields = {"ID": subject.id, "label": subject.label, "project": project.id}
                    return _nested(_item(archive.SUBJECT_TYPE, fields))
        raise XapiError(404)

    async def get_experiments_of_subject(self, request: web.Request) -> web.Response:
        """The sessions of a subject, which is named by label or id."""
        project = self._project(request)
        named = request.match_info["subject"]
        subject = next((each for each in project.subjects if named in (each.id, each.label)), None)
        if subject is None:
            raise XapiError(404)
        return _sessions(request, project, [(subject, session) for session in subject.sessions])

    async def get_experiments(self, request: web.Request) -> web.Response:
        """The sessions of a project."""
        project = self._project(request)
        return _sessions(request, project, project.sessions())

    async def get_experiment(self, request: web.Request) -> web.Response:
        """One session with its scans, in XNAT's nested form."""
        found = archive.find_session(request.match_info["experiment"])
        if found is None or not self._may_read(request, found[0]):
            raise XapiError(404)
        project, subject, session = found
        folder = f"{self._directory(project)}/{archive.CURRENT_ARC}/{session.label}/SCANS"
        scans = [
            _item(
                scan.xsi_type,
                {
                    "ID": scan.id,
                    "type": scan.description,
                    "xnat_imagescandata_id": scan.key,
                    "image_session_ID": session.id,
                },
                {"field": "file", "items": [_resource(folder, scan)]},
            )
            for scan in session.scans
        ]
        fields = {
            "ID": session.id,
            "label": session.label,
            "project": project.id,
            "subject_ID": subject.id,
            "date": session.date,
        }
        return _nested(_item(session.xsi_type, fields, {"field": "scans/scan", "items": scans}))

    def _may_read(self, request: web.Request, project: archive.Project) -> bool:
        return self._state.can_read_project(request[PERSON], project.id)

    def _project(self, request: web.Request) -> archive.Project:
        """The project named in the path: 404 unless the caller may read it."""
        project = archive.find_project(request.match_info["project"])
        if project is None or not self._may_read(request, project):
            raise XapiError(404)
        return project

    def _directory(self, project: archive.Project) -> str:
        """The project's directory on XNAT's machine, without a slash at the end."""
        return f"{self._configuration.site['archivePath'].rstrip('/')}/{project.id}"


def _result_set(request: web.Request, rows: list[dict[str, str]]) -> web.Response:
    """Rows as JSON, or as CSV with ``format=csv``, which the library pyxnat asks for."""
    if request.query.get("format") == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["ID"], quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return web.Response(text=text.getvalue(), content_type="text/csv")
    return web.json_response({"ResultSet": {"Result": rows, "totalRecords": str(len(rows))}})


def _sessions(
    request: web.Request, project: archive.Project, found: Iterable[tuple[archive.Subject, archive.Session]]
) -> web.Response:
    return _result_set(request, [
        {
            "ID": session.id,
            "label": session.label,
            "project": project.id,
            "subject_ID": subject.id,
            "date": session.date,
            "xsiType": session.xsi_type,
            "URI": f"/data/experiments/{session.id}",
        }
        for subject, session in found
    ])  # fmt: skip


def _nested(item: dict[str, Any]) -> web.Response:
    return web.json_response({"items": [item]})


def _item(xsi_type: str, fields: dict[str, Any], *children: dict[str, Any]) -> dict[str, Any]:
    """One item in XNAT's nested form."""
    return {"children": list(children), "meta": {"xsi:type": xsi_type}, "data_fields": fields}


def _resource(folder: str, scan: archive.Scan) -> dict[str, Any]:
    """A scan's files, whose catalog has an absolute path on XNAT's machine (1.7)."""
    fields = {
        "label": scan.folder,
        "format": scan.folder,
        "URI": f"{folder}/{scan.id}/{scan.folder}/scan_{scan.id}_catalog.xml",
        "file_count": len(scan.files),
    }
    return _item("xnat:resourceCatalog", fields)
