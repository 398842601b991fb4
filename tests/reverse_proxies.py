"""The reverse proxies of docs/reverse-proxy.md: their files, with the addresses and paths of a test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/reverse-proxy.md"
PATH = f"{os.environ['PATH']}:/usr/sbin"
MODULES = "alias authz_core headers mpm_event proxy proxy_http socache_shmcb ssl"


@dataclass(frozen=True)
class Proxy:
    """A program. main: its file, with {file} for the documented part and {folder} for a directory of its own.
    arguments: {main} is the path of that file. other: what a machine has for other host names, at {other} of the file.
    """

    name: str
    program: str
    arguments: tuple[str, ...]
    main: str
    other: str = ""

    @property
    def found(self) -> str:
        """The program's path on this machine, empty without one."""
        return shutil.which(self.program, path=PATH) or ""

    def text(self, *, people: bool = False) -> str:
        """Return the documented file. people: with the documented changes for an origin for each person."""
        document = DOCUMENT.read_text()
        blocks: list[str] = re.findall(rf"```{self.name}\n(.*?)```", document, re.DOTALL)
        (block,) = blocks
        rows: list[str] = re.findall(rf"^\| {self.name} \|(.*)$", document, re.MULTILINE | re.IGNORECASE)
        (row,) = rows
        before, *after = re.findall("`(.*?)`", row) or [""]
        if not people or not before:
            return block
        assert block.count(f" {before}\n") == 2, before
        return re.sub(
            rf"^( *){re.escape(before)}$", "\n".join(rf"\1{line}" for line in after), block, flags=re.MULTILINE
        )

    def write(
        self, folder: Path, server: str, http: int, https: int, *, inside: str = "", people: bool | None = None
    ) -> Path:
        """Write the files and return the main one.

        server: address and port of the hub's proxy. http, https: ports to listen on. inside: the folder as the program
        sees it. people: whether there is an origin for each person; if not None, the machine also has other host names.
        """
        place = inside or str(folder)
        text = self.text(people=bool(people)).replace("192.0.2.11:8000", server)
        for before, after in (
            (r"/etc/haproxy/jupyter.example.org.pem|/etc/ssl/certs/\S+?\.pem|/etc/ssl/private/\S+?\.key", "/site.pem"),
            (r"/var/log/(nginx|apache2)/", "/"),
        ):
            text = re.sub(before, f"{place}{after}", text)
        for port, ours in ((80, http), (443, https)):
            text = re.sub(rf"(listen |\*:|bind :){port}\b", rf"\g<1>{ours}", text)
        (folder / "documented.conf").write_text(text)
        main = folder / "main.conf"
        listen = f"Listen {http}\nListen {https}"
        filled = {"{other}": "" if people is None else self.other, "{text}": text, "{file}": f"{place}/documented.conf",
                  "{folder}": place, "{listen}": listen, "{https}": str(https)}  # fmt: skip
        whole = self.main
        for key, value in filled.items():
            whole = whole.replace(key, value)
        main.write_text(whole)
        return main

    def command(self, main: str, program: str = "") -> list[str]:
        """Return the command that runs it in the foreground."""
        return [program or self.program, *(word.replace("{main}", main) for word in self.arguments)]

    def start(
        self, folder: Path, server: str, http: int, https: int, *, people: bool | None = None
    ) -> subprocess.Popen[bytes]:
        """Run it on this machine; its output is in the file `output`."""
        main = self.write(folder, server, http, https, people=people)
        with (folder / "output").open("wb") as output:
            return subprocess.Popen(self.command(str(main), self.found), stdout=output, stderr=output)


PROXIES = (
    Proxy(
        "nginx",
        "nginx",
        ("-e", "stderr", "-g", "daemon off;", "-c", "{main}"),
        "worker_processes 1;\npid {folder}/pid;\nevents {}\nhttp {\n"
        "client_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\nfastcgi_temp_path {folder}/f;\n"
        "uwsgi_temp_path {folder}/u;\nscgi_temp_path {folder}/s;\n{other}include {file};\n}\n",
        "server {\nlisten {https} ssl;\nserver_name other;\nssl_certificate {folder}/site.pem;\n"
        "ssl_certificate_key {folder}/site.pem;\nreturn 404;\n}\n",
    ),
    Proxy(
        "apache",
        "apache2",
        ("-DFOREGROUND", "-f", "{main}"),
        "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in MODULES.split())
        + "ServerName localhost\nServerRoot {folder}\nPidFile {folder}/pid\nErrorLog {folder}/main-error.log\n"
        "{listen}\nDefaultRuntimeDir {folder}\n{other}Include {file}\n",
        "<VirtualHost *:{https}>\nServerName other\nSSLEngine on\nSSLCertificateFile {folder}/site.pem\n"
        "SSLCertificateKeyFile {folder}/site.pem\nRedirect 404 /\n</VirtualHost>\n",
    ),
    Proxy(
        "haproxy",
        "haproxy",
        ("-db", "-f", "{main}"),
        "global\n    tune.bufsize 69632\n    tune.maxrewrite 4096\n\n{text}",
    ),
)
