"use strict";
// Fetches the content of this page again and again, and changes in place what has changed: what the reader has
// selected, focused, scrolled and opened stays so.
(function () {
  const EVERY_MS = 1000, PATIENCE_MS = 10000;
  const live = document.getElementById("live");
  const connection = document.getElementById("connection"), said = document.getElementById("said");
  const address = new URL(location.href);
  address.searchParams.set("content", "1");
  let tag = null, lost = null, timer = 0, asking = false;

  function clock() {
    return new Date().toTimeString().slice(0, 8);
  }

  // Read out by screen readers: only what matters, and only when it changes.
  function say(text) {
    said.textContent = text;
  }

  function key(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    return node.id || node.dataset.run || node.dataset.seed || node.getAttribute("aria-labelledby") || "";
  }

  function alike(one, other) {
    return one.nodeName === other.nodeName && key(one) === key(other);
  }

  function takeAttributes(old, fresh) {
    const readers = old.nodeName === "DETAILS" ? "open" : "";
    for (const { name } of Array.from(old.attributes)) {
      if (name !== readers && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of Array.from(fresh.attributes)) {
      if (name !== readers && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  }

  function without(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  function become(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    takeAttributes(old, fresh);
    // What is gone goes first: what stays then need not be moved, which would cost it selection and focus.
    const kept = new Set(Array.from(fresh.childNodes, key));
    for (const child of Array.from(old.childNodes)) if (!kept.has(key(child))) child.remove();
    let at = old.firstChild;
    for (const wanted of Array.from(fresh.childNodes)) {
      let found = at;
      while (found && !alike(found, wanted)) found = key(wanted) ? found.nextSibling : null;
      while (found && at !== found && !key(at)) at = without(at);
      if (!found) {
        old.insertBefore(document.adoptNode(wanted), at);
      } else if (found === at) {
        become(at, wanted);
        at = at.nextSibling;
      } else {
        old.insertBefore(found, at);
        become(found, wanted);
      }
    }
    while (at) at = without(at);
  }

  function show(fresh) {
    const focused = document.activeElement;
    become(live, fresh);
    if (focused && focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    document.title = live.dataset.title;
  }

  function connected() {
    if (lost) say("connected again");
    lost = null;
    connection.classList.remove("lost");
    connection.textContent = "live at " + clock();
  }

  function disconnected() {
    if (!lost) {
      lost = clock();
      say("not connected");
    }
    tag = null;
    connection.classList.add("lost");
    connection.textContent = "not connected since " + lost;
  }

  async function fetchContent() {
    const headers = tag ? { "If-None-Match": tag } : {};
    const answer = await fetch(address, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (answer.status === 304) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live"), before = live.dataset.said;
    if (!fresh) throw new Error("this is no answer of the board");
    show(fresh);
    tag = answer.headers.get("ETag");
    if (live.dataset.said !== before) say(live.dataset.said);
  }

  async function look() {
    clearTimeout(timer);
    if (asking) return;
    asking = true;
    try {
      await fetchContent();
      connected();
    } catch {
      disconnected();
    }
    asking = false;
    timer = setTimeout(look, EVERY_MS);
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  timer = setTimeout(look, EVERY_MS);
})();
