  const root = document.documentElement;
  const all = (query, within = document) => [...within.querySelectorAll(query)];

  // Theme: the system's, until the reader chooses. Storage may be forbidden in a file opened from a mail.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
                   set: (value) => { try { localStorage.setItem("theme", value); } catch { /* not kept */ } } };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const toggle = document.getElementById("theme");
  const nameToggle = () => {
    toggle.textContent = dark() ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `${toggle.textContent} theme`);
  };
  const chosen = stored.get();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  nameToggle();
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored.set(root.dataset.theme);
    nameToggle();
    drawAll();
  });
  system.addEventListener("change", () => { nameToggle(); drawAll(); });

  const ink = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const narrow = () => innerWidth < 760;

  // Words for the reader's ears and, briefly, eyes.
  const said = document.getElementById("said");
  let hush;
  const say = (words) => { said.textContent = words; clearTimeout(hush); hush = setTimeout(() => { said.textContent = ""; }, 2500); };

  // Numbers as the tables write them.
  const size = (bytes) => {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let place = 0;
    while (bytes >= 999.5 && place + 1 < units.length) { bytes /= 1000; place += 1; }
    return `${Number(bytes.toPrecision(3))} ${units[place]}`;
  };
  const significant = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3))));

