// What is wider than the page scrolls within itself, and so the keyboard must reach it.
function reachWhatScrolls() {
  for (const element of document.querySelectorAll("pre, .table-wrapper, article p:has(> img)")) {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
}
addEventListener("load", reachWhatScrolls);
addEventListener("resize", reachWhatScrolls);

// The first thing that Tab reaches skips the navigation; furo has the boxes of its drawers before it.
addEventListener("DOMContentLoaded", () => {
  const skip = document.querySelector(".skip-to-content");
  if (skip) document.body.prepend(skip);
});
