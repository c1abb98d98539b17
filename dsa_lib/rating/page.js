// The rating page in the browser. It shows what the server says and sends what the rater does; it decides nothing and keeps no answer but those on their way.

const SEGMENTS = [["proximal", "Proximal"], ["medium", "Medium"], ["peripheral", "Peripheral"]];
const GRADES = ["1", "2", "3", "4", "5"];
const PROBE_MS = 1500;      // so long without a reply, and the page asks whether the server is still there
const PATIENCE_MS = 20000;  // so long, and the connection counts as lost whatever the server says
const KEEP_MS = 600000;     // an unsent answer is sent after a reconnection if it is not older than this
const TOKEN = /^#([a-z0-9]{4}(?:-[a-z0-9]{4}){3})$/;
const KEYS = {
  screening: [["K", "keep"], ["R", "reject"], ["← →", "back, forward"], ["Enter", "next undecided"]],
  rating: [["1 – 5", "grade"], ["N", "not present"], ["A", "not applicable"], ["X", "external circulation"],
           ["↑ ↓", "choose segment"], ["Del", "clear"], ["← →", "back, forward"], ["Enter", "next ungraded"]],
  annotation: [["← →", "frames"], ["Space", "play, stop"], ["Enter", "mark frame"], ["N", "no arterial frame"],
               ["↑ ↓", "series"]],
};
const VIEW_KEYS = [["I", "invert"], ["+ −", "zoom"], ["Shift ←↑↓→", "move"], ["[ ]", "contrast"], [", .", "brightness"], ["0", "reset view"]];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// --- the image: window and level, inversion, zoom and position, all in the browser and at once ------------------------------------------------

class Viewer {
  constructor() {
    this.canvas = element("canvas", { class: "dsa-canvas", role: "img", "aria-label": "angiogram" });
    this.readout = element("div", { class: "dsa-readout", "aria-live": "off" });
    this.box = element("div", { class: "dsa-viewer" }, this.canvas, this.readout);
    this.source = document.createElement("canvas");
    this.home = { width: 256, level: 128 };
    this.window = { ...this.home, invert: false };
    this.fit();
    this.frames = []; this.index = 0;
    new ResizeObserver(() => this.draw()).observe(this.box);
    this.canvas.addEventListener("wheel", (e) => { e.preventDefault(); this.zoom(Math.exp(-e.deltaY / 400)); }, { passive: false });
    this.canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    this.canvas.addEventListener("pointerdown", (e) => { this.canvas.setPointerCapture(e.pointerId); this.drag = e.shiftKey || e.button ? "move" : "window"; });
    this.canvas.addEventListener("pointerup", () => { this.drag = null; });
    this.canvas.addEventListener("pointermove", (e) => {
      if (this.drag === "move") this.move(e.movementX, e.movementY);
      else if (this.drag === "window") this.contrast(e.movementX, e.movementY / 2);
    });
  }
  async show(buffers) {
    // Kept as grey values: the window is applied to them, not to what is on the screen.
    const frames = [];
    for (const bytes of buffers) {
      const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
      const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(bitmap, 0, 0);
      const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data, grey = new Uint8Array(rgba.length / 4);
      for (let i = 0; i < grey.length; i++) grey[i] = rgba[4 * i];
      frames.push({ width: bitmap.width, height: bitmap.height, grey });
      bitmap.close();
    }
    return () => { this.frames = frames; this.index = 0; this.fit(); this.render(); };
  }
  clear() { this.frames = []; this.draw(); }
  select(index) { this.index = Math.max(0, Math.min(this.frames.length - 1, index)); this.render(); }
  fit() { this.scale = 1; this.x = 0; this.y = 0; }
  reset() { this.fit(); Object.assign(this.window, this.home, { invert: false }); this.render(); }
  // The study's own window, the same for every image; what a rater has changed stays.
  begin([width, level]) {
    if (this.home.width === width && this.home.level === level) return;
    this.home = { width, level };
    Object.assign(this.window, this.home);
  }
  zoom(factor) { const before = this.scale; this.scale = Math.max(1, Math.min(12, before * factor)); const by = this.scale / before; this.x *= by; this.y *= by; this.draw(); }
  move(x, y) { this.x += x; this.y += y; this.draw(); }
  contrast(width, level) { this.window.width = Math.max(8, Math.min(512, this.window.width + width)); this.window.level = Math.max(0, Math.min(255, this.window.level + level)); this.render(); }
  invert() { this.window.invert = !this.window.invert; this.render(); }
  render() {
    const frame = this.frames[this.index];
    if (!frame) return;
    const { width, level, invert } = this.window, table = new Uint8ClampedArray(256);
    for (let v = 0; v < 256; v++) { const t = ((v - level) / width + 0.5) * 255; table[v] = invert ? 255 - Math.max(0, Math.min(255, t)) : t; }
    Object.assign(this.source, { width: frame.width, height: frame.height });
    const context = this.source.getContext("2d"), shown = context.createImageData(frame.width, frame.height);
    for (let i = 0; i < frame.grey.length; i++) { shown.data[4 * i] = shown.data[4 * i + 1] = shown.data[4 * i + 2] = table[frame.grey[i]]; shown.data[4 * i + 3] = 255; }
    context.putImageData(shown, 0, 0);
    this.draw();
  }
  draw() {
    const ratio = window.devicePixelRatio || 1, w = this.box.clientWidth, h = this.box.clientHeight, frame = this.frames[this.index];
    Object.assign(this.canvas, { width: Math.round(w * ratio), height: Math.round(h * ratio) });
    this.readout.textContent = "";
    if (!frame || !w || !h) return;
    const context = this.canvas.getContext("2d"), fit = Math.min(w / frame.width, h / frame.height) * this.scale;
    const reach = [frame.width * fit, frame.height * fit];
    this.x = Math.max(-reach[0] / 2, Math.min(reach[0] / 2, this.x)); this.y = Math.max(-reach[1] / 2, Math.min(reach[1] / 2, this.y));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.source, (w - reach[0]) / 2 + this.x, (h - reach[1]) / 2 + this.y, ...reach);
    const { width, level, invert } = this.window;
    this.readout.textContent = `W ${Math.round(width)}  L ${Math.round(level)}  ×${this.scale.toFixed(1)}  ${frame.width} px${invert ? "  inverted" : ""}`;
  }
}

// --- the connection: every message is answered, what is not is kept and sent again -------------------------------------------------------------

class Connection {
  constructor(model, onReply, onLost) {
    this.model = model; this.view = Math.random().toString(36).slice(2); this.open = new Map(); this.request = 0; this.lost = false;
    this.onLost = onLost;
    this.receive = (message, buffers) => {
      if (message.view !== this.view) return;  // to another view of the same widget
      const sent = this.open.get(message.request);
      this.open.delete(message.request);
      onReply(message, buffers, sent ? sent.message : {});
    };
    model.on("msg:custom", this.receive);
    this.timer = setInterval(() => this.check(), 1000);
  }
  send(message) {
    this.request += 1;
    this.open.set(this.request, { message, time: Date.now() });
    this.model.send({ ...message, view: this.view, request: this.request });
    return this.request;
  }
  async check() {
    const waited = Date.now() - Math.min(...[...this.open.values()].map((sent) => sent.time));
    if (this.lost || !(waited > PROBE_MS)) return;
    if (waited > PATIENCE_MS || await gone()) { if (!this.lost) { this.lost = true; this.onLost(); } }
  }
  end() { clearInterval(this.timer); this.model.off("msg:custom", this.receive); this.model.send({ view: this.view, do: "leave" }); }
}

// Whether the server or this page's process on it is gone; unknown (false) in JupyterLab.
function probe() {
  const { baseUrl, kernelId } = JSON.parse(document.getElementById("jupyter-config-data")?.textContent || "{}");
  return fetch(`${baseUrl}api/kernels/${kernelId}`, { cache: "no-store" });
}
async function gone() {
  if (document.body.dataset.voila !== "voila") return false;
  try { return (await probe()).status === 404; } catch { return true; }
}

// Answers that were sent and not yet acknowledged, kept over a reload of this browser page.
const unsent = {
  name: (token) => `dsa-unsent-${token}`,
  read(token) { try { return JSON.parse(sessionStorage.getItem(this.name(token)) || "[]"); } catch { return []; } },
  write(token, list) { try { sessionStorage.setItem(this.name(token), JSON.stringify(list)); } catch { /* storage is off: answers still wait in memory */ } },
  add(token, answer) { this.write(token, [...this.read(token).filter((a) => a.key !== answer.key || a.field !== answer.field), { ...answer, time: Date.now() }]); },
  remove(token, answer) { this.write(token, this.read(token).filter((a) => a.key !== answer.key || a.field !== answer.field || a.value !== answer.value)); },
};

function render({ model, el }) {
  const inLab = document.body.dataset.voila !== "voila";  // the server of make readers marks its page
  const viewer = new Viewer();
  const panel = element("section", { class: "dsa-panel" });
  const root = element("div", { class: `dsa-root ${inLab ? "dsa-inside" : "dsa-whole"}`, tabindex: "0", "data-lm-suppress-shortcuts": "true" }, viewer.box, panel);
  el.append(root);
  if (!inLab) document.title = "Reader study";

  let token = !inLab && TOKEN.test(location.hash) ? location.hash.slice(1) : "";
  let reply = { show: "hello" }, segment = 0, turning = false, note = "", playing = null, resent = false, closing = false;
  const connection = new Connection(model, receive, lost);

  // --- sending
  function go(to) { if (reply.show === "image" || reply.last) { turning = true; connection.send({ do: "go", key: reply.key || reply.last, has: reply.key, to }); paint(); } }
  function answer(field, value, then = "here") {
    if (turning || reply.show !== "image") return;
    const sent = { key: reply.key, field, value };
    unsent.add(token, sent);
    if (then !== "here") turning = true;
    connection.send({ do: "answer", ...sent, has: reply.key, then });
    reply.answers = { ...reply.answers, [field]: value };
    if (!value) delete reply.answers[field];
    note = ""; paint();
  }
  function grouped(typed) {  // a token as it stands in addresses, however it was typed
    const bare = typed.toLowerCase().replace(/[^a-z0-9]/g, "");
    return bare.length === 16 ? bare.match(/.{4}/g).join("-") : typed.trim().toLowerCase();
  }
  function hello(given) { token = given; connection.send({ do: "hello", token }); }

  // --- receiving
  async function receive(message, buffers, sent) {
    if (sent.do === "answer" && message.show !== "fault") unsent.remove(token, sent);
    if (message.show === "alive") return;
    if (message.show === "fault") { note = message.note; turning = false; if (reply.show === "hello") reply = { show: "fault" }; return paint(); }
    if (sent.do === "hello" && message.show !== "login") {
      if (!inLab) history.replaceState(null, "", `#${token}`);  // a reload comes back without asking
      const waiting = unsent.read(token).filter((a) => Date.now() - a.time < KEEP_MS);
      unsent.write(token, waiting);
      if (waiting.length && !resent) {
        resent = true;
        for (const { key, field, value } of waiting) connection.send({ do: "answer", key, field, value, again: true });
        return connection.send({ do: "hello", token });
      }
    }
    if (sent.again) return;
    const later = [...connection.open.values()].some((other) => other.message.do !== "ping" && other.message.key === message.key);
    if (later && message.key === reply.key) return;  // an answer given since is on its way; its reply will say all
    const another = message.key !== reply.key || message.stage !== reply.stage;
    if (another) { stop(); segment = 0; }
    let appear = () => {};
    if (message.window) viewer.begin(message.window);
    if (message.show === "image" && buffers.length) appear = await viewer.show(buffers);
    reply = message; note = message.note || ""; turning = closing = false;
    appear();
    if (message.show !== "image") viewer.clear();
    if (another && message.stage === "annotation") viewer.select(Number(message.answers?.frame) || 0);
    if (another && message.stage === "rating") segment = Math.max(0, SEGMENTS.findIndex(([name]) => !(name in (message.answers || {}))));
    paint();
    if (another && !root.contains(document.activeElement)) root.focus({ preventScroll: true });
  }
  function lost() {
    note = ""; paint();
    if (inLab) return;
    const again = setInterval(async () => {
      try { await probe(); } catch { return; }
      clearInterval(again); location.reload();
    }, 1000);
  }
  const pulse = setInterval(() => {
    if (!token || connection.open.size) return;
    if (reply.stage === "waiting") connection.send({ do: "hello", token });
    else if (reply.show === "image" || reply.show === "end") connection.send({ do: "ping" });
  }, 5000);
  const seen = () => { if (!document.hidden && reply.show === "image" && !turning && !connection.open.size) connection.send({ do: "go", key: reply.key, has: reply.key, to: "here" }); };
  document.addEventListener("visibilitychange", seen);
  window.addEventListener("focus", seen);

  // --- what is on the panel
  function button(label, title, pressed, action, extra = "") {
    return element("button", { type: "button", class: `dsa-button ${extra}`, title, "aria-pressed": pressed == null ? null : String(pressed), onclick: () => { action(); root.focus({ preventScroll: true }); } }, label);
  }
  function keyList(pairs) {
    const caps = (key) => key.split(" ").map((k) => (k === "–" ? "–" : element("kbd", {}, k)));
    return element("div", { class: "dsa-keys" }, ...pairs.map(([key, text]) => element("div", {}, element("span", {}, ...caps(key)), element("span", {}, text))));
  }
  function words(title, ...paragraphs) { return [element("h1", {}, title), ...paragraphs.map((text) => element("p", {}, text))]; }

  function paint() {
    const parts = connection.lost ? [element("div", { class: "dsa-lost", role: "alert" }, inLab ? "The connection is lost. Run the notebook's cell again; what you answered is saved." :
      "The connection is lost. This page comes back by itself as soon as the server answers; an answer that was on its way is sent then.")] : [];
    if (reply.show === "hello") parts.push(...(token || inLab ? [] : login("")), ...(token ? words("One moment", "Your place in the study is looked up.") : inLab ? login("") : []));
    else if (reply.show === "login") parts.push(...login(note));
    else if (reply.show === "fault") parts.push(...words("This page cannot go on", note));
    else { parts.push(head()); parts.push(...(reply.show === "end" ? end() : { screening, rating, annotation }[reply.stage]())); parts.push(foot()); }
    const focused = panel.contains(document.activeElement) && document.activeElement.tagName === "INPUT";
    if (focused && reply.show === "login" && panel.querySelector("input") && !note) return;
    panel.replaceChildren(...parts);
    panel.dataset.busy = String(turning); panel.dataset.stage = reply.stage || ""; panel.dataset.show = reply.show; panel.dataset.saved = String(!waitingAnswers());
  }
  function waitingAnswers() { return [...connection.open.values()].some((sent) => sent.message.do === "answer"); }
  function login(fault) {
    const input = element("input", { name: "token", autocomplete: "off", spellcheck: "false", placeholder: "xxxx-xxxx-xxxx-xxxx", "aria-label": "token" });
    setTimeout(() => input.focus());
    const begin = () => { if (input.value.trim()) hello(grouped(input.value)); };
    // Not a form: JupyterLab keeps Enter from submitting one.
    input.addEventListener("keydown", (e) => { e.stopPropagation(); if (e.key === "Enter") begin(); });
    return [...words("Reader study", "Please enter the token from your invitation."),
      element("div", { class: "dsa-login" }, input, element("button", { type: "button", class: "dsa-button dsa-strong", onclick: begin }, "Begin")),
      element("p", { class: "dsa-note", role: "status" }, fault)];
  }
  function head() {
    const title = { screening: "Screening", rating: "Rating", annotation: "Arterial frame", waiting: "Please wait", thanks: "Thank you" }[reply.stage];
    const unit = reply.stage === "annotation" ? "Series" : "Image";
    const count = reply.of ? element("span", { class: "dsa-count" }, reply.position ? `${unit} ${reply.position} of ${reply.of}` : `${reply.done} of ${reply.of} done`) : "";
    return element("header", {}, element("div", { class: "dsa-line" }, element("h1", {}, title), element("span", { class: "dsa-who" }, reply.rater)),
      ...(reply.of ? [element("div", { class: "dsa-line" }, count, element("span", { class: "dsa-quiet" }, reply.position ? `${reply.done} done` : "")),
        element("progress", { max: reply.of, value: reply.done, "aria-label": "progress" })] : []));
  }
  function foot() {
    const keys = reply.show === "image" ? [element("details", { class: "dsa-help", open: true }, element("summary", {}, "Keys"), keyList([...KEYS[reply.stage], ...(reply.turing ? [["T", reply.origin === "phantom" ? "archive" : "real"], ["G", "generated"]] : []), ...VIEW_KEYS]),
      element("p", { class: "dsa-quiet" }, "Mouse: drag contrast, Shift-drag move, wheel zoom."))] : [];
    const honest = reply.origin === "phantom" ? [element("p", { class: "dsa-quiet" }, "Simulated archive: no image here shows a patient.")] : [];
    return element("footer", {}, ...keys, ...honest);
  }
  function status() {
    const text = note || (waitingAnswers() ? "Saving …" : Object.keys(reply.answers || {}).length ? "Saved" : "");
    return element("p", { class: note ? "dsa-note" : "dsa-quiet dsa-status", role: "status" }, text);
  }
  function moves(forward) {
    return element("div", { class: "dsa-moves" }, button("Back", "previous image (←)", null, () => go("previous")), button(forward, "Enter", null, () => go("continue"), "dsa-strong"));
  }
  function screening() {
    const kept = reply.answers.kept;
    return [element("p", {}, "Is this image fit to be assessed as an arterial-phase angiogram?"),
      element("div", { class: "dsa-pair" }, button("Keep", "K", kept === "true", () => answer("kept", "true", "continue"), "dsa-big"), button("Reject", "R", kept === "false", () => answer("kept", "false", "continue"), "dsa-big")),
      status(), moves("Next")];
  }
  function rating() {
    const external = reply.answers.external_circulation === "true";
    const rows = SEGMENTS.map(([name, label], n) => element("div", { class: `dsa-segment${n === segment && !external ? " dsa-active" : ""}`, role: "group", "aria-label": label, "data-segment": name, onclick: () => { segment = n; paint(); } },
      element("h2", {}, label),
      element("div", { class: "dsa-grades" }, ...GRADES.map((g) => button(g, `${label} ${g}`, reply.answers[name] === g, () => grade(n, g), "dsa-grade"))),
      element("div", { class: "dsa-pair" }, button("Not present", `${label} not present (N)`, reply.answers[name] === "not_present", () => grade(n, "not_present")), button("Not applicable", `${label} not applicable (A)`, reply.answers[name] === "not_applicable", () => grade(n, "not_applicable")))));
    const origin = reply.turing ? [element("div", { class: "dsa-segment", role: "group", "aria-label": "origin" }, element("h2", {}, reply.origin === "phantom" ? "A frame of the simulated archive, or generated?" : "A real frame, or generated?"),
      element("div", { class: "dsa-pair" }, button(reply.origin === "phantom" ? "Archive" : "Real", "T", reply.answers.origin === "archive", () => answer("origin", "archive")), button("Generated", "G", reply.answers.origin === "generated", () => answer("origin", "generated"))))] : [];
    return [element("p", { class: "dsa-quiet", title: "visibility and delineation of the arteries (§2.4)" }, "1 very poor … 5 excellent visibility"),
      element("div", { class: external ? "dsa-dim" : "" }, ...rows),
      button("External circulation (whole image)", "X", external, () => answer("external_circulation", external ? "" : "true"), "dsa-wide"), ...origin, status(), moves("Next")];
  }
  function annotation() {
    const mark = reply.answers.frame, last = viewer.frames.length - 1;
    const slider = element("input", { type: "range", min: 0, max: Math.max(last, 0), value: viewer.index, "aria-label": "frame", oninput: (e) => { stop(); viewer.select(Number(e.target.value)); counter.textContent = place(); } });
    const place = () => `Frame ${viewer.index + 1} of ${last + 1}`;
    const counter = element("span", { class: "dsa-count dsa-frame" }, place());
    const marked = mark == null ? "Not marked yet" : mark === "none" ? "Marked: no arterial frame" : `Marked: frame ${Number(mark) + 1}`;
    return [element("p", {}, "Choose the frame that best represents the arterial phase of this series."),
      element("div", { class: "dsa-line" }, counter, element("span", { class: "dsa-quiet dsa-mark" }, marked)), slider,
      button("Mark this frame", "Enter", mark === String(viewer.index), markFrame, "dsa-wide dsa-strong"), button("No arterial frame", "N", mark === "none", () => answer("frame", "none", "continue"), "dsa-wide"),
      status(), element("div", { class: "dsa-moves" }, button("Back", "previous series (↑)", null, () => go("previous")), button("Forward", "next series (↓)", null, () => go("next")))];
  }
  // What is closed stays closed, so it is asked for twice.
  function close() {
    if (reply.stage !== "screening" || !reply.of || turning) return;
    if (closing) { turning = true; connection.send({ do: "close" }); }
    closing = !closing;
    paint();
  }
  function end() {
    if (reply.stage === "waiting") return words("", "The images are still being selected. Rating begins on this page by itself as soon as that is done.");
    if (reply.stage === "thanks") return words("", "The screening is closed. Nothing more is asked of you.");
    if (!reply.of) return words("", "No image was kept in the screening, so there is none to rate.");
    const back = button("Look back", "←", null, () => go("here"));
    if (reply.stage === "screening") return [...words("All images are decided", `You keep ${reply.kept} of ${reply.of}. Once the screening is closed, its decisions stand and rating can begin.${closing ? " Close it now?" : ""}`),
      element("div", { class: "dsa-moves" }, back, button(closing ? "Yes, close it for good" : "Close screening", "C", null, close, "dsa-strong")),
      keyList([["C", closing ? "close for good" : "close the screening"], ...(closing ? [["Esc", "not yet"]] : []), ["←", "look back"]]), status()];
    return [...words("Everything is answered", "Thank you. All your answers are saved; you may close this page, or look back and correct."), element("div", { class: "dsa-moves" }, back), keyList([["←", "look back"]])];
  }
  function grade(n, value) { segment = n; answer(SEGMENTS[n][0], value); if (value && n < 2) segment = n + 1; paint(); }
  function markFrame() { stop(); answer("frame", String(viewer.index), "continue"); }
  function stop() { clearInterval(playing); playing = null; }
  function play() { if (playing) return stop(); playing = setInterval(() => { viewer.select((viewer.index + 1) % viewer.frames.length); paint(); }, 250); }
  function turnFrame(by) { stop(); viewer.select(viewer.index + by); paint(); }

  // --- keys
  const view = { i: () => viewer.invert(), "+": () => viewer.zoom(1.25), "=": () => viewer.zoom(1.25), "-": () => viewer.zoom(0.8), 0: () => viewer.reset(), "[": () => viewer.contrast(-16, 0), "]": () => viewer.contrast(16, 0), ",": () => viewer.contrast(0, -8), ".": () => viewer.contrast(0, 8) };
  const shifted = { ArrowLeft: () => viewer.move(40, 0), ArrowRight: () => viewer.move(-40, 0), ArrowUp: () => viewer.move(0, 40), ArrowDown: () => viewer.move(0, -40) };
  const stages = {
    screening: { k: () => answer("kept", "true", "continue"), r: () => answer("kept", "false", "continue"), ArrowLeft: () => go("previous"), ArrowRight: () => go("next"), Enter: () => go("continue") },
    rating: { ...Object.fromEntries(GRADES.map((g) => [g, () => grade(segment, g)])), n: () => grade(segment, "not_present"), a: () => grade(segment, "not_applicable"), Delete: () => grade(segment, ""), Backspace: () => grade(segment, ""),
      x: () => answer("external_circulation", reply.answers.external_circulation ? "" : "true"), t: () => reply.turing && answer("origin", "archive"), g: () => reply.turing && answer("origin", "generated"),
      ArrowUp: () => { segment = Math.max(0, segment - 1); paint(); }, ArrowDown: () => { segment = Math.min(2, segment + 1); paint(); }, ArrowLeft: () => go("previous"), ArrowRight: () => go("next"), Enter: () => go("continue") },
    annotation: { ArrowLeft: () => turnFrame(-1), ArrowRight: () => turnFrame(1), ArrowUp: () => go("previous"), ArrowDown: () => go("next"), " ": play, Enter: markFrame, n: () => answer("frame", "none", "continue") },
  };
  function key(event) {
    // On German keyboards "[" and "]" are typed with AltGr (reported as Ctrl and Alt) or Alt.
    const held = event.metaKey || ((event.ctrlKey || event.altKey) && event.key !== "[" && event.key !== "]");
    if (held || event.target.matches?.("input:not([type=range]), textarea")) return;
    if (event.target.tagName === "BUTTON" && (event.key === "Enter" || event.key === " ")) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    let act = null;
    if (reply.show === "end") act = { ArrowLeft: () => reply.last && go("here"), c: close, Escape: () => { if (closing) { closing = false; paint(); } } }[name];
    else if (reply.show === "image") act = event.shiftKey && shifted[name] ? shifted[name] : stages[reply.stage][name] || view[name];
    if (!act) return;
    event.preventDefault(); event.stopPropagation();
    if (!turning || view[name] === act || shifted[name] === act) act();  // while the next image is on its way, a key belongs to neither
  }
  root.addEventListener("keydown", key);
  const anywhere = (event) => { if (event.target === document.body) key(event); };
  if (!inLab) document.addEventListener("keydown", anywhere);  // in JupyterLab the page listens only when it was clicked

  paint();
  connection.send({ do: "hello", token });
  root.focus({ preventScroll: true });
  return () => {
    stop(); clearInterval(pulse); connection.end();
    document.removeEventListener("keydown", anywhere); document.removeEventListener("visibilitychange", seen); window.removeEventListener("focus", seen);
  };
}

export default { render };
