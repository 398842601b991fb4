// XNAT in JupyterLab: a card for the notebook "Start here" on the launcher page, a mark on read-only directories in the file
// browser, the message of the site, and JupyterLab's files if the hub no longer has them. Plain JavaScript in the form that JupyterLab loads (module federation): there is
// nothing to build. Modules of JupyterLab are taken from those that it shares.
"use strict";
(() => {
  const NAME = "xnat-jupyterhub";
  const COMMAND = "xnat:start-here";
  const START = /^Start here( \(XNAT( \d+)?\))?\.ipynb$/; // xnat_notebook/contents.py gives it its name
  const MESSAGE_INTERVAL = 120_000; // milliseconds between two questions for the site's message
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

  async function extension() {
    const [{ ILauncher }, { Notification }, { PageConfig }, { notebookIcon }] = await Promise.all(
      ["launcher", "apputils", "coreutils", "ui-components"].map((name) => shared(`@jupyterlab/${name}`)),
    );
    const plugin = {
      id: `${NAME}:plugin`,
      description: "A card for the notebook that opens XNAT's data, and the message of the site.",
      autoStart: true,
      optional: [ILauncher],
      activate: (app, launcher) => {
        app.commands.addCommand(COMMAND, {
          label: "Start here",
          caption: "What you opened in XNAT, where its files are, and the first image",
          icon: notebookIcon, // of the section, which takes that of its first card
          execute: () => openStartHere(app),
        });
        launcher?.add({ command: COMMAND, category: "Notebook", rank: -1, kernelIconUrl: ICON });
        watchMessage(PageConfig, Notification);
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
