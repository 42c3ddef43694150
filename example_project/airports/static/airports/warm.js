// Shows how old the values are that the clock keeps warm, and the oldest that was ever seen.
"use strict";

function showWarm(place) {
  let oldest = 0;
  let cold = false;
  poll(place.dataset.warm, (answer) => {
    if (answer === null) return false;
    for (const row of answer.rows) {
      const line = place.querySelector(`[data-code="${row.code}"]`);
      const field = (name) => line.querySelector(`[data-field="${name}"]`);
      field("state").textContent = row.state;
      field("state").className = "badge " + row.state;
      field("age").textContent = age(row.age);
      line.querySelector("progress").value = row.age || 0;
      if (row.value) {
        field("weather").textContent = `${row.value.temperature} °C, ${row.value.sky}`;
        field("reading").textContent = row.value.reading;
      }
      oldest = Math.max(oldest, row.age || 0);
      cold = cold || row.state !== "fresh";
    }
    place.querySelector("[data-oldest]").textContent = age(oldest);
    const verdict = place.querySelector("[data-verdict]");
    verdict.textContent = cold ? "was not fresh once" : "always fresh";
    verdict.className = "badge " + (cold ? "stale" : "fresh");
    return true;
  });
}

document.querySelectorAll("[data-warm]").forEach(showWarm);
