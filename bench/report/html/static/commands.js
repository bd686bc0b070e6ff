  // Commands: copied where the browser allows it, shown and selected where it does not.
  const reveal = (target) => {
    for (let up = target; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
    target.scrollIntoView({ block: "nearest" });
  };
  const copy = async (run) => {
    const code = document.getElementById(`c-${run}`);
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("Command copied");
    } catch {
      reveal(code);
      getSelection().selectAllChildren(code);
      say("Press Ctrl+C or ⌘C to copy");
    }
  };
  const followHash = () => {
    const target = location.hash.startsWith("#r-") && document.getElementById(location.hash.slice(1));
    if (target) reveal(target);
  };
  addEventListener("hashchange", followHash);
  // A click on the link that is already in the address changes nothing there, and must still open its target.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.('a[href^="#r-"]')) setTimeout(followHash);
  });
  const bindCommands = () => {
    for (const part of all("[data-tail]")) {
      if (part.dataset.tail) for (const code of all("code[id]", part)) code.textContent += ` ${part.dataset.tail}`;
    }
    for (const button of all(".copy")) {
      const link = button.parentElement.querySelector("a");
      button.type = "button";
      button.title = "Copy the command that does this again";
      button.setAttribute("aria-label", `Copy the command for ${link.textContent}`);
      button.addEventListener("click", () => copy(link.hash.slice(3)));
    }
  };

