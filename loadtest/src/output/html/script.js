// Reads out the values of the sample nearest to the pointer. The page is complete without it.
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const { names, rows } = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg");
  const pointer = document.createElement("div"), readout = document.createElement("div");
  pointer.className = "pointer";
  readout.className = "readout";
  const hide = () => { pointer.remove(); readout.remove(); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), frame = figure.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width;
    let nearest = rows[0];
    for (const row of rows) {
      if (Math.abs(row[0] - at) < Math.abs(nearest[0] - at)) nearest = row;
    }
    if (!nearest) return hide();
    const [place, time, values] = nearest;
    const x = box.left - frame.left + place * box.width;
    pointer.style.left = x + "px";
    pointer.style.top = box.top - frame.top + "px";
    const lines = names.map((name, index) => name + ": " + (values[index] === null ? "-" : values[index]));
    readout.textContent = [time + " s", ...lines].join("\n");
    readout.style.top = box.top - frame.top + 24 + "px";
    figure.append(pointer, readout);
    readout.style.left = Math.min(x + 8, frame.width - readout.offsetWidth) + "px";
  });
}
