"use strict";
// The list of questions with its filters, the close-up view of one, and tables that sort. Everything that a document, a question or
// an answer holds becomes text nodes: no string is ever read as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 25;
  const state = { text: "", type: "", lost: "", config: 0, page: 0, chosen: null, stage: null };

  function make(name, properties = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
      else if (key in node && !key.startsWith("aria")) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return node;
  }
  const stageName = (run) => (run.lost === null ? run.lost_word || null : data.stages[run.lost]);
  const shown = (value) => (value === null || value === undefined ? "" : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(value));

  // Tables that sort: a click or Enter on a heading.
  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const head = button.parentElement;
      const column = head.cellIndex;
      const numeric = [...table.tBodies[0].rows].some((row) => row.cells[column].dataset.order !== undefined);
      const first = numeric && column > 0 ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      const direction = head.getAttribute("aria-sort") === first ? other : first;
      for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.order;
      const rows = [...table.tBodies[0].rows].sort((one, two) =>
        numeric ? sign * (Number(key(one) ?? -Infinity) - Number(key(two) ?? -Infinity) || 0) : sign * one.cells[column].textContent.localeCompare(two.cells[column].textContent, "en"));
      table.tBodies[0].append(...rows);
    });
  }
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("main details")) details.open = true;
  });

  // The list.
  const live = document.getElementById("questions-live");
  const texts = data.questions.map((question) => `${question.id} ${question.question} ${question.reference}`.toLowerCase());

  function select(label, options, act) {
    const box = make("select", { on: { change: () => act(box.value) } }, ...options.map(([value, name]) => make("option", { value }, name)));
    return make("label", {}, label, box);
  }
  function lostOptions() {
    const used = data.stages.filter((name, place) => data.questions.some((question) => question.runs.some((run) => run && run.lost === place)));
    return [["", "anywhere or nowhere"], ["*", "lost somewhere"], ["-", "not lost"], ["!", "chain broke off"], ["~", "configurations differ"], ...used.map((name) => [name, `lost at ${name}`])];
  }
  function fits(question, place) {
    if (state.text && !texts[place].includes(state.text)) return false;
    if (state.type && question.type !== state.type) return false;
    if (!state.lost) return true;
    if (state.lost === "~") return new Set(question.runs.filter(Boolean).map(stageName)).size > 1;
    const run = question.runs[state.config];
    if (!run) return false;
    const lost = stageName(run);
    if (state.lost === "*") return lost !== null;
    if (state.lost === "-") return lost === null && question.points.length > 0;
    if (state.lost === "!") return Boolean(run.error);
    return lost === state.lost;
  }
  const list = make("div", { className: "scroll" });
  const pager = make("div", { className: "pager" });
  const types = [...new Set(data.questions.map((question) => question.type))].sort();
  const search = make("input", { type: "search", placeholder: "words of the question", on: { input: () => { state.text = search.value.trim().toLowerCase(); turn(0); } } });
  live.append(
    make("div", { className: "filters" },
      make("label", {}, "Text", search),
      select("Type", [["", "all types"], ...types.map((name) => [name, name])], (value) => { state.type = value; turn(0); }),
      select("Configuration", data.configs.map((config, place) => [String(place), `${config.key}  ${config.name}`]), (value) => { state.config = Number(value); turn(0); }),
      select("Lost by it", lostOptions(), (value) => { state.lost = value; turn(0); })),
    pager, list);

  let found = [];
  function turn(page) {
    state.page = page;
    found = data.questions.map((_, place) => place).filter((place) => fits(data.questions[place], place));
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    const from = page * PAGE;
    const previous = make("button", { type: "button", className: "plain", disabled: page === 0, on: { click: () => turn(page - 1) } }, "Previous");
    const next = make("button", { type: "button", className: "plain", disabled: page >= last, on: { click: () => turn(page + 1) } }, "Next");
    const counted = found.length ? `${from + 1} to ${Math.min(from + PAGE, found.length)} of ${found.length.toLocaleString("en")} questions` : "no question fits";
    pager.replaceChildren(previous, next, make("span", { role: "status" }, counted));
    const columns = data.shown.includes(state.config) ? data.shown : [...data.shown, state.config];
    const heads = ["id", "question", "type", ...columns.map((number) => `${data.configs[number].key} lost at`)].map((name) => make("th", { scope: "col" }, name));
    const rows = found.slice(from, from + PAGE).map((place) => {
      const question = data.questions[place];
      const open = make("button", { type: "button", className: "open", on: { click: () => choose(place) } }, question.question);
      const cells = columns.map((number) => make("td", {}, lostMark(question, question.runs[number])));
      return make("tr", {}, make("th", { scope: "row" }, question.id), make("td", {}, open), make("td", {}, question.type), ...cells);
    });
    list.replaceChildren(make("table", { className: "list" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)));
  }
  function lostMark(question, run) {
    if (!run) return make("span", { className: "kept" }, "not asked");
    const lost = stageName(run);
    if (lost) return make("span", { className: "lost" }, run.error ? `${lost} (error)` : lost);
    return make("span", { className: "kept" }, question.points.length ? "–" : pointless(question));
  }

  const pointless = (question) => (question.unlocated.length ? "not located" : "no points");

  // The close-up view.
  const dialog = document.getElementById("close-up");
  function choose(place) {
    state.chosen = place;
    state.stage = null;
    draw();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    history.replaceState(null, "", `#question=${encodeURIComponent(data.questions[place].id)}`);
  }
  dialog.addEventListener("close", () => history.replaceState(null, "", "#questions"));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.tagName === "INPUT") return;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") step(event.key === "ArrowRight" ? 1 : -1);
  });
  function step(by) {
    const order = found.includes(state.chosen) ? found : data.questions.map((_, place) => place);
    const next = order[order.indexOf(state.chosen) + by];
    if (next !== undefined) choose(next);
  }
  const marked = (parts) => parts.map((part, place) => (place % 2 ? make("mark", {}, part) : part));
  const range = (start, end) => `characters ${start.toLocaleString("en")} to ${end.toLocaleString("en")}`;

  // Drawing replaces all nodes: whoever used a button by keyboard finds its successor in focus.
  function draw() {
    const held = document.activeElement && dialog.contains(document.activeElement) ? document.activeElement.dataset.place : undefined;
    fill();
    const successor = held && [...dialog.querySelectorAll("[data-place]")].find((node) => node.dataset.place === held && !node.disabled);
    if (successor) successor.focus();
  }
  function push(place, label, act, properties = {}, ...more) {
    const button = make("button", { type: "button", className: "plain", on: { click: act }, ...properties }, label, ...more);
    button.dataset.place = place;
    return button;
  }
  function fill() {
    const question = data.questions[state.chosen];
    const run = question.runs[state.config];
    const order = found.includes(state.chosen) ? found : data.questions.map((_, place) => place);
    const place = order.indexOf(state.chosen);
    const facts = `${question.id}, ${question.type}${question.answerable === "yes" ? "" : `, answerable: ${question.answerable}`}, ${place + 1} of ${order.length}`;
    const configs = data.configs.map((config, number) => push(`config ${number}`, `${config.key}  ${config.name} `, () => { state.config = number; draw(); },
      { "aria-pressed": String(number === state.config) }, make("small", {}, outcome(question, question.runs[number]))));
    dialog.replaceChildren(
      make("div", { className: "bar" },
        make("span", { className: "grow" }, facts),
        push("previous", "Previous", () => step(-1), { disabled: place === 0 }),
        push("next", "Next", () => step(1), { disabled: place === order.length - 1 }),
        push("close", "Close", () => dialog.close())),
      make("h2", { id: "close-up-title", tabIndex: -1, autofocus: true }, question.question),
      question.reference ? make("p", {}, make("b", {}, "Reference: "), question.reference) : null,
      make("div", { className: "chips", role: "group", "aria-label": "Configuration" }, ...configs),
      ...(run ? outcomeParts(question, run) : [make("p", { className: "note" }, "This configuration was not asked this question."), ...evidenceParts(question)]));
  }
  function outcome(question, run) {
    if (!run) return "not asked";
    const lost = stageName(run);
    return lost ? `lost at ${lost}` : question.points.length ? "came through" : pointless(question);
  }
  function outcomeParts(question, run) {
    const parts = [];
    if (run.error) parts.push(make("p", { className: "error" }, make("b", {}, "The chain broke off: "), run.error));
    if (question.points.length) parts.push(make("h3", {}, "Information points, stage by stage"), pointMatrix(question, run), make("p", { className: "note" }, "✓ the stage has it, (✓) only in passages that the coarse filter drops, ✗ it has not."));
    if (question.unlocated.length) {
      parts.push(make("h3", {}, "Points that stand nowhere in the documents"), make("ul", {}, ...question.unlocated.map((point) => make("li", {}, point))));
    }
    if (run.answer) parts.push(...answerParts(run.answer));
    parts.push(...evidenceParts(question), ...passageParts(question, run));
    const numbers = Object.entries({ ...run.measures, ...run.cost });
    if (numbers.length) parts.push(make("h3", {}, "Measures and cost"), pairs(numbers));
    return parts;
  }
  function pairs(entries) {
    return make("ul", { className: "pairs" }, ...entries.map(([name, value]) => make("li", {}, `${name} `, make("b", {}, shown(value)))));
  }
  function pointMatrix(question, run) {
    const heads = run.stages.map(([stage]) => make("th", { scope: "col", className: stage === run.lost ? "lost" : "" }, data.stages[stage]));
    const rows = question.points.map((point, number) => make("tr", {}, make("th", { scope: "row" }, point), ...run.stages.map(([, had, filtered]) => {
      const has = had[number] === "1";
      const only = has && filtered[number] === "0";
      return make("td", { className: has ? "yes" : "no", title: only ? "there, but only in passages that the coarse filter drops" : "" }, has ? (only ? "(✓)" : "✓") : "✗");
    })));
    return make("div", { className: "scroll", tabIndex: 0 }, make("table", { className: "matrix" }, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "point"), ...heads)), make("tbody", {}, ...rows)));
  }
  function passageParts(question, run) {
    const seen = run.stages.filter(([, , , , placed]) => placed.length);
    if (!seen.length) return [];
    const wanted = seen.find(([stage]) => stage === state.stage) || seen.find(([stage]) => stage === run.lost) || seen[seen.length - 1];
    const [stage, , , seconds, placed, total] = wanted;
    const buttons = seen.map(([each]) => push(`stage ${each}`, data.stages[each], () => { state.stage = each; draw(); }, { "aria-pressed": String(each === stage) }));
    const items = placed.map(([number, rank, score]) => {
      const [source, start, end, parts] = question.passages[number];
      const place = [rank === null ? "" : `#${rank}`, score === null ? "" : `score ${score}`, data.sources[source], range(start, end)].filter(Boolean).join(", ");
      return make("li", {}, make("div", { className: "where" }, place, parts.length > 1 ? make("span", { className: "has" }, "holds evidence") : null), make("p", { className: "text" }, ...marked(parts)));
    });
    const counted = `${placed.length < total ? `${placed.length} of ${total}` : total} passages${seconds === null ? "" : `, ${shown(Number((1000 * seconds).toPrecision(3)))} ms`}`;
    return [make("h3", {}, "What each stage saw"), make("div", { className: "chips", role: "group", "aria-label": "Stage" }, ...buttons), make("p", { className: "note" }, counted), make("ol", { className: "passages" }, ...items)];
  }
  function answerParts(answer) {
    const cited = answer.citations.map(([source, start, end, text]) => make("li", {}, make("div", { className: "where" }, `${data.sources[source]}, ${range(start, end)}`), make("p", { className: "text" }, text)));
    const failures = Object.entries(answer.failures).map(([name, why]) => make("li", {}, `${name}: not measured, ${why}`));
    return [
      make("h3", {}, answer.abstained ? "Answer (it declined)" : "Answer"),
      make("p", { className: "text quote" }, answer.text || "(empty)"),
      cited.length ? make("h3", {}, `Citations (${cited.length})`) : null,
      cited.length ? make("ol", { className: "passages" }, ...cited) : null,
      Object.keys(answer.measures).length ? pairs(Object.entries(answer.measures)) : null,
      failures.length ? make("ul", {}, ...failures) : null,
    ].filter(Boolean);
  }
  function evidenceParts(question) {
    if (!question.evidence.length) return [];
    const items = question.evidence.map(([source, start, end, parts]) => make("li", {}, make("div", { className: "where" }, `${data.sources[source]}, ${range(start, end)}`), make("p", { className: "text" }, ...marked(parts))));
    return [make("h3", {}, `Evidence in the source (${items.length})`), make("ol", { className: "passages" }, ...items)];
  }

  turn(0);
  live.hidden = false;
  document.getElementById("questions-static").hidden = true;
  function follow() {
    const named = /^#question=(.*)$/.exec(location.hash);
    const place = named ? data.questions.findIndex((question) => question.id === decodeURIComponent(named[1])) : -1;
    if (place >= 0) choose(place);
  }
  window.addEventListener("hashchange", follow);
  follow();
})();
