/** Layout settings that follow the reader's colour scheme, as plotly attribute paths. */
function colours(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const set = {
    "font.color": colour("--ink"),
    "paper_bgcolor": colour("--card"),
    "hoverlabel.bgcolor": colour("--card"),
    "hoverlabel.bordercolor": colour("--line"),
    "hoverlabel.font.color": colour("--ink"),
  };
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    set[axis + ".gridcolor"] = colour("--grid");
    set[axis + ".zerolinecolor"] = colour("--quiet");
    set[axis + ".tickcolor"] = colour("--line");
    set[axis + ".tickfont.color"] = colour("--quiet");
  }
  return set;
}
