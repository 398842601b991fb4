// XNAT in JupyterLab: a card for the notebook "Start here" on the launcher page, a mark on read-only directories in the file
// browser, the message of the site, when the server ends, and JupyterLab's files if the hub no longer has them. Plain JavaScript in
// the form that JupyterLab loads (module federation): there is nothing to build. Modules of JupyterLab are taken from those that it shares.
"use strict";
(() => {
  const NAME = "xnat-jupyterhub";
  const COMMAND = "xnat:start-here";
  const START = /^Start here( \(XNAT( \d+)?\))?\.ipynb$/; // xnat_notebook/contents.py gives it its name
  const MESSAGE_INTERVAL = 120_000; // milliseconds between two questions for the site's message
  const MINUTE = 60_000; // milliseconds
  const END_INTERVAL = MINUTE; // between two questions when the server ends
  const ADVICE = "Save your work. Then start Jupyter again from XNAT."; // a notification shows 140 characters
  const ICON =
    "data:image/svg+xml," +
    encodeURIComponent(
      '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><circle cx="12" cy="12" r="11" fill="#1565c0"/>' +
        '<path d="M10 7.5v9l7-4.5z" fill="#fff"/></svg>',
    );
  // The end of an entry's tooltip says whether it is writable, in every language.
  const STYLE = `
    .jp-DirListing-item[data-file-type="directory"][title$="false"] .jp-DirListing-itemText::after {
      content: "read-only";
      margin-left: 6px;
      padding: 0 5px;
      border: 1px solid var(--jp-border-color1);
      border-radius: 8px;
      font-size: 80%;
      color: var(--jp-ui-font-color1);
      background: var(--jp-layout-color1);
    }
    .xnat-end {
      padding: 0 4px;
      border: 0;
      background: none;
      cursor: pointer;
    }
    .xnat-end:focus-visible {
      outline: 1px solid var(--jp-brand-color1);
    }`;

  let modules = {};

  async function shared(name) {
    const [version] = Object.values(modules[name] ?? {});
    return (await version.get())();
  }

  async function openStartHere(app) {
    const { content } = await app.serviceManager.contents.get("");
    const found = content.find((entry) => !entry.writable && START.test(entry.name));
    if (found) {
      await app.commands.execute("docmanager:open", { path: found.path });
    }
  }

  // JupyterLab shows the launcher page and the entries of the file browser only after it has saved the workspace that it has just
  // loaded, for which it waits 0.75 s. This does the same without that; what JupyterLab does later changes nothing then.
  async function showAtOnce(app, browser, treePath) {
    await app.restored;
    if (browser && !treePath) {
      await browser.model.restore(browser.id);
      browser.removeClass("jp-mod-restoring");
      if (app.shell.isEmpty("main")) {
        await app.commands.execute("launcher:create");
      }
    }
  }

  function watchMessage(PageConfig, Notification) {
    const hub = PageConfig.getOption("hubPrefix");
    let shown = { text: "", id: "" };
    const ask = async () => {
      const answer = await fetch(`${PageConfig.getOption("hubHost")}${hub}message`, { credentials: "omit" });
      const text = answer.ok ? String((await answer.json()).message) : shown.text;
      if (text !== shown.text) {
        if (shown.id) {
          Notification.dismiss(shown.id);
        }
        shown = { text, id: text ? Notification.warning(text, { autoClose: false }) : "" };
      }
    };
    const tick = () => ask().catch(() => {}); // the hub restarts: ask again later
    if (hub) {
      tick();
      setInterval(tick, MESSAGE_INTERVAL);
    }
  }

  // The page may have named the hub's copy of JupyterLab's files (xnat_notebook/page.py). JupyterLab loads most of them later, when
  // the hub may be restarting, or may have those of another release. So a script that cannot be loaded from there comes from the
  // server itself. JupyterLab does not notice: it waits for the script's content, whichever element brings it.
  function loadMissingScripts() {
    const options = JSON.parse(document.getElementById("jupyter-config-data")?.textContent ?? "{}");
    const { baseUrl, fullStaticUrl = "", hubHost = "", hubPrefix = "" } = options;
    if (!hubPrefix || !fullStaticUrl.startsWith(`${hubHost}${hubPrefix}assets/`)) {
      return;
    }
    const own = new URL(`${baseUrl}static/lab/`, location.href).href;
    const shared = new URL(`${fullStaticUrl}/`, location.href).href;
    const onError = (event) => {
      const missing = event.target;
      if (!(missing instanceof HTMLScriptElement) || !missing.src.startsWith(shared)) {
        return;
      }
      event.stopImmediatePropagation();
      const script = document.createElement("script");
      script.onload = missing.onload;
      script.onerror = missing.onerror;
      script.src = own + missing.src.slice(shared.length);
      missing.replaceWith(script);
    };
    document.addEventListener("error", onError, true);
  }

  // An end is {kind, at, limit}: its reason, when (milliseconds since the epoch), and XNAT's limit (milliseconds).

  function duration(milliseconds) {
    const minutes = Math.max(1, Math.floor(milliseconds / MINUTE));
    const [number, unit] = minutes < 120 ? [minutes, "minute"] : [Math.floor(minutes / 60), "hour"];
    return `${number} ${unit}${number === 1 ? "" : "s"}`;
  }

  function clock(at) {
    const date = new Date(at);
    const day = date.toDateString() === new Date().toDateString() ? {} : { weekday: "long" };
    return date.toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit" });
  }

  // XNAT looks for servers to end every five minutes.
  function sentence({ kind, at, limit }) {
    return {
      lifetime: `XNAT ends this server shortly after ${clock(at)}, ${duration(limit)} after its start.`,
      inactivity: `Without activity, XNAT ends this server shortly after ${clock(at)}.`,
      maintenance: `This server ends at ${clock(at)} for maintenance.`,
    }[kind];
  }

  // The warning that is due, as minutes before the end; Infinity for none. The hub learns of activity up to five minutes late.
  function due({ kind, at, limit }, now) {
    const warnings = {
      lifetime: [10, 30],
      inactivity: [Math.min(10, limit / MINUTE / 4)],
      maintenance: [Number.MAX_SAFE_INTEGER],
    }[kind];
    return warnings.find((minutes) => at - now <= minutes * MINUTE) ?? Infinity;
  }

  function summary(ends, now) {
    const idle = ends.find((end) => end.kind === "inactivity");
    const first = ends.find((end) => end !== idle || due(end, now) < Infinity);
    if (first) {
      return first.at > now ? `Ends in ${duration(first.at - now)}` : "Ends now";
    }
    return idle ? `Ends after ${duration(idle.limit)} without activity` : "";
  }

  function explained(ends, now) {
    const idle = ends.find((end) => end.kind === "inactivity");
    const first = ends.find((end) => end !== idle);
    const sentences = first ? [sentence(first)] : [];
    if (idle) {
      const when = due(idle, now) < Infinity ? `shortly after ${clock(idle.at)}` : `after ${duration(idle.limit)}`;
      sentences.push(`Without activity, ${first ? "it" : "this server"} ends ${when}.`);
    }
    return sentences.join(" ");
  }

  function watchEnd(PageConfig, Notification, Widget, statusBar) {
    const [hub, token, user] = ["hubPrefix", "token", "hubServerUser"].map((name) => PageConfig.getOption(name));
    if (!hub || !token || !user) {
      return;
    }
    const name = PageConfig.getOption("hubServerName");
    const server = name ? `servers/${encodeURIComponent(name)}` : "server";
    const url = `${PageConfig.getOption("hubHost")}${hub}api/users/${encodeURIComponent(user)}/${server}/end`;
    let ends = []; // the soonest first
    let ended = false;
    let asked = 0;
    let shown = { key: "", at: 0, id: "" };

    const item = new Widget();
    const button = document.createElement("button");
    button.className = "xnat-end jp-StatusBar-TextItem";
    button.addEventListener("click", () => Notification.info(button.title, { autoClose: false }));
    item.node.append(button);
    statusBar?.registerStatusItem(`${NAME}:end`, { item, align: "right", rank: 900 });

    const show = () => {
      const now = Date.now();
      const text = ended ? "This server has ended" : summary(ends, now);
      const details = ended ? "This server has ended. Start Jupyter again from XNAT." : explained(ends, now);
      if (button.textContent !== text || button.title !== details) {
        button.textContent = text;
        button.title = details;
      }
      item.setHidden(!text);
      const end = ends.find((each) => due(each, now) < Infinity);
      const key = end ? `${end.kind} ${due(end, now)}` : "";
      if (key !== shown.key || (end && Math.abs(end.at - shown.at) > 2 * MINUTE)) {
        if (shown.id) {
          Notification.dismiss(shown.id);
        }
        const id = end ? Notification.warning(`${sentence(end)} ${ADVICE}`, { autoClose: false }) : "";
        shown = { key, at: end?.at ?? 0, id };
      }
    };
    const ask = async () => {
      asked = Date.now();
      const answer = await fetch(url, { credentials: "omit", headers: { Authorization: `token ${token}` } });
      if (answer.status < 500) {
        const found = answer.ok ? Object.entries(await answer.json()) : [];
        ends = found
          .filter(([, end]) => end)
          .map(([kind, { limit, left }]) => ({ kind, at: asked + left * 1000, limit: limit * 1000 }))
          .sort((one, other) => one.at - other.at);
        ended = answer.status === 410;
      }
      show();
    };
    const tick = (age) => {
      show();
      if (!ended && Date.now() - asked >= age) {
        ask().catch(() => {}); // the hub restarts: ask again later
      }
    };
    tick(0);
    setInterval(() => tick(END_INTERVAL), END_INTERVAL / 2);
    document.addEventListener("visibilitychange", () => document.hidden || tick(0));
  }

  async function extension() {
    const names = ["launcher", "apputils", "coreutils", "ui-components", "statusbar", "filebrowser"];
    const [{ ILauncher }, { Notification }, { PageConfig }, { notebookIcon }, { IStatusBar }, { IDefaultFileBrowser }, { Widget }] =
      await Promise.all([...names.map((name) => `@jupyterlab/${name}`), "@lumino/widgets"].map(shared));
    const plugin = {
      id: `${NAME}:plugin`,
      description: "A card for the notebook that opens XNAT's data, the message of the site, and when the server ends.",
      autoStart: true,
      optional: [ILauncher, IStatusBar, IDefaultFileBrowser],
      activate: (app, launcher, statusBar, browser) => {
        app.commands.addCommand(COMMAND, {
          label: "Start here",
          caption: "What you opened in XNAT, where its files are, and the first image",
          icon: notebookIcon, // of the section, which takes that of its first card
          execute: () => openStartHere(app),
        });
        launcher?.add({ command: COMMAND, category: "Notebook", rank: -1, kernelIconUrl: ICON });
        showAtOnce(app, browser, PageConfig.getOption("treePath"));
        watchMessage(PageConfig, Notification);
        watchEnd(PageConfig, Notification, Widget, statusBar);
      },
    };
    return { __esModule: true, default: plugin };
  }

  function style() {
    const element = document.createElement("style");
    element.textContent = STYLE;
    document.head.append(element);
    return {};
  }

  loadMissingScripts();
  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB[NAME] = {
    init: (scope) => {
      modules = scope;
    },
    get: async (name) => {
      const found = name === "./extension" ? await extension() : style();
      return () => found;
    },
  };
})();
