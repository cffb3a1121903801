// Buttons that copy the code beside them. They are of no use without a script, so a script shows them.

function copied(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text).catch(() => byHand(text));
  return Promise.resolve(byHand(text));
}

// Where the clipboard is not to be had: the text is selected, and the browser's own command copies it.
function byHand(text) {
  const area = element("textarea", text, { "aria-hidden": "true", class: "aside" });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("the browser does not copy");
}

for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const code = button.parentElement.querySelector("code").textContent;
    copied(code).then(() => "Copied", () => "Select it and copy it").then((said) => {
      button.textContent = said;
      setTimeout(() => {
        button.textContent = "Copy";
      }, 2000);
    });
  });
}
