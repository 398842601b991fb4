"""What JupyterLab's extension says about the end of its server, in Chromium, with stand-ins for JupyterLab and hub."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.site.conftest import ROOT

SCRIPT = ROOT / "files/singleuser/labextension/static/xnat.js"
HOUR = 3600
LONGEST = 140  # characters of a notification that JupyterLab shows
# Activates the extension. Two minutes after each answer of the hub, the page notes what is shown; its body has it all.
PAGE = """<!doctype html><body></body><script>
let answers = ANSWERS, asked = [], shown = {}, info = [], items = [], number = 0;
const answer = (status, body) => ({ status, ok: status < 300, json: async () => body });
window.fetch = async (url, options) => {
  if (url.endsWith("/message")) return answer(200, { message: "" });
  asked.push([url, options.headers.Authorization, options.credentials]);
  if (answers[0] === null) throw new TypeError("no hub");
  return answer(...answers[0]);
};
const Notification = {
  warning: (text) => { const id = `n${++number}`; shown[id] = text; return id; },
  info: (text) => info.push(text),
  dismiss: (id) => delete shown[id],
};
class Widget {
  node = document.createElement("div");
  setHidden(hidden) { this.hidden = hidden; }
}
const options = {
  hubHost: "https://hub.example.org", hubPrefix: "/jupyterhub/hub/", token: TOKEN,
  hubServerUser: "o'neil/x", hubServerName: "S1",
};
const PageConfig = { getOption: (name) => options[name] ?? "" };
const parts = {
  "@jupyterlab/launcher": { ILauncher: 1 }, "@jupyterlab/statusbar": { IStatusBar: 2 },
  "@jupyterlab/apputils": { Notification }, "@jupyterlab/coreutils": { PageConfig },
  "@jupyterlab/ui-components": {}, "@jupyterlab/filebrowser": { IDefaultFileBrowser: 3 }, "@lumino/widgets": { Widget },
};
const scope = {};
for (const [name, part] of Object.entries(parts)) scope[name] = { 1: { get: async () => () => part } };
</script><script>SCRIPT</script><script>
(async () => {
  const extension = window._JUPYTERLAB["xnat-jupyterhub"];
  extension.init(scope);
  const plugin = (await extension.get("./extension"))().default;
  const statusBar = { registerStatusItem: (id, { item }) => items.push(item) };
  plugin.activate({ commands: { addCommand: () => {} } }, { add: () => {} }, statusBar);
  const steps = [];
  do {
    await new Promise((resolve) => setTimeout(resolve, 120_000));
    const [button] = items.map((item) => item.node.firstChild);
    const item = { text: button?.textContent, title: button?.title, hidden: items[0]?.hidden };
    steps.push({ ...item, shown: Object.values(shown), number });
  } while (answers.shift() !== undefined && answers.length);
  items[0]?.node.firstChild.click();
  document.body.textContent = JSON.stringify({ steps, asked, info });
})();
</script>"""


def run(tmp_path: Path, *answers: tuple[int, object] | None, key: str = "t0ken") -> dict[str, Any]:
    """Show the extension what the hub answers, one answer in two minutes; None: the hub does not answer."""
    page = PAGE.replace("ANSWERS", json.dumps(answers)).replace("TOKEN", json.dumps(key))
    (tmp_path / "page.html").write_text(page.replace("SCRIPT", SCRIPT.read_text()))
    command = [
        "/usr/bin/chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
        f"--virtual-time-budget={120_000 * len(answers) + 60_000}", "--dump-dom", f"file://{tmp_path}/page.html",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    body = done.stdout.partition("<body>")[2].partition("</body>")[0]
    assert body.startswith("{"), done.stdout[-500:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(body.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    return found


def ends(
    lifetime: float | None = None, inactivity: float | None = None, maintenance: float | None = None
) -> tuple[int, object]:
    """Return the hub's answer. Arguments: seconds left."""
    limits = {"lifetime": 48 * HOUR, "inactivity": HOUR, "maintenance": None}
    seconds = {"lifetime": lifetime, "inactivity": inactivity, "maintenance": maintenance}
    return 200, {
        kind: None if left is None else {"limit": limits[kind], "left": left} for kind, left in seconds.items()
    }


@pytest.mark.parametrize(
    ("answer", "text", "parts"),
    [
        (ends(46.9 * HOUR, HOUR), "Ends in 46 hours", ["48 hours after its start", "ends after 60 minutes"]),
        (ends(None, HOUR), "Ends after 60 minutes without activity", ["ends after 60 minutes"]),
        (ends(46.9 * HOUR, 0), "Ends now", ["48 hours after its start", "Without activity, it ends shortly after"]),
        (ends(46.9 * HOUR), "Ends in 46 hours", ["48 hours after its start"]),
        (ends(), "", []),
        ((403, {}), "", []), ((404, {}), "", []),
        ((410, {}), "This server has ended", ["Start Jupyter again from XNAT"]),
    ],
)  # fmt: skip
def test_the_status_bar_says_calmly_when_the_server_ends(
    tmp_path: Path, answer: tuple[int, object], text: str, parts: list[str]
) -> None:
    found = run(tmp_path, answer)
    (step,) = found["steps"]
    assert (step["text"], step["hidden"], len(step["shown"])) == (text, not text, text == "Ends now")
    assert all(part in step["title"] for part in parts)
    assert all(len(shown) <= LONGEST for shown in [step["title"], *step["shown"]])
    assert found["info"] == [step["title"]]
    url = "https://hub.example.org/jupyterhub/hub/api/users/o'neil%2Fx/servers/S1/end"
    assert found["asked"][0] == [url, "token t0ken", "omit"]


def test_notifications_come_half_an_hour_and_ten_minutes_before_the_end_and_replace_each_other(tmp_path: Path) -> None:
    left = (35, 33, 30, 28, 10, 8)
    found = run(tmp_path, *[ends(60 * minutes, HOUR) for minutes in left])["steps"]
    # Two minutes after each answer, when the next one has come.
    assert [len(step["shown"]) for step in found] == [0, 0, 1, 1, 1, 1]
    assert [step["number"] for step in found] == [0, 0, 1, 1, 2, 2]
    assert "Save your work" in found[-1]["shown"][0]
    assert "48 hours after its start" in found[-1]["shown"][0]
    assert all(len(shown) <= LONGEST for step in found for shown in step["shown"])


def test_a_warning_goes_when_it_is_no_longer_true_and_stays_while_the_hub_restarts(tmp_path: Path) -> None:
    found = run(tmp_path, ends(9 * 60, HOUR), None, (503, {}), ends(40 * HOUR, 5 * 60), ends(40 * HOUR, HOUR))["steps"]
    assert ["XNAT ends" in "".join(step["shown"]) for step in found] == [True, True, True, True, False]
    assert "Without activity" in found[3]["shown"][0]
    assert found[4]["shown"] == []


def test_maintenance_is_told_at_once_and_before_xnats_limits(tmp_path: Path) -> None:
    found = run(tmp_path, ends(20 * 60, HOUR, 10 * 60), ends(18 * 60, HOUR))["steps"]
    assert "for maintenance" in found[0]["shown"][0]
    assert found[0]["text"] in ("Ends in 8 minutes", "Ends in 9 minutes", "Ends in 10 minutes")
    assert "48 hours" in found[1]["shown"][0]


def test_without_a_token_nobody_is_asked(tmp_path: Path) -> None:
    found = run(tmp_path, ends(60), key="")
    assert (found["asked"], found["steps"][0]["shown"]) == ([], [])
