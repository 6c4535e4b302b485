"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const form = one(".filters"), grid = one(".grid");
  if (!form) return;
  document.documentElement.classList.add("js");
  const field = form.elements;
  const lines = all("tr.line"), boxes = all('[name="subject"]', form), dialects = all('[name="dialect"]', form);
  const panel = one(".panel"), title = one("#panel-title"), body = one(".panel-body");
  const told = new Map(lines.map((line) => [line, document.getElementById(line.dataset.clause)]));
  const words = new Map(lines.map((line) => [line, told.get(line).textContent.toLowerCase()]));
  const families = new Map(all("tbody[data-family]", grid).map((part) => [part, all("tr.line", part)]));
  const cells = new Map(lines.map((line) => [line, all("td", line)]));
  const marks = all("[data-s]").filter((mark) => !mark.closest("#reasons"));
  let open = "";

  // Without this script a link to a cell leads to its reason; with it, to the cell, beside which the reason opens.
  for (const place of all("#reasons [id^=BN-]")) {
    place.removeAttribute("id");
    if (place.matches("details")) place.open = false;
  }

  // Verdicts of the subjects that are shown, on the clause of a line.
  const verdicts = (line, shown) => cells.get(line).filter((c) => shown.has(c.dataset.s)).map((c) => c.className.split(" ")[0]);
  const fails = (v) => v === "failed" || v === "waived";
  const asked = (v) => v !== "not-supported" && v !== "unlooked";
  const holds = (v) => v === "passed" || v === "passed-in-part";
  function matches(found, only) {
    if (!only) return true;
    if (only === "fails") return found.some(fails);
    if (only === "differs") return found.some(holds) && found.some(fails);
    if (only === "passed") return found.some(asked) && found.filter(asked).every((v) => v === "passed");
    return found.includes(only);
  }

  function filter() {
    const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.index));
    for (const box of dialects) {
      const own = boxes.filter((b) => b.dataset.dialect === box.value);
      box.checked = own.every((b) => b.checked);
      box.indeterminate = !box.checked && own.some((b) => b.checked);
    }
    for (const mark of marks) mark.hidden = !shown.has(mark.dataset.s);
    const text = field.text.value.trim().toLowerCase();
    let number = 0;
    for (const line of lines) {
      const visible = (!field.level.value || line.dataset.level === field.level.value)
        && (!field.family.value || line.parentElement.dataset.family === field.family.value)
        && (!text || words.get(line).includes(text)) && matches(verdicts(line, shown), field.only.value);
      line.hidden = told.get(line).hidden = !visible;
      number += visible;
    }
    for (const [part, own] of families) part.hidden = own.every((line) => line.hidden);
    for (const head of all("tr.family th", grid)) head.colSpan = shown.size + 1;
    one("output", form).textContent = number + " of " + lines.length + " clauses";
    one(".choose b", form).textContent = shown.size + " of " + boxes.length;
    one(".nothing", grid).hidden = number > 0;
    grid.style.setProperty("--n", shown.size);
  }

  // The address carries the filters and the open cell: #level=AA&only=fails&subjects=keras,numpy&BN-RUN-9/keras
  function write() {
    const parts = [];
    for (const name of ["text", "level", "family", "only"]) {
      if (field[name].value) parts.push(name + "=" + encodeURIComponent(field[name].value));
    }
    if (!boxes.every((box) => box.checked)) {
      const whole = dialects.filter((box) => box.checked).map((box) => box.value);
      const rest = boxes.filter((box) => box.checked && !whole.includes(box.dataset.dialect)).map((box) => box.value);
      if (whole.length) parts.push("dialects=" + whole.map(encodeURIComponent).join());
      if (rest.length || !whole.length) parts.push("subjects=" + rest.map(encodeURIComponent).join());
    }
    if (open) parts.push(open);
    history.replaceState(null, "", parts.length ? "#" + parts.join("&") : location.pathname + location.search);
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  }

  function read() {
    const given = {};
    let target = "";
    for (const part of location.hash.slice(1).split("&").filter(Boolean)) {
      const at = part.indexOf("=");
      if (at < 0) target = part;
      else given[part.slice(0, at)] = part.slice(at + 1);
    }
    const clause = told.get(lines.find((line) => line.dataset.clause === target.split("/")[0]));
    if (target && !clause && !Object.keys(given).length) return; // a part of the page
    for (const name of ["text", "level", "family", "only"]) {
      field[name].value = decoded(given[name] ?? "");
      if (field[name].selectedIndex === -1) field[name].value = "";
    }
    const listed = (key) => (given[key] ?? "").split(",").filter(Boolean).map(decoded);
    const some = "subjects" in given || "dialects" in given;
    const whole = listed("dialects"), names = listed("subjects");
    for (const box of boxes) box.checked = !some || whole.includes(box.dataset.dialect) || names.includes(box.value);
    filter();
    if (clause) {
      show(target);
      one(".lit", grid)?.scrollIntoView({ block: "center", inline: "nearest" });
      uncover(one(".lit", grid));
    } else {
      if (!panel.hidden) hide();
      if (Object.keys(given).length) one("#clauses").scrollIntoView();
    }
  }

  // A cell opens beside the table: the clause, and of its reasons those of the subject, or all.
  function show(target, focus = false) {
    const [clause, anchor] = target.split("/");
    const line = lines.find((l) => l.dataset.clause === clause);
    const link = anchor === undefined ? one("th a", line) : all("td a", line).find((a) => a.getAttribute("href") === "#" + target);
    if (!link) return;
    const subject = anchor === undefined ? null : link.parentElement.dataset.s;
    open = target;
    title.replaceChildren(clause, " ", ...(subject === null ? [] : [one('thead [data-s="' + subject + '"]', grid).textContent]));
    const source = told.get(line);
    const parts = all("article", source).filter((a) => subject === null || a.dataset.subjects.split(" ").includes(subject));
    const copies = [one(".text", source), ...parts].map((part) => part.cloneNode(true));
    body.replaceChildren(...copies);
    for (const mark of all("[id]", body)) mark.removeAttribute("id");
    if (subject !== null) {
      for (const mark of all("[data-s]", body)) mark.hidden = mark.dataset.s !== subject && mark.tagName !== "B";
      for (const mark of all("h3 b[data-s]", body)) mark.classList.toggle("other", mark.dataset.s !== subject);
      const examples = all("details.example", body).filter((e) => !e.hidden);
      if (examples.length) examples[0].open = true;
    }
    for (const mark of all(".lit", grid)) mark.classList.remove("lit");
    link.classList.add("lit");
    panel.hidden = false;
    document.documentElement.classList.add("opened");
    body.scrollTop = 0;
    link.scrollIntoView({ block: "nearest", inline: "nearest" });
    uncover(link);
    if (focus) title.focus({ preventScroll: true });
  }

  // On a narrow screen the panel lies over the lower part of the page.
  function uncover(link) {
    const over = panel.getBoundingClientRect();
    const covered = link ? link.getBoundingClientRect().bottom - over.top : 0;
    if (covered > 0 && over.left < 1) scrollBy(0, covered + 40);
  }

  function hide() {
    const link = one(".lit", grid);
    open = "";
    panel.hidden = true;
    document.documentElement.classList.remove("opened");
    link?.classList.remove("lit");
    return link;
  }

  function close() {
    hide()?.focus({ preventScroll: true });
    write();
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest('.grid td a, .grid tbody th a, .panel a[href^="#BN-"], #reasons a[href^="#BN-"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const target = link.getAttribute("href").slice(1);
    if (target === open && link.closest(".grid")) close();
    else {
      show(target, true);
      write();
    }
  });
  one(".close", panel).addEventListener("click", close);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) close();
  });

  // One stop for the tabulator per line; arrows move between all of them.
  for (const link of all("td a", grid)) link.tabIndex = -1;
  grid.addEventListener("keydown", (event) => {
    const line = event.target.closest("tr.line");
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!line || !step) return;
    const visible = lines.filter((l) => !l.hidden);
    const places = (l) => [...l.children].filter((c) => !c.hidden);
    const next = visible[visible.indexOf(line) + step[0]];
    const to = next && one("a", places(next)[places(line).indexOf(event.target.closest("th, td")) + step[1]] ?? next);
    if (to) {
      event.preventDefault();
      to.focus();
    }
  });

  form.addEventListener("input", (event) => {
    if (event.target.name === "dialect") {
      for (const box of boxes) if (box.dataset.dialect === event.target.value) box.checked = event.target.checked;
    }
    filter();
    write();
  });
  for (const button of all("[data-all]", form)) {
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = Boolean(button.dataset.all);
      filter();
      write();
    });
  }
  const reset = () => {
    form.reset();
    filter();
    write();
  };
  form.addEventListener("reset", () => setTimeout(() => { filter(); write(); }));
  one(".nothing button", grid).addEventListener("click", reset);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", read);
  filter();
  read();
  addEventListener("load", read); // the browser has looked for the fragment itself by then
})();
