// Shows the state of reads as it changes. Asks often while a refresh is in flight, else calmly.
"use strict";

const FAST = 300;
const CALM = 1000;

const age = (seconds) => (seconds === null ? "" : seconds.toFixed(1) + " s");
const took = (milliseconds) => milliseconds.toFixed(1) + " ms";

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Calls `show` with what `address` answers, again and again, one question at a time.
function poll(address, show) {
  async function once() {
    let pause = CALM;
    if (!document.hidden) {
      try {
        const answer = await fetch(address, { headers: { Accept: "application/json" } });
        if (answer.ok) pause = show(await answer.json()) ? FAST : CALM;
        else show(null); // the cache does not answer
      } catch (error) {
        pause = 3 * CALM; // the demo was stopped, or is starting again
      }
    }
    setTimeout(once, pause);
  }
  once();
}

function showPanel(panel) {
  const field = (name) => panel.querySelector(`[data-field="${name}"]`);
  let was = panel.dataset.shown;
  poll(panel.dataset.state, (now) => {
    const badge = field("state");
    if (now === null) {
      badge.textContent = "unknown";
      badge.className = "badge";
      field("reason").textContent = "the cache does not answer";
      return false;
    }
    badge.textContent = now.state;
    badge.className = "badge " + now.state;
    field("reason").textContent = now.reason;
    field("age").textContent = age(now.age);
    field("refresh").textContent = now.refresh || "none under way";
    field("refresh").className = now.refresh ? "busy" : "";
    field("error").textContent = now.error || "none";
    const again = panel.querySelector("a.button");
    if (was === "stale" && now.state === "fresh") {
      again.textContent = "Read again: a new value is there";
      again.classList.add("new");
    }
    was = now.state;
    return Boolean(now.refresh);
  });
}

function showLive(table) {
  const body = table.querySelector("tbody");
  const empty = document.querySelector("[data-empty]");
  poll(table.dataset.live, (answer) => {
    if (answer === null) return false;
    empty.hidden = answer.rows.length > 0;
    body.replaceChildren(...answer.rows.map(liveRow));
    return answer.rows.some((row) => row.refresh);
  });
  body.addEventListener("click", (event) => {
    const { address, verb } = event.target.dataset;
    if (address) act(address, verb);
  });
}

function liveRow(row) {
  const made = element("tr");
  const read = element("td", row.title);
  const job = element("div", row.job.split(":")[0].split(".").pop(), "hint");
  job.title = row.job;
  read.append(job);
  const state = element("td");
  state.append(element("span", row.state, "badge " + row.state));
  const reads = element("td");
  for (const past of row.reads.slice(0, 4)) {
    reads.append(element("div", `${past.state} ${took(past.milliseconds)}`, "number"));
  }
  const buttons = element("td");
  const group = element("div", undefined, "actions");
  for (const [verb, label] of [["read", "Read"], ["invalidate", "Invalidate"], ["delete", "Delete"]]) {
    const button = element("button", label);
    button.dataset.address = row.address;
    button.dataset.verb = verb;
    group.append(button);
  }
  buttons.append(group);
  made.append(
    read,
    state,
    element("td", row.reason),
    element("td", age(row.age), "number"),
    element("td", row.refresh, "busy"),
    element("td", row.error),
    reads,
    buttons,
  );
  return made;
}

function act(address, verb) {
  if (verb === "read") {
    fetch(`/read/${address}/`);
    return;
  }
  const token = document.querySelector("[data-token] [name=csrfmiddlewaretoken]").value;
  fetch(`/act/${verb}/${address}/`, {
    method: "POST",
    headers: { Accept: "application/json", "X-CSRFToken": token },
  });
}

document.querySelectorAll("[data-state]").forEach(showPanel);
document.querySelectorAll("[data-live]").forEach(showLive);
