"use strict";
(() => {
  const root = document.documentElement;
  const all = (query, within = document) => [...within.querySelectorAll(query)];

  // Theme: the system's, until the reader chooses. Storage may be forbidden in a file opened from a mail.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
                   set: (value) => { try { localStorage.setItem("theme", value); } catch { /* not kept */ } } };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const toggle = document.getElementById("theme");
  const nameToggle = () => { toggle.textContent = dark() ? "Light" : "Dark"; };
  const chosen = stored.get();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  nameToggle();

  // Charts: traces come without colours; they are painted from the style sheet's variables.
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const ink = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const narrow = () => innerWidth < 760;

  // What all lines share is written here and not in the data, where 500 of them would repeat it.
  const line = { mode: "lines", hovertemplate: "%{meta.who}<br>step %{x}: %{y:.4~g}<extra></extra>" };
  const painted = (trace) => {
    const colour = ink(trace.meta.ink);
    const made = { ...(trace.line ? line : {}), ...trace, marker: { ...trace.marker, color: colour } };
    if (trace.line) made.line = { ...trace.line, color: colour };
    if (trace.error_y) made.error_y = { ...trace.error_y, color: colour };
    if (trace.mode === "markers+text") made.textfont = { color: colour, size: 12 };
    return made;
  };
  const axis = (given, bottom) => ({
    gridcolor: ink("rule"), linecolor: ink("muted"), zeroline: false, automargin: true, showline: bottom,
    ticks: bottom ? "" : "outside", tickcolor: "rgba(0,0,0,0)", ticklen: bottom ? 0 : 5,
    ...given, title: { standoff: 8, ...given.title },
  });
  const framed = (layout) => ({
    margin: { l: 48, r: 16, t: 12, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink("muted") },
    hoverlabel: { bgcolor: ink("paper"), bordercolor: ink("rule"), font: { color: ink("ink") }, align: "left" },
    hovermode: "closest", dragmode: narrow() ? false : "zoom",
    ...layout,
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", ...layout.legend },
    xaxis: axis(layout.xaxis, true), yaxis: axis(layout.yaxis, false),
  });
  const draw = (place, size = {}) => {
    const chart = charts[Number(place.dataset.chart)];
    const config = { responsive: true, displayModeBar: false };
    return Plotly.react(place, chart.data.map(painted), framed({ ...chart.layout, ...size }), config);
  };
  const places = all("[data-chart]");
  // One chart per turn of the event loop, so that the page answers while many are drawn.
  const drawAll = async () => { for (const place of places) { await draw(place, { autosize: true }); await new Promise((go) => setTimeout(go)); } };

  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored.set(root.dataset.theme);
    nameToggle();
    drawAll();
  });
  system.addEventListener("change", () => { nameToggle(); drawAll(); });

  // Paper is white, whatever the screen is, and as wide as A4 or Letter between their margins.
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    for (const place of places) draw(place, { width: place.closest(".wide-figure") ? 690 : 335 });
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    drawAll();
  });

  // Tables: a heading sorts; a second click turns the order round; what was not measured stays last.
  const sort = (button) => {
    const head = button.closest("th");
    const row = head.parentElement;
    const column = [...row.children].indexOf(head);
    const now = head.getAttribute("aria-sort");
    const first = button.dataset.first === "asc" ? "ascending" : "descending";
    const order = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const body = head.closest("table").tBodies[0];
    const text = button.dataset.kind === "text";
    const value = (line) => {
      const cell = line.children[column];
      if (text) return cell.querySelector("a").textContent;
      return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    };
    const compare = (a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
      return sign * (text ? a.value.localeCompare(b.value, undefined, { numeric: true }) : a.value - b.value);
    };
    const lines = [...body.rows].map((line) => ({ line, value: value(line) })).sort(compare);
    body.append(...lines.map((item) => item.line));
    for (const other of row.children) other.setAttribute("aria-sort", other === head ? order : "none");
  };
  for (const button of all("thead button")) button.addEventListener("click", () => sort(button));

  // Commands: copied where the browser allows it, shown and selected where it does not.
  const said = document.getElementById("said");
  let hush;
  const say = (words) => { said.textContent = words; clearTimeout(hush); hush = setTimeout(() => { said.textContent = ""; }, 2500); };
  const reveal = (target) => {
    for (let up = target; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
    target.scrollIntoView({ block: "nearest" });
  };
  const copy = async (run) => {
    const code = document.getElementById(`c-${run}`);
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("Command copied");
    } catch {
      reveal(code);
      getSelection().selectAllChildren(code);
      say("Press Ctrl+C or ⌘C to copy");
    }
  };
  for (const part of all("[data-tail]")) {
    if (part.dataset.tail) for (const code of all("code", part)) code.textContent += ` ${part.dataset.tail}`;
  }
  for (const button of all(".copy")) {
    const link = button.parentElement.querySelector("a");
    button.type = "button";
    button.title = "Copy the command that does this run again";
    button.setAttribute("aria-label", `Copy the command for ${link.textContent}`);
    button.addEventListener("click", () => copy(link.hash.slice(3)));
  }

  const followHash = () => {
    const target = location.hash.startsWith("#r-") && document.getElementById(location.hash.slice(1));
    if (target) reveal(target);
  };
  addEventListener("hashchange", followHash);
  for (const link of all('a[href^="#r-"]')) link.addEventListener("click", () => setTimeout(followHash));
  followHash();
  drawAll();
})();
