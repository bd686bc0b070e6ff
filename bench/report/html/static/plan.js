  // Charts: traces come without colours; they are painted from the style sheet's variables.
  const charts = JSON.parse(document.getElementById("data").textContent);
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
  const drawAll = async () => {
    try { await plotly(); } catch { noCharts(); return; }
    for (const place of all("[data-chart]")) {
      const chart = charts[Number(place.dataset.chart)];
      Plotly.react(place, chart.data.map(painted), framed(chart.layout), { responsive: true, displayModeBar: false });
    }
  };
  drawAll();
