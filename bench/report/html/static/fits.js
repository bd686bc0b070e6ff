  // What fits: candidates come best first, so the first below the limits is the answer.
  const fit = (panel) => {
    const found = data.fits[panel.dataset.section];
    const slider = (name) => panel.querySelector(`[data-fits="${name}"]`);
    const share = (input) => Number(input.value) / Number(input.max);
    const sizes = found.map((candidate) => candidate.bytes);
    const [low, high] = [Math.min(...sizes), Math.max(...sizes)];
    const limit = low * (high / low) ** share(slider("memory"));
    const least = slider("rate") ? share(slider("rate")) * Math.max(...found.map((candidate) => candidate.rate || 0)) : 0;
    const tell = (input, words) => {
      panel.querySelector(`output[for="${input.id}"]`).textContent = words;
      input.setAttribute("aria-valuetext", words);
    };
    tell(slider("memory"), size(limit));
    if (slider("rate")) tell(slider("rate"), least ? `${significant(least)} samples/s` : "any speed");
    // The sliders' ends are some candidates' own figures: rounding must not throw these out.
    const inside = found.filter((candidate) => candidate.bytes <= limit * (1 + 1e-9) && (!least || candidate.rate >= least * (1 - 1e-9)));
    const choice = panel.querySelector(".choice");
    choice.replaceChildren(...(inside.length ? verdict(inside, found) : ["Nothing here fits both limits."]));
  };
  const bold = (words) => { const made = document.createElement("b"); made.textContent = words; return made; };
  const tiedTo = (best) => (other) => other !== best && best.group && [...other.group].some((letter) => best.group.includes(letter));
  const verdict = (inside, found) => {
    const [best] = inside;
    const dot = document.createElement("i");
    dot.className = best.ink;
    const link = document.createElement("a");
    link.href = `#r-${best.run}`;
    link.append(bold(best.label));
    const need = `${size(best.bytes)}${best.rate ? ` and trains at ${significant(best.rate)} samples/s` : ""}`;
    const words = [dot, link, `: ${best.score}. It needs ${need}.`];
    if (best.doubt) words.push(" A check failed: treat the score with caution.");
    const tied = inside.filter(tiedTo(best));
    if (tied.length) words.push(" No significant difference, and within the limits: ", ...listed(tied));
    if (best !== found[0]) words.push(" Without limits the best is ", bold(found[0].label), `, ${found[0].score}, with ${size(found[0].bytes)}.`);
    return words;
  };
  const listed = (candidates) => {
    const shown = candidates.slice(0, 4).map((candidate) => candidate.label);
    const rest = candidates.length - shown.length;
    return [shown.join(", "), rest > 0 ? ` and ${rest} more.` : "."];
  };
  const bindFits = () => {
    for (const panel of all(".fits")) {
      for (const input of all("input", panel)) input.addEventListener("input", () => fit(panel));
      fit(panel);
    }
  };

