  // Tables: a heading sorts; a second click turns the order round; what was not measured stays last.
  // Every configuration is a body of its own, so that its single runs move with it.
  const order = (head, direction) => {
    const row = head.parentElement;
    const column = [...row.children].indexOf(head);
    const sign = direction === "ascending" ? 1 : -1;
    const text = head.firstElementChild.dataset.kind === "text";
    const value = (body) => {
      const cell = body.rows[0].children[column];
      if (text) return cell.querySelector("a").textContent;
      return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    };
    const compare = (a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
      return sign * (text ? a.value.localeCompare(b.value, undefined, { numeric: true }) : a.value - b.value);
    };
    const table = head.closest("table");
    const bodies = [...table.tBodies].map((body) => ({ body, value: value(body) })).sort(compare);
    table.append(...bodies.map((item) => item.body));
    for (const other of row.children) other.setAttribute("aria-sort", other === head ? direction : "none");
  };
  const sort = (button) => {
    const head = button.closest("th");
    const now = head.getAttribute("aria-sort");
    const first = button.dataset.first === "asc" ? "ascending" : "descending";
    order(head, now === "none" ? first : now === "ascending" ? "descending" : "ascending");
  };

  // Filters: every word must be somewhere in the row (its runs' errors included).
  const filter = (tools) => {
    const table = document.getElementById(tools.dataset.table);
    const value = (name) => tools.querySelector(`[data-filter="${name}"]`)?.value || "";
    const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
    const [method, status] = [value("method"), value("status")];
    let left = 0;
    for (const body of table.tBodies) {
      const text = words.length ? `${body.dataset.status} ${body.textContent}`.toLowerCase() : "";
      body.hidden = (method !== "" && body.dataset.method !== method)
        || (status !== "" && !body.dataset.status.split(" ").includes(status) && body.dataset.status !== status)
        || !words.every((word) => text.includes(word));
      left += !body.hidden;
    }
    const total = table.tBodies.length;
    tools.querySelector(".count").textContent = left === total ? "" : `${left} of ${total} shown`;
  };
  const expand = (button, open) => {
    button.setAttribute("aria-expanded", String(open));
    for (const row of all("tr.one", button.closest("tbody"))) row.hidden = !open;
  };
  const bindTables = () => {
    for (const button of all("thead button")) button.addEventListener("click", () => sort(button));
    for (const button of all("button.more")) {
      button.addEventListener("click", () => expand(button, button.getAttribute("aria-expanded") !== "true"));
    }
    for (const tools of all(".tools")) {
      for (const field of all("input[type=search], select", tools)) field.addEventListener("input", () => filter(tools));
      const runs = tools.querySelector('[data-filter="runs"]');
      runs?.addEventListener("change", () => {
        for (const button of all("button.more", document.getElementById(tools.dataset.table))) expand(button, runs.checked);
      });
    }
  };

