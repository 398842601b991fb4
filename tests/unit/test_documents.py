"""What the documents say exists: commands, options, variables, paths, links, services, labels, and quoted messages.

In a block ```console, each line that begins with `$ ` is a command that this test understands and checks; words like
NODE stand for what the reader has. A block ```console example is not checked. So are not blocks of other languages.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from jinja2 import nodes
from xnat_launcher.service import labels as server_labels

from module_utils.xnat_site.edge import EDGE_LABEL
from module_utils.xnat_site.firewall import TABLE
from module_utils.xnat_site.hosts import HUB_LABEL
from module_utils.xnat_site.variables import known_variables
from tests.unit.conftest import ROOT
from tests.unit.test_unused import JINJA, ansible_files, load, mappings, texts

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
LANGUAGES = {"", "text", "json", "yaml", "nginx", "apache", "haproxy", "console", "console example"}
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
OWN_SITES = ("mysite", "connected")  # copies of inventory/example that a reader makes
SWITCHES = {"--ask-vault-pass", "--check", "--diff"}
PLACEHOLDER = re.compile(r"[A-Z]{2,}")
TOP = (
    "benchmarks", "docs", "files", "filter_plugins", "inventory", "library", "module_utils", "molecule", "playbooks",
    "roles", "tests",
)  # fmt: skip
ROLES, VARIABLES = known_variables(ROOT)
DOCKER = {  # the options of the commands that the documents use
    "service ls": {"--filter"},
    "service ps": {"--no-trunc"},
    "service logs": {"--since", "--tail", "--timestamps"},
    "service inspect": set(),
    "node ls": set(),
    "node demote": set(),
    "node update": {"--label-rm"},
    "swarm leave": {"--force"},
    "swarm init": {"--force-new-cluster", "--advertise-addr"},
    "volume inspect": {"--format"},
    "info": set(),
    "login": set(),
}
# Programs of the system or of other projects, which take what the reader has.
OTHERS = {"cp", "df", "findmnt", "journalctl", "nft", "pip", "ss", "stat", "systemctl", "tar", "umount"}
PROGRAMS = {"make", "docker", "ansible-playbook", "ansible-vault", "ansible-doc", *OTHERS}


# ---- reading


@dataclass(frozen=True)
class Document:
    """A page. name: its path in the project."""

    name: str
    text: str

    def blocks(self) -> list[tuple[str, str]]:
        """Language and content of each block."""
        return [(match[2].strip(), match[3]) for match in FENCE.finditer(self.text)]

    def prose(self) -> str:
        """The text without blocks."""
        return FENCE.sub("", self.text)

    def spans(self) -> list[str]:
        """The code within the text, each on one line."""
        paragraphs = re.split(r"\n\s*\n", self.prose())
        return [" ".join(span.split()) for paragraph in paragraphs for span in SPAN.findall(paragraph)]

    def commands(self) -> list[str]:
        """The commands of all blocks that are no examples, and those within the text."""
        blocks = [text for language, text in self.blocks() if language == "console"]
        lines = [line.strip() for text in blocks for line in text.splitlines()]
        inline = [span for span in self.spans() if " " in span and Path(span.split()[0]).name in PROGRAMS]
        return [*(line.removeprefix("$ ") for line in lines if line.startswith("$ ")), *inline]

    def anchors(self) -> set[str]:
        """The anchors of its headings, as GitHub makes them."""
        found: set[str] = set()
        for heading in re.findall(r"^#+ (.+)$", self.prose(), re.MULTILINE):
            slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
            found.add(next(one for n in itertools.count() if (one := slug if not n else f"{slug}-{n}") not in found))
        return found


def read(name: str) -> Document:
    return Document(name, (ROOT / name).read_text())


# ---- commands


def command_findings(document: Document) -> Iterator[str]:
    for language, text in document.blocks():
        if language not in LANGUAGES:
            yield f"the language {language!r} of a block is not known"
        if language.startswith("console") and not re.search(r"^ *\$ ", text, re.MULTILINE):
            yield f"a block without a command: {text!r}"
        if not language.startswith("console") and re.search(r"^ *\$ ", text, re.MULTILINE):
            yield f"a command in a block {language!r}: {text!r}"
    if len(re.findall(r"^ *```", document.text, re.MULTILINE)) != 2 * len(document.blocks()):
        yield "a block is not closed, or with another indentation"
    for line in document.commands():
        yield from (f"{line}: {reason}" for reason in line_findings(line))


def line_findings(line: str) -> Iterator[str]:
    inner = re.findall(r"\$\(([^()]*)\)", line)
    for command in inner:
        yield from line_findings(command)
    try:
        words = shlex.split(re.sub(r"\$\([^()]*\)", "RESULT", line), comments=True)
    except ValueError as error:
        yield str(error)
        return
    program = Path(words[0]).name
    check = CHECKS.get(program)
    if check is None and program not in OTHERS:
        yield f"{program} is not known to this test: mark the block as `console example`"
    if words[0].startswith(".venv/") and program not in CHECKS:
        yield f"{program} is not in .venv"
    if check is not None:
        yield from check(words[1:])


def make_findings(words: list[str]) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals and name not in targets:
            yield f"there is no target {name}"
        elif equals and not re.search(rf"\$[({{](or )?(\$\()?{name}\b", makefile):
            yield f"the Makefile has no variable {name}"


def playbook_findings(words: list[str]) -> Iterator[str]:
    playbook, *rest = words
    if not (ROOT / playbook).is_file():
        yield f"there is no {playbook}"
        return
    plays = with_imports(ROOT / playbook)
    tags = {tag for path in plays for play in load(path) for tag in play.get("tags", ())}
    given = iter(rest)
    inventories = 0
    for word in given:
        if word in SWITCHES:
            continue
        value = next(given, "")
        if word == "-i":
            inventories += 1
            name = value.removeprefix("inventory/")
            if name not in OWN_SITES and not (ROOT / "inventory" / name).is_dir():
                yield f"there is no inventory {value}"
        elif word == "-e":
            name = value.partition("=")[0]
            if not is_read(name, plays):
                yield f"nothing reads {name}"
        elif word in {"--tags", "--skip-tags"}:
            yield from (f"no play has the tag {tag}" for tag in value.split(",") if tag not in tags)
        else:
            yield f"the option {word} is not known to this test"
    if inventories != 1:
        yield "it needs -i and an inventory"


def is_read(name: str, plays: Iterable[Path]) -> bool:
    """Whether `-e name=VALUE` has an effect: it is a role's or a site's, or these plays read it and do not set it."""
    read_here, made = names_of(frozenset(plays))
    return name in VARIABLES or name in read_here - made


@functools.cache
def names_of(plays: frozenset[Path]) -> tuple[set[str], set[str]]:
    """Return the variables that playbooks read, and those that they set."""
    expressions = [JINJA.parse(text) for path in plays for text in texts(load(path))]
    names = {found.name for expression in expressions for found in expression.find_all(nodes.Name)}
    return names, {one for path in plays for mapping in mappings(load(path)) for one in mapping.get("vars") or ()}


def with_imports(path: Path) -> set[Path]:
    found = {path}
    for play in load(path):
        if name := play.get("ansible.builtin.import_playbook"):
            found |= with_imports(path.parent / name)
    return found


def vault_findings(words: list[str]) -> Iterator[str]:
    if words[0] not in {"create", "edit"}:
        yield f"{words[0]} is neither create nor edit"
    if not re.fullmatch(r"(inventory/mysite|INVENTORY)/group_vars/all/vault\.yml", words[1]):
        yield f"{words[1]} is not the vault of an inventory"


def doc_findings(words: list[str]) -> Iterator[str]:
    kind, name = words[1], words[-1]
    if words[0] != "-t" or kind not in DOCUMENTED:
        yield "it needs -t role, filter or module"
    elif not PLACEHOLDER.fullmatch(name) and name not in DOCUMENTED[kind]:
        yield f"there is no {kind} {name}"
    elif kind == "role" and words[2:4] != ["-r", "roles"]:
        yield "roles need -r roles"


def docker_findings(words: list[str]) -> Iterator[str]:
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in DOCKER), None)
    if name is None:
        yield "this command of docker is not known to this test"
        return
    for word in words[len(name.split()) :]:
        if word.startswith("-") and word.partition("=")[0] not in DOCKER[name]:
            yield f"the option {word} is not known to this test"
        if (label := re.search(r"org\.xnat\.jupyterhub[\w.<>-]*", word)) and label[0] not in labels():
            yield f"no code has the label {label[0]}"
        named = re.fullmatch(r"(?:<deployment>|jupyterhub)-(.+)", word)
        if named and named[1] not in suffixes():
            yield f"no code has the name {word}"
    last = words[-1]
    if name in {"service logs", "service ps"} and not re.match(r"<deployment>-|jupyterhub-|[A-Z]+$", last):
        yield f"{last} is neither a service nor a word for the reader's own"


def copy_findings(words: list[str]) -> Iterator[str]:
    if not (ROOT / words[-2]).exists():
        yield f"there is no {words[-2]}"


def nft_findings(words: list[str]) -> Iterator[str]:
    if words != ["list", "table", "inet", TABLE]:
        yield "this is not the table of the firewall"


def unit_findings(words: list[str]) -> Iterator[str]:
    if not any(source(text) for text in (f'"{words[-1]}', f"{words[-1]}.service", f"name: {words[-1]}\n")):
        yield f"there is no unit {words[-1]}"


CHECKS: dict[str, Callable[[list[str]], Iterable[str]]] = {
    "make": make_findings,
    "ansible-playbook": playbook_findings,
    "ansible-vault": vault_findings,
    "ansible-doc": doc_findings,
    "docker": docker_findings,
    "cp": copy_findings,
    "nft": nft_findings,
    "systemctl": unit_findings,
}
DOCUMENTED = {
    "role": {path.parents[1].name for path in ROOT.glob("roles/*/meta/argument_specs.yml")},
    "filter": {path.stem for path in ROOT.glob("filter_plugins/*.yml")},
    "module": {path.stem for path in ROOT.glob("library/*.py")},
}


@functools.cache
def code() -> str:
    """The text of everything that runs on a site."""
    patterns = ("files/**/*.py", "library/*.py", "module_utils/**/*.py", "roles/**/*.yml", "playbooks/*.yml")
    return "\n".join(path.read_text() for pattern in patterns for path in sorted(ROOT.glob(pattern)))


def source(words: str) -> bool:
    return words in code()


@functools.cache
def labels() -> set[str]:
    """The labels of servers' services and of nodes, with <deployment> for the deployment's name."""
    return {*server_labels("d", "u", "s", "p"), *(f"{label}.<deployment>" for label in (HUB_LABEL, EDGE_LABEL))}


@functools.cache
def suffixes() -> set[str]:
    """What follows the deployment's name in names of services, volumes and networks."""
    return set(re.findall(r"(?:jupyterhub_name|_deployment|deployment) \}\}-([a-z-]+)", code()))


# ---- paths, variables, links


def path_findings(document: Document) -> Iterator[str]:
    for span in document.spans():
        if re.fullmatch(rf"({'|'.join(TOP)})/[\w./*{{}},<>-]*", span):
            yield from (f"there is no {span}" for path in expanded(span) if not exists(path))


def expanded(path: str) -> list[str]:
    """`a/{b,c}.yml` as a shell expands it, with the example for a site of the reader's."""
    path = re.sub(r"^inventory/(<site>|SITE|mysite|connected)", "inventory/example", path)
    if match := re.search(r"\{([^{}]*)\}", path):
        return [one for part in match[1].split(",") for one in expanded(path.replace(match[0], part, 1))]
    return [path]


def exists(path: str) -> bool:
    made = ("group_vars/all/vault.yml", ".secrets")  # by the reader, or by a run
    return any(name in path for name in made) or any(ROOT.glob(path.rstrip("/")))


@functools.cache
def words_of_inventories() -> set[str]:
    return {word for path in ROOT.glob("inventory/**/*.yml") for word in re.findall(r"\w+", path.read_text())}


@functools.cache
def defined() -> set[str]:
    return set(re.findall(r"def (\w+)", code())) | DOCUMENTED["module"] | DOCUMENTED["filter"] | ROLES


def variable_findings(document: Document) -> Iterator[str]:
    role = rf"(?:{'|'.join(sorted(ROLES))})_\w+"
    playbooks = {ROOT / "site.yml", *ROOT.glob("playbooks/*.yml")}
    for span in document.spans():
        if (extra := re.match(r'-e "?(\w+)=', span)) and not is_read(extra[1], playbooks):
            yield f"no playbook reads {extra[1]}"
        if not (match := re.fullmatch(rf"(?:-e )?((?:site|vault)_\w+|{role})(\*?)(?:(?::|=| ).*)?", span)):
            continue
        name, many = match[1], match[2]
        known = VARIABLES | {word for word in words_of_inventories() if word.startswith("vault_")} | defined()
        if not (any(one.startswith(name) for one in known) if many else name in known or f"{name}.yml" in span):
            yield f"there is no variable {span}"


def link_findings(document: Document) -> Iterator[str]:
    folder = (ROOT / document.name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", document.prose()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (folder / name).resolve() if name else ROOT / document.name
        if not path.exists():
            yield f"there is no {target}"
        elif anchor:
            page = Document(name, path.read_text()) if name else document
            if anchor not in page.anchors():
                yield f"{target}: there is no such heading"


# ---- messages


HOLE = "\0"


@functools.cache
def messages() -> list[str]:
    """Every text of the code, with a hole for each value that it gets when it runs."""
    python = [path for name in ("files", "library", "module_utils") for path in ROOT.glob(f"{name}/**/*.py")]
    found = [text for path in python for text in python_texts(path)]
    found += [text for path in ansible_files() for text in yaml_texts(path)]
    pages = (*ROOT.glob("files/templates/*.html"), *ROOT.glob("files/egress/errors/*"))
    found += [re.sub(r"\{\{.*?\}\}|\{%.*?%\}|%[Hp]", HOLE, path.read_text()) for path in pages]
    return [" ".join(text.split()) for text in found]


def python_texts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[rsdi]", HOLE, node.value)
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)


def yaml_texts(path: Path) -> Iterator[str]:
    for mapping in mappings(load(path)):
        for value in mapping.values():
            if isinstance(value, str):
                yield re.sub(r"\{\{.*?\}\}", HOLE, value, flags=re.DOTALL)
                literals = re.findall(r"'([^']*)'", value)
                yield HOLE.join(literals)


def message_findings(document: Document) -> Iterator[str]:
    """Of a page that quotes messages in bold."""
    quoted = [" ".join(text.split()) for text in re.findall(r"\*\*`([^`]+)`\*\*", document.prose())]
    for text in quoted:
        parts = [part.strip() for part in text.split("…") if part.strip()]
        if sum(len(part) for part in parts) < 10:
            yield f"too few words to find it: {text}"
        pattern = re.compile(".*?".join(re.escape(part) for part in parts))
        if not any(pattern.search(message) for message in messages()):
            yield f"no code has this message: {text}"
    rows = document.prose().partition("| Check | Think of |")[2]
    names = re.findall(r"^\| (?!-)([^|]+) \|", rows, re.MULTILINE)
    checks = set(messages())
    yield from (f"the smoke test has no check {name!r}" for name in names if name not in checks)


RULES: dict[str, Callable[[Document], Iterable[str]]] = {
    "commands": command_findings,
    "paths": path_findings,
    "variables": variable_findings,
    "links": link_findings,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md"])
def test_what_a_page_names_exists(name: str, rule: str) -> None:
    assert list(RULES[rule](read(name))) == []


@pytest.mark.parametrize("name", ["CHANGELOG.md", "benchmarks/README.md"])
def test_links_of_the_other_pages_lead_somewhere(name: str) -> None:
    assert list(link_findings(read(name))) == []


def test_every_message_of_troubleshooting_is_one_of_the_code() -> None:
    page = read("docs/troubleshooting.md")
    assert len(re.findall(r"\*\*`", page.text)) > 80
    assert list(message_findings(page)) == []


def test_the_first_lines_have_the_two_commands() -> None:
    (_, block), *_ = read("README.md").blocks()
    assert [line.split("#")[0].split() for line in block.splitlines()] == [["$", "make", "demo"], ["$", "make", "test"]]
    assert "exec make test" in (ROOT / ".ci/run").read_text()


def test_every_page_and_every_playbook_is_documented() -> None:
    assert [page for page in PAGES if page != "README.md" and f"({page})" not in read("README.md").text] == []
    rows = set(re.findall(r"^\| `([\w/]+\.yml)` \|", read("docs/operations.md").text, re.MULTILINE))
    shared = {"playbooks/inventory.yml", "playbooks/gather.yml"}
    assert rows == {"site.yml", *(f"playbooks/{path.name}" for path in ROOT.glob("playbooks/*.yml"))} - shared


def test_the_documentation_of_the_named_roles_filters_and_modules_can_be_shown() -> None:
    asked: dict[str, set[str]] = {}
    for name in PAGES:
        for line in read(name).commands():
            words = shlex.split(line, comments=True)
            if Path(words[0]).name == "ansible-doc" and not PLACEHOLDER.fullmatch(words[-1]):
                asked.setdefault(words[2], set()).add(words[-1])
    assert set(asked) == set(DOCUMENTED)
    for kind, names in asked.items():
        roles = ["-r", "roles"] if kind == "role" else []
        program = str(Path(sys.executable).with_name("ansible-doc"))
        words = [program, "-t", kind, *roles, *sorted(names)]
        run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert all(name in run.stdout for name in names)


def test_pages_and_sections_that_the_code_names_exist() -> None:
    contract = read("docs/xnat-contract.md").text
    sections = set(re.findall(r"^(?:#+|\|) (\d+\.\d[\d.]*)\b", contract, re.MULTILINE))
    files = [path for top in TOP for path in (ROOT / top).rglob("*") if path.suffix in {".py", ".yml", ".md", ".html"}]
    assert len(files) > 400
    missing = set()
    for path in {*files, ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"}:
        text = path.read_text() if path != Path(__file__) else ""
        missing |= {f"{path}: {page}" for page in re.findall(r"\bdocs/[\w-]+\.md", text) if not (ROOT / page).exists()}
        cited = re.findall(r"(?:docs/xnat-contract\.md|\bcontract),? (\d+(?:\.\d+)+)", text)
        missing |= {f"{path}: contract {number}" for number in cited if number not in sections}
    assert sorted(missing) == []


# Each replaces something true by something false.
@pytest.mark.parametrize(
    ("name", "old", "new", "rule"),
    [
        ("README.md", "make demo-verify", "make demo-verfy", command_findings),
        ("README.md", "make demo TLS=true", "make demo TSL=true", command_findings),
        ("README.md", "site.yml -i inventory/mysite", "site.yml", command_findings),
        ("README.md", "-i inventory/mysite", "-i inventory/demmo", command_findings),
        ("README.md", "playbooks/preflight.yml -i", "playbooks/prefight.yml -i", command_findings),
        ("README.md", "cp -r inventory/example", "cp -r inventory/exmple", command_findings),
        ("README.md", "```console example", "```console", command_findings),
        ("README.md", "$ cd xnat-jupyterhub\n```", "$ cd xnat-jupyterhub\n ```", command_findings),
        ("README.md", "docs/site.md)", "docs/sites.md)", link_findings),
        ("README.md", "docs/architecture.md#limits", "docs/architecture.md#limit", link_findings),
        ("README.md", "`tests/swarm`", "`tests/swarms`", path_findings),
        ("README.md", "`site_demo_listen_address`", "`site_demo_address`", variable_findings),
        ("docs/site.md", "--skip-tags xnat,", "--skip-tags xnats,", command_findings),
        ("docs/site.md", "-e bundle_dir=", "-e bundle_directory=", command_findings),
        ("docs/site.md", "roles node_storage`", "roles node_store`", command_findings),
        ("docs/settings.md", "filter xnat_mount_policy", "filter xnat_mounts_policy", command_findings),
        ("docs/settings.md", "`edge_renew_days`", "`edge_renewal_days`", variable_findings),
        ("docs/operations.md", "<deployment>-hub\n", "<deployment>-hubb\n", command_findings),
        ("docs/operations.md", "org.xnat.jupyterhub.user=", "org.xnat.jupyterhub.person=", command_findings),
        ("docs/operations.md", "jupyterhub.hub.<deployment>", "jupyterhub.database.<deployment>", command_findings),
        ("docs/operations.md", "-e rotate=", "-e rotation=", command_findings),
        ("docs/operations.md", "`-e reboot=true`", "`-e boot=true`", variable_findings),
        ("docs/operations.md", "inspect --format", "inspect --formt", command_findings),
        ("docs/operations.md", "<deployment>-audit)", "<deployment>-audits)", command_findings),
        ("docs/operations.md", "xnat-jupyter-firewall`", "xnat-firewall`", command_findings),
        ("docs/edges.md", "`edge_logins_each`", "`edge_logins_all`", variable_findings),
        ("docs/tested.md", "`make test-vm`", "`make test-vms`", command_findings),
        ("docs/troubleshooting.md", "has no address left", "has no free address", message_findings),
        ("docs/troubleshooting.md", "| the certificates last |", "| certificates last |", message_findings),
        ("docs/troubleshooting.md", "#the-hubs-node-is-lost", "#the-hub-is-lost", link_findings),
    ],
)  # fmt: skip
def test_the_rules_find_what_is_wrong(name: str, old: str, new: str, rule: Callable[[Document], Iterable[str]]) -> None:
    page = read(name)
    assert old in page.text
    assert list(rule(Document(name, page.text.replace(old, new)))) != []
