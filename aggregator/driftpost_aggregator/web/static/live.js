// Keeps a page fresh without reloading it, and draws its charts.
//
// The server tells over Server-Sent Events which topics changed. The page then fetches itself and takes over those
// regions (data-live) whose HTML differs. Where events do not get through, it asks again every few seconds instead.
"use strict";

(() => {
  // Two refreshes are at least this far apart, milliseconds; more if the server took long for the last one.
  const CALM_MS = 2000;
  const SLOWDOWN = 8;
  // Without a sign of life for this long the stream counts as lost; the server sends one every 15 s.
  const SILENCE_MS = 40000;
  const POLL_MS = 10000;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const indicator = document.querySelector(".live");

  let source = null;
  let lastSign = 0;
  let busy = false;
  let dirty = false;
  let nextAllowed = 0;
  let timer = 0;

  const say = (state, words) => {
    if (!indicator || indicator.dataset.state === state) return;
    indicator.dataset.state = state;
    indicator.querySelector("span").textContent = words;
  };

  // -- relative times ----------------------------------------------------------------------------------------------

  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const inWords = (seconds) => {
    for (let i = 0; i < UNITS.length; i++) {
      const [size, unit] = UNITS[i];
      if (seconds >= size) {
        const count = Math.floor(seconds / size);
        const next = UNITS[i + 1];
        const rest = next ? Math.floor((seconds - count * size) / next[0]) : 0;
        return count < 10 && rest > 0 ? `${count} ${unit} ${rest} ${next[1]}` : `${count} ${unit}`;
      }
    }
    return "";
  };
  // The two clocks may differ: what counts is the server's time when it made the page.
  let skew = 0;
  const readClock = (root) => {
    const stamp = root.querySelector("meta[name=now]");
    if (stamp) skew = Number(stamp.content) - Date.now();
  };
  const tick = () => {
    const now = Date.now() + skew;
    for (const element of document.querySelectorAll("time[data-ms]")) {
      const seconds = (now - Number(element.dataset.ms)) / 1000;
      const words = inWords(Math.abs(seconds));
      const text = !words ? "now" : seconds > 0 ? `${words} ago` : `in ${words}`;
      if (element.textContent !== text) element.textContent = text;
    }
  };

  // -- charts ------------------------------------------------------------------------------------------------------

  // plotly.js is large: only pages with charts load it, and nothing else waits for it.
  let plotly = null;
  const loadPlotly = () => {
    plotly = plotly || new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = document.body.dataset.plotly;
      script.addEventListener("load", resolve);
      script.addEventListener("error", () => {
        plotly = null;
        reject(new Error("plotly.js did not load"));
      });
      document.head.append(script);
    });
    return plotly;
  };

  const visible = new Set();
  const room = (element) => (element.clientWidth < 560 ? "narrow" : element.clientWidth < 980 ? "medium" : "wide");

  const draw = async (element) => {
    const address = new URL(element.dataset.chart, location.href);
    address.searchParams.set("theme", dark.matches ? "dark" : "light");
    address.searchParams.set("width", room(element));
    const wanted = address.href;
    element.dataset.wanted = wanted;
    try {
      const answer = await fetch(wanted, { cache: "no-cache", credentials: "same-origin" });
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      const tag = `${wanted} ${answer.headers.get("etag")}`;
      if (element.dataset.wanted !== wanted || element.dataset.drawn === tag) return;
      const figure = await answer.json();
      await loadPlotly();
      element.style.height = `${figure.layout.height}px`;
      await Plotly.react(element, figure.data, figure.layout, { displayModeBar: false, responsive: true, scrollZoom: false });
      element.dataset.drawn = tag;
      delete element.dataset.failed;
      follow(element, figure.layout.meta && figure.layout.meta.links);
    } catch (error) {
      if (!element.dataset.drawn) element.dataset.failed = `This chart could not be loaded: ${error.message}.`;
    }
  };

  // A click on a row of a heat map, or on one of several small charts, leads to its page.
  const follow = (element, links) => {
    element.links = links || [];
    if (element.following || !element.links.length) return;
    element.following = true;
    element.on("plotly_click", (event) => {
      const point = event.points[0];
      const row = Array.isArray(point.pointNumber) ? point.pointNumber[0] : point.curveNumber;
      const link = element.links[row];
      if (typeof link === "string" && /^\/(?!\/)/.test(link)) location.assign(link);
    });
  };

  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) visible.delete(target);
      else if (!visible.has(target)) {
        visible.add(target);
        draw(target);
      }
    }
  }, { rootMargin: "200px" });

  const adopt = (root) => {
    for (const element of root.querySelectorAll("[data-chart]")) watch.observe(element);
  };
  const redraw = () => {
    for (const element of visible) {
      if (element.isConnected) draw(element);
      else visible.delete(element);
    }
  };

  // -- refreshing --------------------------------------------------------------------------------------------------

  const inUse = (region) => {
    const focused = document.activeElement;
    return region.contains(focused) && focused.matches("input, textarea, select");
  };
  const openDetails = (region) => [...region.querySelectorAll("details")].map((element) => element.open);

  const takeOver = (fresh) => {
    for (const region of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(region.id);
      if (!other || inUse(region)) continue;
      const html = other.innerHTML;
      if (region.seen === html) continue;
      region.seen = html;
      const open = openDetails(region);
      region.replaceChildren(...other.childNodes);
      region.querySelectorAll("details").forEach((element, i) => { element.open = Boolean(open[i]); });
      adopt(region);
    }
  };

  const refresh = async () => {
    clearTimeout(timer);
    timer = 0;
    if (busy || document.hidden) { dirty = true; return; }
    busy = true;
    dirty = false;
    const began = performance.now();
    try {
      const answer = await fetch(location.href, { cache: "no-store", credentials: "same-origin" });
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        readClock(fresh);
        takeOver(fresh);
        redraw();
        tick();
        if (!source) say("polling", "refreshing every few seconds");
      }
    } catch {
      say("lost", "connection lost, trying again");
    }
    const took = performance.now() - began;
    nextAllowed = Date.now() + Math.max(CALM_MS, took * SLOWDOWN);
    busy = false;
    if (dirty) soon();
  };

  const soon = () => {
    dirty = true;
    if (!timer) timer = setTimeout(refresh, Math.max(0, nextAllowed - Date.now()));
  };

  const topics = (document.body.dataset.topics || "").split(" ").filter(Boolean);

  const sign = () => { lastSign = Date.now(); };
  const listen = () => {
    if (source || document.hidden || !topics.length || !window.EventSource) return;
    source = new EventSource("/live");
    sign();
    source.addEventListener("hello", () => { sign(); say("live", "live"); });
    source.addEventListener("change", (event) => {
      sign();
      const changed = JSON.parse(event.data).topics;
      if (changed.some((topic) => topics.includes(topic))) soon();
    });
    source.addEventListener("alive", sign);
    source.addEventListener("error", () => {
      // The browser tries again by itself unless the server refused for good.
      if (source && source.readyState === EventSource.CLOSED) mute();
      say("lost", "connection lost, trying again");
    });
  };
  const mute = () => {
    if (source) source.close();
    source = null;
  };

  if (topics.length) {
    setInterval(() => {
      if (document.hidden) return;
      if (source && Date.now() - lastSign > SILENCE_MS) mute();
      if (!source) { soon(); listen(); }
    }, POLL_MS);
    // Browsers allow few connections to one server: a hidden page gives its own back.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) mute();
      else { listen(); soon(); }
    });
    addEventListener("pagehide", mute);
    listen();
  }

  // -- forms -------------------------------------------------------------------------------------------------------

  // The name a person signs notes with is asked for once.
  for (const input of document.querySelectorAll("input[data-remember]")) {
    const key = `driftpost.${input.dataset.remember}`;
    if (!input.value) input.value = localStorage.getItem(key) || "";
    input.addEventListener("change", () => localStorage.setItem(key, input.value));
  }
  // Filters apply as soon as they are chosen.
  for (const input of document.querySelectorAll("form.filters select")) {
    input.addEventListener("change", () => input.form.requestSubmit());
  }
  // Empty fields would clutter the address.
  for (const form of document.querySelectorAll("form.filters")) {
    form.addEventListener("formdata", (event) => {
      const given = [...event.formData.entries()];
      // Several menus share a name, so all go and those with a value come back.
      for (const [name] of given) event.formData.delete(name);
      for (const [name, value] of given) if (value !== "") event.formData.append(name, value);
    });
  }

  // What the server sent, before anything below changes it.
  for (const region of document.querySelectorAll("[data-live]")) region.seen = region.innerHTML;
  readClock(document);
  tick();
  adopt(document);
  dark.addEventListener("change", redraw);
  setInterval(tick, 1000);
})();
