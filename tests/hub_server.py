"""A Hub for tests: what the real huggingface_hub client asks for over HTTP, on localhost, with everything held in memory.

    with running_hub() as hub:      # hub.endpoint is its address; TOKENS says whose token is which
        HfApi(endpoint=hub.endpoint, token="hf_ann").create_repo("ann/face", private=True)

Repos of all kinds (models, datasets, spaces) are one class; `faults` and the fields of Repo make it misbehave on purpose.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
import yaml
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

TOKENS = {"hf_ann": "ann", "hf_bob": "bob"}
LARGE = (".safetensors", ".mp4", ".jpg", ".bin", ".pkl")  # what the Hub keeps in LFS, as its .gitattributes say
DROP_UPLOADS, DROP_DOWNLOADS = "drop uploads", "drop downloads"  # the line breaks half-way through a large file
UNPAID = "unpaid"  # Spaces cost something


class HubError(Exception):
    """An answer that is none. code goes into X-Error-Code, which the client turns into its error classes."""

    def __init__(self, status: int, code: str | None = None, message: str = "") -> None:
        self.status, self.code, self.message = status, code, message or code or "Error"


@dataclass
class Repo:
    """commits: (id, {path: bytes}), the last one is main. sizes: what the index claims instead of the truth. endless: files
    whose body is so many bytes long, whatever the index says, and has no Content-Length. settings: what else was asked for."""

    kind: str
    id: str
    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    endless: dict[str, int] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def commit(self, files: Mapping[str, bytes]) -> str:
        """A new state of the whole repo. Returns its id."""
        oid = hashlib.sha1(f"{self.kind} {self.id} {len(self.commits)} {time.time_ns()}".encode()).hexdigest()
        self.commits.append((oid, dict(files)))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        known = self.commits if revision == "main" else [commit for commit in self.commits if commit[0] == revision]
        if not known:
            raise HubError(404, "RevisionNotFound")
        return known[-1]

    def entry(self, path: str, content: bytes) -> dict:
        """A file as the index shows it."""
        size = self.sizes.get(path, len(content))
        shown = {"size": size, "oid": oid_of(path, content)}
        return shown | ({"lfs": {"size": size, "oid": oid_of(path, content), "pointerSize": 134}} if path.endswith(LARGE) else {})


class Hub:
    """The state of the server; tests read and change it while it runs."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}  # of LFS, by sha256
        self.faults: set[str] = set()
        self.requests: list[str] = []  # "GET /api/models/ann/face", ...
        self.sent = 0  # bytes of endless files

    def add(self, repo_id: str, files: Mapping[str, bytes], kind: str = "model", **fields) -> Repo:
        """A repo that is there already."""
        repo = self.repos[kind, repo_id] = Repo(kind, repo_id, **fields)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"} | dict(files))
        return repo

    def user(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def readable(self, request: Request, kind: str, repo_id: str) -> Repo:
        user, repo = self.user(request), self.repos.get((kind.removesuffix("s"), repo_id))
        if repo is None or (repo.private and user != repo_id.split("/")[0]):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        return repo

    def own(self, request: Request, owner: str | None) -> str:
        user = self.user(request)
        if user is None:
            raise HubError(401, None, "Invalid username or password.")
        if owner not in (None, user):
            raise HubError(403, None, f"You don't have the rights to write to {owner}")
        return user

    def writable(self, request: Request, kind: str, repo_id: str) -> Repo:
        repo = self.readable(request, kind, repo_id)
        self.own(request, repo_id.split("/")[0])
        return repo

    def without_end(self, length: int) -> Iterator[bytes]:
        for _ in range(length // 2**20):
            self.sent += 2**20
            yield bytes(2**20)


def oid_of(path: str, content: bytes) -> str:
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def cut_off(content: bytes, declared: int) -> StreamingResponse:
    """An answer that breaks off: the connection closes before as much has come as was promised."""

    def body() -> Iterator[bytes]:
        yield content
        raise ConnectionAbortedError("on purpose")

    return StreamingResponse(body(), headers={"Content-Length": str(declared)})


def make_app(hub: Hub) -> FastAPI:
    """Every route; repo ids are owner/name, kinds are plural as in the client's addresses."""
    app = FastAPI()

    @app.middleware("http")
    async def noted(request: Request, following):
        hub.requests.append(f"{request.method} {request.url.path}")
        return await following(request)

    @app.exception_handler(HubError)
    async def said(_: Request, error: HubError) -> JSONResponse:
        headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
        return JSONResponse({"error": error.message}, error.status, headers)

    @app.get("/api/whoami-v2")
    def whoami(request: Request) -> dict:
        return {"type": "user", "name": hub.own(request, None), "orgs": [], "auth": {"type": "access_token"}}

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> Response:
        parts = (await request.json())["content"].split("---\n")
        try:
            usable = len(parts) >= 3 and isinstance(yaml.safe_load(parts[1]), dict)
        except yaml.YAMLError:
            usable = False
        errors = [] if usable else [{"message": "the head of the card is no YAML"}]
        return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)

    # --- Repos -----------------------------------------------------------------------------------------------------------------

    @app.post("/api/repos/create")
    async def create(request: Request) -> Response:
        wanted = await request.json()
        kind, owner = wanted.pop("type", None) or "model", hub.own(request, wanted.pop("organization", None))
        repo_id = f"{owner}/{wanted.pop('name')}"
        if kind == "space" and UNPAID in hub.faults:
            raise HubError(402, None, "A PRO subscription is needed")
        url = f"{hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
        if (kind, repo_id) in hub.repos:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        repo = hub.add(repo_id, {}, kind, private=wanted.pop("visibility", "public") == "private")
        repo.settings.update(wanted)
        return JSONResponse({"url": url, "id": repo_id})

    @app.delete("/api/repos/delete")
    async def delete(request: Request) -> dict:
        wanted = await request.json()
        kind, repo_id = wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}"
        hub.writable(request, kind, repo_id)
        del hub.repos[kind, repo_id]
        return {}

    @app.put("/api/{kind}/{owner}/{name}/settings")
    async def settings(request: Request, kind: str, owner: str, name: str) -> dict:
        repo, wanted = hub.writable(request, kind, f"{owner}/{name}"), await request.json()
        repo.private = wanted.get("visibility", "private" if repo.private else "public") == "private"
        return {}

    @app.get("/api/{kind}/{owner}/{name}")
    @app.get("/api/{kind}/{owner}/{name}/revision/{revision}")
    def info(request: Request, kind: str, owner: str, name: str, revision: str = "main") -> dict:
        repo = hub.readable(request, kind, f"{owner}/{name}")
        oid, files = repo.at(revision)
        siblings = []
        for path, content in files.items():
            entry = repo.entry(path, content)
            shown = {"size": entry["size"], "blobId": entry["oid"]}
            if "lfs" in entry:
                shown["lfs"] = entry["lfs"] | {"sha256": entry["oid"]}
            siblings.append({"rfilename": path} | (shown if "blobs" in request.query_params else {}))
        return {"id": repo.id, "sha": oid, "private": repo.private, "gated": repo.gated, "siblings": siblings}

    @app.get("/api/{kind}/{owner}/{name}/tree/{revision}")
    def tree(request: Request, kind: str, owner: str, name: str, revision: str) -> list:
        repo = hub.readable(request, kind, f"{owner}/{name}")
        return [{"type": "file", "path": path} | repo.entry(path, content) for path, content in repo.at(revision)[1].items()]

    # --- Spaces ----------------------------------------------------------------------------------------------------------------

    @app.get("/api/spaces/{owner}/{name}/variables")
    def variables(request: Request, owner: str, name: str) -> dict:
        space = hub.writable(request, "spaces", f"{owner}/{name}")
        return {key: {"value": value} for key, value in space.settings.get("variables", {}).items()}

    @app.post("/api/spaces/{owner}/{name}/variables")
    async def set_variable(request: Request, owner: str, name: str) -> dict:
        space, wanted = hub.writable(request, "spaces", f"{owner}/{name}"), await request.json()
        space.settings.setdefault("variables", {})[wanted["key"]] = wanted["value"]
        return variables(request, owner, name)

    @app.get("/api/spaces/{owner}/{name}/runtime")
    def runtime(request: Request, owner: str, name: str) -> dict:
        asked = hub.readable(request, "spaces", f"{owner}/{name}").settings
        return {"stage": "BUILDING", "hardware": {"requested": asked.get("hardware")}, "volumes": asked.get("volumes")}

    @app.post("/api/spaces/{owner}/{name}/hardware")
    async def set_hardware(request: Request, owner: str, name: str) -> dict:
        hub.writable(request, "spaces", f"{owner}/{name}").settings["hardware"] = (await request.json())["flavor"]
        return runtime(request, owner, name)

    @app.put("/api/spaces/{owner}/{name}/volumes")
    async def set_volumes(request: Request, owner: str, name: str) -> dict:
        hub.writable(request, "spaces", f"{owner}/{name}").settings["volumes"] = (await request.json())["volumes"]
        return {}

    @app.post("/api/buckets/{owner}/{name}")
    async def bucket(request: Request, owner: str, name: str) -> Response:
        hub.own(request, owner)
        there, wanted = ("bucket", f"{owner}/{name}") in hub.repos, await request.json()
        if not there:
            hub.add(f"{owner}/{name}", {}, "bucket", private=wanted.get("visibility") == "private")
        return JSONResponse({"url": f"{hub.endpoint}/buckets/{owner}/{name}"}, 409 if there else 200)

    # --- Downloads -------------------------------------------------------------------------------------------------------------

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    @app.api_route("/{kind}/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    def resolve(request: Request, owner: str, name: str, revision: str, path: str, kind: str = "models") -> Response:
        repo = hub.readable(request, kind, f"{owner}/{name}")
        if repo.gated and hub.user(request) != owner:
            raise HubError(403, "GatedRepo", "Access to this repo is restricted")
        oid, files = repo.at(revision)
        if path not in files:
            raise HubError(404, "EntryNotFound")
        content = files[path]
        headers = {"ETag": f'"{oid_of(path, content)}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return Response(headers=headers | {"Content-Length": str(repo.sizes.get(path, len(content)))})
        if path in repo.endless:
            return StreamingResponse(hub.without_end(repo.endless[path]), headers=headers)
        first = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if path.endswith(LARGE) and DROP_DOWNLOADS in hub.faults:
            return cut_off(content[first : len(content) // 2], len(content) - first)
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return Response(content[first:], 206 if first else 200, headers, "application/octet-stream")

    # --- Uploads ---------------------------------------------------------------------------------------------------------------

    @app.post("/api/{kind}/{owner}/{name}/preupload/{revision}")
    async def preupload(request: Request, kind: str, owner: str, name: str, revision: str) -> dict:
        repo, answers = hub.writable(request, kind, f"{owner}/{name}"), []
        for path in (file["path"] for file in (await request.json())["files"]):
            known = oid_of(path, repo.files[path]) if path in repo.files else None
            mode = "lfs" if path.endswith(LARGE) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return {"files": answers}

    @app.post("/{owner}/{name}.git/info/lfs/objects/batch")
    @app.post("/{kind}/{owner}/{name}.git/info/lfs/objects/batch")
    async def batch(request: Request, owner: str, name: str, kind: str = "models") -> dict:
        hub.writable(request, kind, f"{owner}/{name}")
        objects = []
        for wanted in (await request.json())["objects"]:
            href = {"upload": {"href": f"{hub.endpoint}/blobs/{wanted['oid']}"}}
            objects.append(wanted if wanted["oid"] in hub.blobs else wanted | {"actions": href})
        return {"transfer": "basic", "objects": objects}

    @app.put("/blobs/{oid}")
    async def put(request: Request, oid: str) -> Response:
        if DROP_UPLOADS in hub.faults:
            return cut_off(b"", 1)
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, None, "this is another file than was announced")
        hub.blobs[oid] = content
        return Response()

    @app.post("/api/{kind}/{owner}/{name}/commit/{revision}")
    async def commit(request: Request, kind: str, owner: str, name: str, revision: str) -> dict:
        repo = hub.writable(request, kind, f"{owner}/{name}")
        files = dict(repo.at(revision)[1])
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            path = entry["value"].get("path")
            if entry["key"] == "file":
                files[path] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                if entry["value"]["oid"] not in hub.blobs:
                    raise HubError(400, None, f"{path} was not uploaded")
                files[path] = hub.blobs[entry["value"]["oid"]]
            elif entry["key"] in ("deletedFile", "deletedFolder"):
                files = {known: content for known, content in files.items() if known != path and not known.startswith(f"{path}/")}
        oid = repo.commit(files)
        return {"success": True, "commitOid": oid, "commitUrl": f"{hub.endpoint}/{repo.id}/commit/{oid}"}

    return app


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub at hub.endpoint, in a thread of this process, until the block ends."""
    hub, line = Hub(), socket.socket()
    line.bind(("127.0.0.1", 0))
    hub.endpoint = f"http://127.0.0.1:{line.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(make_app(hub), log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [line]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join()
        line.close()
