"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const map = one(".map"), table = one(".map > table");
  const rows = all("tr.clause");
  const detailOf = (row) => document.getElementById(row.dataset.clause + "-detail");
  const segments = all(".segments button");
  const family = one("#family"), subject = one("#subject"), text = one("#text");
  const verdictOf = { failures: "failed", waived: "waived", untested: "untested", "not-supported": "not-supported", passed: "passed", "passed-in-part": "passed-in-part" };
  const words = new Map(rows.map((row) => [row, (row.textContent + " " + detailOf(row).textContent).toLowerCase()]));
  let show = "all";

  // Clauses that no subject supports are one line of their family, with the reasons, until it is opened.
  const opened = new Set();
  const foldOf = (body) => one("tr.fold", body);
  function unfold(body, open) {
    if (open) opened.add(body);
    else opened.delete(body);
    one("button", foldOf(body)).setAttribute("aria-expanded", String(open));
  }
  for (const fold of all("tr.fold")) {
    const body = fold.closest("tbody");
    one("button", fold).addEventListener("click", () => { unfold(body, !opened.has(body)); filter(); });
  }

  // What a row says for the chosen subject, or for all.
  const cells = (row) => all("td[data-verdict]", row).filter((c) => !subject?.value || c.dataset.subject === subject.value);
  const has = (row, kind) => kind === "all" || cells(row).some((c) => c.dataset.verdict === verdictOf[kind]);

  function setOpen(row, open) {
    const detail = detailOf(row);
    if (open) detail.removeAttribute("hidden");
    else detail.setAttribute("hidden", "until-found");
    one(".toggle", row).setAttribute("aria-expanded", String(open));
  }

  function filter() {
    const wanted = text.value.trim().toLowerCase();
    const counts = {};
    const folding = show === "all" && !wanted;
    let shown = 0;
    for (const fold of all("tr.fold")) fold.hidden = !folding || Boolean(family.value && fold.closest("tbody").dataset.family !== family.value);
    for (const row of rows) {
      const inside = (!family.value || row.closest("tbody").dataset.family === family.value) && (!wanted || words.get(row).includes(wanted));
      if (inside) for (const b of segments) counts[b.dataset.show] = (counts[b.dataset.show] || 0) + has(row, b.dataset.show);
      const folded = folding && row.classList.contains("folded") && !opened.has(row.closest("tbody"));
      const visible = inside && has(row, show) && !folded;
      row.hidden = !visible;
      row.nextElementSibling.hidden = !visible;
      shown += visible;
      for (const line of all("[data-line]", detailOf(row))) line.hidden = Boolean(subject?.value) && line.dataset.line !== subject.value;
      for (const c of all("td[data-verdict]", row)) {
        c.classList.toggle("dim", (show !== "all" && c.dataset.verdict !== verdictOf[show]) || Boolean(subject?.value && c.dataset.subject !== subject.value));
      }
    }
    for (const body of all("tbody[data-family]")) body.hidden = all("tr.clause", body).every((row) => row.hidden) && (foldOf(body)?.hidden ?? true);
    for (const b of segments) {
      b.setAttribute("aria-pressed", String(b.dataset.show === show));
      one("b", b).textContent = counts[b.dataset.show] || 0;
      b.hidden = !rows.some((row) => all("td[data-verdict]", row).some((c) => c.dataset.verdict === verdictOf[b.dataset.show])) && b.dataset.show !== "all" && b.dataset.show !== "failures";
    }
    one("#shown").textContent = shown + " of " + rows.length;
    one(".nothing").hidden = shown > 0 || all("tr.fold").some((fold) => !fold.hidden);
  }

  // The address carries the filter, so that a link can.
  function write() {
    const parts = show === "all" ? [] : [show];
    for (const [key, field] of [["family", family], ["subject", subject], ["text", text]]) {
      if (field?.value) parts.push(key + "=" + encodeURIComponent(field.value));
    }
    history.replaceState(null, "", parts.length ? "#" + parts.join("&") : location.pathname + location.search);
  }

  function read() {
    show = "all";
    for (const field of [family, subject, text]) if (field) field.value = "";
    let target = null;
    for (const part of location.hash.slice(1).split("&").filter(Boolean)) {
      const [key, value] = part.split("=").map(decodeURIComponent);
      if (value !== undefined) ({ family, subject, text })[key] && (({ family, subject, text })[key].value = value);
      else if (key in verdictOf || key === "all") show = key;
      else target = rows.find((row) => row.dataset.clause === key) || target;
    }
    if (target?.classList.contains("folded")) unfold(target.closest("tbody"), true);
    filter();
    if (target) reveal(target);
  }

  function reveal(row) {
    setOpen(row, true);
    const pane = map.classList.contains("pane");
    (pane ? map : row).scrollIntoView({ block: "start" });
    if (pane) map.scrollTop = row.offsetTop - one("thead", table).offsetHeight;
  }

  function open(row, name) {
    setOpen(row, true);
    const detail = detailOf(row);
    for (const line of all("[data-line]", detail)) line.classList.toggle("lit", line.dataset.line === name);
    (all("article[data-line]", detail).find((a) => a.dataset.line === name) || one(".lit", detail) || detail).scrollIntoView({ block: "nearest" });
  }

  for (const row of rows) {
    one(".toggle", row).addEventListener("click", (event) => setOpen(row, event.currentTarget.getAttribute("aria-expanded") !== "true"));
    detailOf(row).addEventListener("beforematch", () => setOpen(row, true));
    for (const c of all("td[data-verdict]", row)) {
      one("button", c).addEventListener("click", () => {
        const lit = detailOf(row).hasAttribute("hidden") || !one(".lit", detailOf(row)) || one(".lit", detailOf(row)).dataset.line !== c.dataset.subject;
        if (lit) open(row, c.dataset.subject);
        else setOpen(row, false);
        if (!lit) for (const line of all(".lit", detailOf(row))) line.classList.remove("lit");
      });
    }
  }

  // A link to a clause keeps the filter where the clause is in sight.
  for (const link of all('.detail a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      const row = rows.find((r) => r.dataset.clause === link.hash.slice(1));
      if (row && !row.hidden) {
        event.preventDefault();
        reveal(row);
      }
    });
  }

  // One stop for the tabulator per row; arrows move between all of them.
  table.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr.clause");
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!row || !step) return;
    const visible = rows.filter((r) => !r.hidden);
    const buttons = (r) => [one(".toggle", r), ...all("td[data-verdict] button", r)];
    const next = visible[visible.indexOf(row) + step[0]];
    const to = next && buttons(next)[buttons(row).indexOf(event.target.closest("button")) + step[1]];
    if (to) {
      event.preventDefault();
      to.focus();
    }
  });

  for (const b of segments) b.addEventListener("click", () => { show = b.dataset.show; filter(); write(); });
  for (const field of [family, subject, text]) field?.addEventListener("input", () => { filter(); write(); });
  one(".bar").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", read);

  for (const b of all(".copy")) {
    b.addEventListener("click", async () => {
      const code = one("code", b.parentElement);
      try {
        await navigator.clipboard.writeText(code.textContent);
        b.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        b.textContent = "Selected";
      }
      setTimeout(() => { b.textContent = "Copy"; }, 1500);
    });
  }

  // A table that is wider than the page scrolls in a pane of its own, which keeps both headings in sight.
  function fit() {
    map.classList.remove("pane");
    const pane = table.offsetWidth > map.clientWidth + 1;
    map.classList.toggle("pane", pane);
    const bar = one(".bar").offsetHeight, head = one("thead", table).offsetHeight;
    const root = document.documentElement.style;
    root.setProperty("--bar-h", bar + "px");
    root.setProperty("--head-h", head + "px");
    root.setProperty("--skip", (pane ? bar : bar + head) + "px");
    map.style.setProperty("--pane-w", map.clientWidth + "px");
  }
  addEventListener("resize", fit);
  new ResizeObserver(fit).observe(one(".bar"));
  filter();
  fit();
  read();
})();
