// Shows a result group as it fills. Asks often while calls are under way, else calmly.
"use strict";

const flight = ([km, from, to]) => [`${from} – ${to}`, `${km.toLocaleString("en")} km`];

function showGroup(panel) {
  const size = Number(panel.dataset.size);
  const field = (name) => panel.querySelector(`[data-field="${name}"]`);
  const table = document.querySelector(".members");
  poll(panel.dataset.group, (now) => {
    if (now === null) {
      field("why").textContent = "the store of results does not answer";
      return false;
    }
    const filled = now.ended >= size;
    panel.querySelector("progress").value = now.ended;
    field("state").textContent = filled ? "filled" : now.ended ? "filling" : "waiting";
    field("state").className = "badge " + (filled ? "fresh" : now.ended ? "stale" : "");
    field("why").textContent = now.ended ? "" : "nothing has ended yet";
    field("ended").textContent = now.ended;
    field("failed").textContent = now.failed;
    field("seconds").textContent = now.seconds === null ? "" : now.seconds.toFixed(1) + " s";
    field("longest").textContent = now.longest ? flight(now.longest).join(", ") : "";
    for (const tile of document.querySelectorAll("[data-tile]")) tile.className = "";
    for (const member of now.members) {
      const tile = document.querySelector(`[data-tile="${CSS.escape(member.name)}"]`);
      if (tile) tile.className = member.success ? "fresh" : "miss";
    }
    table.hidden = now.members.length === 0;
    table.querySelector("tbody").replaceChildren(...now.members.map(memberRow));
    return !filled;
  });
}

function memberRow(member) {
  const made = element("tr");
  made.append(element("td", member.name));
  if (member.success) {
    const [way, distance] = flight(member.value);
    made.append(element("td", way, "way"), element("td", distance, "number"));
  } else {
    const error = element("td");
    error.colSpan = 2;
    error.append(element("span", "failed", "badge miss"), " " + member.error);
    made.append(error);
  }
  made.append(element("td", member.seconds.toFixed(2) + " s", "number"));
  return made;
}

function showTask(table) {
  const field = (name) => table.querySelector(`[data-field="${name}"]`);
  poll(table.dataset.task, (answer) => {
    if (answer === null) return false;
    const { status, result } = answer.task;
    field("status").textContent = status;
    const found = Object.entries(result ?? {});
    field("result").textContent = found
      .map(([name, number]) => `${number.toLocaleString("en")} ${name}`)
      .join(", ");
    return result === null;
  });
}

document.querySelectorAll("[data-group]").forEach(showGroup);
document.querySelectorAll("[data-task]").forEach(showTask);
