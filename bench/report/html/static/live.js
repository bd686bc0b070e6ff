  // A served page asks every two seconds whether records arrived, and takes the new content without losing its place.
  const place = (element) => element.id || `${element.closest("[id]")?.id}/${Object.entries(element.dataset).join()}`;
  const snapshot = () => ({
    fields: all("main input, main select").map((field) => [place(field), field.type === "checkbox" ? field.checked : field.value]),
    sorted: all("main thead th").filter((head) => head.ariaSort && head.ariaSort !== "none")
      .map((head) => [head.closest("table").id, head.textContent, head.getAttribute("aria-sort")]),
    open: all("main details[open]").map((part) => part.id || `${part.closest("section")?.id}/${part.className}`),
    more: all('main button.more[aria-expanded="true"]').map((button) => button.closest("tr").querySelector("a").hash),
    at: [scrollX, scrollY],
    boxes: all("main .wide").map((box) => [box.scrollLeft, box.scrollTop]),
  });
  const restore = (state) => {
    const fields = new Map(state.fields);
    for (const field of all("main input, main select")) {
      const value = fields.get(place(field));
      if (value === undefined) continue;
      if (field.type === "checkbox") field.checked = value;
      else if (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === value)) field.value = value;
    }
    for (const [table, text, direction] of state.sorted) {
      const head = all("thead th", document.getElementById(table) || document.createElement("table")).find((other) => other.textContent === text);
      if (head) order(head, direction);
    }
    const open = new Set(state.open);
    for (const part of all("main details")) if (open.has(part.id || `${part.closest("section")?.id}/${part.className}`)) part.open = true;
    const more = new Set(state.more);
    for (const button of all("main button.more")) if (more.has(button.closest("tr").querySelector("a").hash)) expand(button, true);
    for (const tools of all(".tools")) filter(tools);
    all("main .wide").forEach((box, index) => { if (state.boxes[index]) [box.scrollLeft, box.scrollTop] = state.boxes[index]; });
  };
  const take = async () => {
    const fresh = new DOMParser().parseFromString(await (await fetch("./")).text(), "text/html");
    const focus = document.activeElement && document.activeElement !== document.body ? place(document.activeElement) : null;
    const state = snapshot();
    document.body.style.minHeight = `${document.body.scrollHeight}px`;  // the page must not jump while charts are empty
    for (const part of ["header h1", "header p", "main", "#data"]) {
      document.querySelector(part).replaceChildren(...fresh.querySelector(part).childNodes);
    }
    document.title = fresh.title;
    readData();
    bindTables();
    bindCommands();
    restore(state);
    bindFits();
    bindCharts();
    await drawAll();
    document.body.style.minHeight = "";
    scrollTo({ left: state.at[0], top: state.at[1], behavior: "instant" });
    if (focus) all("main input, main select, main button").find((field) => place(field) === focus)?.focus({ preventScroll: true });
    say("New records");
  };
  let known = root.dataset.state;
  const look = async () => {
    let wait = 2000;
    try {
      const state = (await (await fetch("state", { cache: "no-store" })).json()).state;
      if (state !== known) await take();
      known = state;
      delete root.dataset.alone;
    } catch {
      root.dataset.alone = "yes";  // the command that served this page has ended
      wait = 5000;
    }
    setTimeout(look, wait);
  };
  setTimeout(look);

