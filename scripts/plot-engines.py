"""Draws what scripts/compare-engines hands over on standard input: a panel for each size and depth."""
import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "ringecho"
matplotlib.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"uring": "#0072b2", "epoll": "#d55e00", "tokio-uring": "#009e73"}
MARKERS = {"uring": "o", "epoll": "s", "tokio-uring": "^"}
TICKS = [0.5, 1, 2, 4, 8]


def main():
    panels = json.load(sys.stdin)
    columns = max(1, (len(panels) + 1) // 2)
    figure, axes = plt.subplots(-(-len(panels) // columns), columns, sharey=True, figsize=(2.6 * columns, 5.6), squeeze=False)
    for axis, (title, engines) in zip(axes.flat, panels.items()):
        axis.axhline(1.0, color="#888888", linewidth=1, linestyle="--")
        for engine, points in engines.items():
            connections, ratios = zip(*points)
            axis.plot(connections, ratios, marker=MARKERS[engine], color=COLOURS[engine], label=engine)
        axis.set(title=title, xscale="log", yscale="log", xlim=(0.6, 17_000))
        axis.set_xticks([1, 100, 10_000], ["1", "100", "10,000"])
        axis.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.set_yticks([], minor=True)
        axis.grid(axis="y", color="#dddddd")
    figure.supxlabel("connections")
    figure.supylabel("CPU per echo, bare TCP = 1 (log scale)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
