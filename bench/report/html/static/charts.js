  // Charts: traces come without colours; they are painted from the style sheet's variables.
  let data;
  const readData = () => { data = JSON.parse(document.getElementById("data").textContent); };

  // What all lines share is written here and not in the data, where 500 of them would repeat it.
  const line = { mode: "lines", hovertemplate: "%{meta.who}<br>step %{x}: %{y:.4~g}<extra></extra>" };
  const painted = (trace) => {
    if (trace.type === "heatmap") {
      return { ...trace, colorscale: [[0, ink("heat")], [1, ink("wash")]], textfont: { color: ink("ink") } };
    }
    const colour = ink(trace.meta.ink);
    const made = { ...(trace.line && !trace.type ? line : {}), ...trace, marker: { ...trace.marker, color: colour } };
    if (trace.line) made.line = { ...trace.line, color: colour };
    for (const bar of ["error_x", "error_y"]) if (trace[bar]) made[bar] = { ...trace[bar], color: colour };
    if (trace.mode === "markers+text") made.textfont = { color: ink("ink"), size: 12 };
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

  // Axes that the reader chooses: the points' columns change places, and the front is drawn anew.
  const chosenAxes = (chart, number) => {
    if (!chart.choices) return null;
    const of = (axis) => {
      const menu = document.querySelector(`select[data-of="${number}"][data-axis="${axis}"]`);
      return chart.choices.find((choice) => choice.key === menu.value);
    };
    return { x: of("x"), y: of("y") };
  };
  const front = (points, x, y) => {
    const sign = { x: x.least ? 1 : -1, y: y.least ? 1 : -1 };
    const kept = [];
    for (const point of points.map(([a, b]) => [sign.x * a, sign.y * b]).sort((p, q) => p[0] - q[0] || p[1] - q[1])) {
      if (!kept.length || point[1] < kept[kept.length - 1][1]) kept.push(point);
    }
    return kept.map(([a, b]) => [sign.x * a, sign.y * b]).sort((p, q) => p[0] - q[0]);
  };
  const withAxes = (chart, { x, y }) => {
    const { columns } = chart;
    const as = (choice) => ({ title: { text: choice.title }, type: choice.log ? "log" : "linear",
                              ...(choice.log ? { tickformat: "~s", dtick: 1 } : { rangemode: choice.key === "score" ? "normal" : "tozero" }) });
    const bars = (choice, rows) => (choice.key === "score" && columns.margin
      ? { type: "data", symmetric: false, array: rows.map((row) => columns.margin[row]), arrayminus: rows.map((row) => columns.below[row]), thickness: 1, width: 3 } : undefined);
    const seen = columns[x.key].map((value, row) => [value, columns[y.key][row]]).filter((point) => !point.includes(null));
    const line = front(seen, x, y);
    const traces = chart.data.map((trace) => {
      if (trace.meta.front) {
        return { ...trace, x: line.map((point) => point[0]), y: line.map((point) => point[1]), line: { ...trace.line, shape: x.least ? "hv" : "vh" } };
      }
      const { rows } = trace.meta;
      return { ...trace, x: rows.map((row) => columns[x.key][row]), y: rows.map((row) => columns[y.key][row]),
               error_x: bars(x, rows), error_y: bars(y, rows), ...(trace.textposition ? { textposition: "top center" } : {}) };
    });
    return { data: traces, layout: { ...chart.layout, xaxis: as(x), yaxis: as(y) } };
  };
  const isDefault = (chart, { x, y }) => chart.layout.xaxis.title.text === x.title && chart.layout.yaxis.title.text === y.title;
  const corner = ({ x, y }) => `${y.least ? "Lower" : "Upper"} ${x.least ? "left" : "right"} is better.`;

  const draw = (place, size = {}) => {
    const number = Number(place.dataset.chart);
    let chart = data.charts[number];
    const axes = chosenAxes(chart, number);
    if (axes) {
      document.querySelector(`[data-corner="${number}"]`).textContent = corner(axes);
      if (!isDefault(chart, axes)) chart = withAxes(chart, axes);
    }
    const config = { responsive: true, displayModeBar: false };
    return Plotly.react(place, chart.data.map(painted), framed({ ...chart.layout, ...size }), config);
  };

  // One chart per turn of the event loop, so that the page answers while many are drawn; a later call takes over.
  let drawing = 0;
  const drawAll = async () => {
    const mine = ++drawing;
    try { await plotly(); } catch { noCharts(); return; }
    for (const place of all("[data-chart]")) {
      if (mine !== drawing) return;
      await draw(place, { autosize: true });
      await new Promise((go) => setTimeout(go));
    }
    root.dataset.drawn = String(mine);
  };

  // Paper is white, whatever the screen is, and as wide as A4 or Letter between their margins.
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    if (window.Plotly) for (const place of all("[data-chart]")) draw(place, { width: place.closest(".wide-figure") ? 690 : 335 });
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    drawAll();
  });
  const bindCharts = () => {
    for (const menu of all("select[data-axis]")) {
      menu.addEventListener("change", () => draw(document.querySelector(`[data-chart="${menu.dataset.of}"]`)));
    }
  };

