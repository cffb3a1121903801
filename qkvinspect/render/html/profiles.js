// How the tie between two rows fades with their distance.

function drawProfile(profile, number) {
  const div = byId(`profile-${number}`);
  const look = base();
  const distances = profile.ties.map(([distance]) => distance);
  const step = distances.length > 1 ? distances[1] - distances[0] : 1;
  const ties = profile.ties.map(([, tie]) => tie);
  const marks = profile.width ? [{
    type: "line", x0: profile.width, x1: profile.width, y0: 0, y1: 1, yref: "paper",
    line: { color: colour("mark"), dash: "dash", width: 1.5 },
  }] : [];
  const notes = profile.width ? [{
    x: profile.width, y: 1, yref: "paper", xanchor: "left", yanchor: "top", showarrow: false,
    text: ` ${profile.width} rows: a head ends`, font: { color: colour("mark") },
  }] : [];
  Plotly.react(div, [{
    type: "bar", x: distances, y: ties, width: step * 0.9, offset: 0, marker: { color: colour("bar") },
    hovertemplate: "%{x} rows apart: %{y:.4g}<extra></extra>",
  }], {
    ...look,
    width: Math.min(div.parentElement.clientWidth || 600, 720),
    height: 240,
    margin: { t: 12, r: 12, b: 46, l: 60 },
    xaxis: { ...look.axis, title: { text: "rows apart" }, showgrid: false, rangemode: "tozero" },
    yaxis: { ...look.axis, title: { text: "tie, nats a pair" }, rangemode: "tozero" },
    shapes: marks,
    annotations: notes,
  }, CONFIG);
}

function drawProfiles() {
  data.profiles.forEach(drawProfile);
}

drawings.push(drawProfiles);
drawProfiles();
