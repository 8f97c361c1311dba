"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const one = (id) => document.getElementById(id);
  const column = Object.fromEntries(data.keys.map((key, place) => [key, place]));

  // Sorting: a click on a column's name; missing values stay at the end.
  const value = (row, place) => {
    const cell = row.cells[place];
    if (!("v" in cell.dataset)) return cell.textContent.trim().toLowerCase();
    return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  };
  const sort = (head) => {
    const table = head.closest("table");
    const place = head.cellIndex;
    const falling = head.getAttribute("aria-sort") === "ascending";
    all("thead th", table).forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, place), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return (a < b ? -1 : a > b ? 1 : 0) * (falling ? -1 : 1);
    });
    body.append(...rows.map(([, row]) => row));
  };
  all(".leaders thead button").forEach((button) =>
    button.addEventListener("click", () => sort(button.closest("th"))));

  // Views of a board: a mean or a task.
  const show = (board, place) => {
    all(".view", board).forEach((view) => { view.hidden = view.dataset.view !== String(place); });
    const name = all(".view", board).find((view) => !view.hidden)?.dataset.name;
    const heads = all(".heat thead th", board).map((head) => head.textContent);
    all(".heat tr", board).forEach((row) => [...row.cells].forEach((cell, k) =>
      cell.classList.toggle("on", k > 0 && heads[k] === name)));
  };
  all("select[data-views]").forEach((list) => list.addEventListener("change", () =>
    show(list.closest(".board"), list.value)));

  // Learning curves: one task and one figure at a time.
  const curves = (board) => {
    const lists = all("select[data-curves]", board);
    if (!lists.length) return;
    const wanted = Object.fromEntries(lists.map((list) => [list.dataset.of, list.value]));
    all(".curve-set figure", board).forEach((figure) => {
      figure.hidden = figure.dataset.task !== wanted.task || figure.dataset.name !== wanted.name;
    });
  };
  all("select[data-curves]").forEach((list) => list.addEventListener("change", () =>
    curves(list.closest(".board"))));

  // The Pareto front of the marks that are shown.
  const front = (plot) => {
    const sign = Number(plot.dataset.sign);
    const marks = all(".mark", plot).filter((mark) => mark.style.display !== "none")
      .map((mark) => [Number(mark.dataset.x), Number(mark.dataset.y)])
      .sort((a, b) => a[0] - b[0] || sign * (a[1] - b[1]));
    const kept = [];
    for (const point of marks) {
      if (!kept.length || sign * (kept[kept.length - 1][1] - point[1]) > 0) kept.push(point);
    }
    plot.querySelector(".front").setAttribute("d", kept.length ? "M" + kept.map((p) => p.join(" ")).join("L") : "");
  };

  // Filters.
  const chosen = (name) => one("by-" + name).value;
  const apply = () => {
    const text = one("filter").value.trim().toLowerCase();
    let boards = 0;
    let methods = 0;
    all(".board").forEach((board) => {
      const fits = (name) => !chosen(name) || board.dataset[name] === chosen(name);
      const task = chosen("task");
      const has = !task || board.dataset.tasks.includes("|" + task + "|");
      board.hidden = !(fits("backbone") && fits("protocol") && has);
      const labels = data.boards[board.dataset.b].methods;
      const kinds = {};
      all("tr[data-m]", board).forEach((row) => { kinds[row.dataset.m] = row.dataset.method; });
      const visible = (m) => labels[m].toLowerCase().includes(text)
        && (!chosen("method") || kinds[m] === chosen("method"));
      const count = Object.keys(kinds).filter(visible).length;
      if (count === 0) board.hidden = true;
      if (!board.hidden) { boards += 1; methods += count; }
      all("tr[data-m]", board).forEach((row) => { row.hidden = !visible(row.dataset.m); });
      all("svg [data-m]", board).forEach((mark) => {
        mark.style.display = visible(mark.dataset.m) ? "" : "none";
      });
      all("svg.scatter", board).forEach(front);
    });
    one("shown").textContent = `${methods} methods on ${boards} ${boards === 1 ? "board" : "boards"}`;
  };
  const task = () => {
    all(".board").forEach((board) => {
      const list = board.querySelector("select[data-views]");
      const names = all(".view", board).map((view) => view.dataset.name);
      const place = Math.max(0, names.indexOf(chosen("task")));
      if (list) list.value = String(place);
      show(board, place);
      const tasks = board.querySelector("select[data-of=task]");
      if (tasks && [...tasks.options].some((option) => option.value === chosen("task"))) {
        tasks.value = chosen("task");
        curves(board);
      }
    });
  };
  one("filter").addEventListener("input", apply);
  ["task", "method", "backbone", "protocol"].forEach((name) =>
    one("by-" + name).addEventListener("change", () => { if (name === "task") task(); apply(); }));
  one("controls").addEventListener("submit", (event) => event.preventDefault());
  one("controls").addEventListener("reset", () => setTimeout(() => { task(); apply(); }));

  // The runs behind a figure.
  const make = (name, text, parent) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };
  const digits = (number, unit) => number.toFixed(unit === "%" ? 2 : 4);
  const describe = (run, board, list) => {
    const box = make("div", undefined, list);
    box.className = "run";
    const line = make("p", undefined, box);
    make("b", `${board.tasks[run[column.task]]}, seed ${run[column.seed]}`, line);
    const [value, low, high, unit] = ["value", "low", "high", "unit"].map((k) => run[column[k]]);
    make("span", value === null ? run[column.state]
      : `${digits(value, unit)}${unit === "%" ? " %" : ""} [${digits(low, unit)}, ${digits(high, unit)}]`, line);
    const link = make("a", run[column.path], line);
    link.href = run[column.path].split("/").map(encodeURIComponent).join("/") + "/";
    make("code", run[column.command], box);
  };
  const open = (b, m, t) => {
    const board = data.boards[b];
    const dialog = one("runs");
    dialog.replaceChildren();
    const close = make("button", "Close", dialog);
    close.className = "close";
    close.addEventListener("click", () => dialog.close());
    const found = data.runs.filter((run) => run[column.board] === b && run[column.method] === m
      && (t < 0 || run[column.task] === t));
    const title = make("h2", board.methods[m] + (t < 0 ? "" : ", " + board.tasks[t]), dialog);
    title.id = "runs-title";
    make("p", `${board.title}; ${found.length} runs. Intervals are those of each run's own test samples.`, dialog);
    found.slice(0, 200).forEach((run) => describe(run, board, dialog));
    if (found.length > 200) make("p", `${found.length - 200} more; choose a task for fewer`, dialog);
    dialog.showModal();
  };
  document.addEventListener("click", (event) => {
    const figure = event.target.closest("button.figure");
    if (figure) open(Number(figure.dataset.b), Number(figure.dataset.m), Number(figure.dataset.t));
    else if (event.target === one("runs")) one("runs").close();
  });

  // Tooltips, for the pointer and for the keyboard.
  const tip = one("tip");
  const place = (x, y) => {
    tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.max(4, Math.min(y + 14, innerHeight - tip.offsetHeight - 8)) + "px";
  };
  const say = (event, x, y) => {
    const about = event.target.closest?.("[data-tip]");
    tip.hidden = !about;
    if (about) { tip.textContent = about.dataset.tip; place(x, y); }
  };
  document.addEventListener("pointermove", (event) => say(event, event.clientX, event.clientY));
  document.addEventListener("focusin", (event) => {
    const box = event.target.getBoundingClientRect();
    say(event, box.right, box.bottom);
  });
  document.addEventListener("focusout", () => { tip.hidden = true; });
  apply();
})();
