  // plotly.js is embedded compressed, and unpacked once.
  let unpacked;
  const unpack = async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const plotly = () => { unpacked = unpacked || unpack(); return unpacked; };
  const noCharts = () => {
    for (const place of all("[data-chart]")) { place.textContent = "Charts need a browser from 2023 or later."; place.style.height = "auto"; }
  };
