"use strict";
(() => {
  const root = document.documentElement;

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
  const painted = (trace) => (trace.type === "heatmap"
    ? { ...trace, colorscale: [[0, ink("wash")], [1, ink(trace.meta.ink)]] }
    : { ...trace, marker: { color: ink(trace.meta.ink) } });
  const axis = (given) => ({ gridcolor: ink("rule"), linecolor: ink("muted"), zeroline: false, automargin: true, ...given });
  const framed = ({ budget, ...layout }) => ({
    margin: { l: 48, r: 16, t: 12, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink("muted") },
    hoverlabel: { bgcolor: ink("paper"), bordercolor: ink("rule"), font: { color: ink("ink") }, align: "left" },
    ...layout,
    shapes: budget === undefined ? [] : [{ type: "line", x0: budget, x1: budget, yref: "paper", y0: 0, y1: 1,
      line: { color: ink("bad"), width: 2, dash: "dash" } }],
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", traceorder: "normal" },
    xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
  });
  const drawAll = () => {
    for (const place of document.querySelectorAll("[data-chart]")) {
      const chart = charts[Number(place.dataset.chart)];
      Plotly.react(place, chart.data.map(painted), framed(chart.layout), { responsive: true, displayModeBar: false });
    }
  };
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored.set(root.dataset.theme);
    nameToggle();
    drawAll();
  });
  system.addEventListener("change", () => { nameToggle(); drawAll(); });
  drawAll();
})();
